"""llama.cpp's converter on a model folder, in float32: `to_gguf.py LLAMA_CPP FOLDER FILE`.

The converter knows tokenizers by a hash; the lab's is not among them, and is cut up like GPT-2's.
"""

import sys

llama_cpp, folder, output = sys.argv[1:]
sys.path[:0] = [llama_cpp, f"{llama_cpp}/gguf-py"]

from conversion.base import TextModel  # noqa: E402

TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
import convert_hf_to_gguf  # noqa: E402

sys.argv = ["convert", folder, "--outfile", output, "--outtype", "f32"]
convert_hf_to_gguf.main()
