"""llama.cpp through xllamacpp: greedy tokens and their log-likelihoods, in float32, without flash attention.

Folders hold `model.gguf`.
"""

from importlib.metadata import version
from typing import Any

import xllamacpp
from request import answer


def run(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    settings = xllamacpp.CommonParams()
    settings.model.path = f"{folder}/model.gguf"
    settings.n_ctx, settings.n_parallel, settings.warmup, settings.n_threads_http = 512, 1, False, 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(settings)
    asked = {"max_tokens": request["new_tokens"], "temperature": 0, "cache_prompt": False, "logprobs": 1}
    written = [
        server.handle_completions({**asked, "prompt": prompt})["choices"][0]["logprobs"]["content"]
        for prompt in request["prompts"]
    ]
    return {
        "tokens": [[token["id"] for token in one] for one in written],
        "logprobs": [[token["logprob"] for token in one] for one in written],
    }


answer(f"xllamacpp {version('xllamacpp')}", run)
