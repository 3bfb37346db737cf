"""From a file to tokens: a hundred thousand short rows, and one row of 50 MB, beside a loop over rows.

    python benchmarks/tokenisation.py --model ../shared/lab/model --text ../shared/lab/text/wikipedia.jsonl

The loop does what is done without batches: each row's prompt, then prompt and completion, or the whole
document, through the tokenizer by itself, and the same windows. Both sides give the same rows, which is
checked.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from depthprune.data.examples import Examples, load_examples
from depthprune.data.tokens import encode, opening, windows
from depthprune.model.loading import load_tokenizer

LENGTH = 512


def short_rows(words: list[str], count: int) -> list[dict[str, str]]:
    """Prompts of 20 words and completions of 10."""
    draw = random.Random(0)
    starts = [draw.randrange(len(words) - 30) for _ in range(count)]
    return [
        {"prompt": " ".join(words[at : at + 20]), "completion": " " + " ".join(words[at + 20 : at + 30])}
        for at in starts
    ]


def naive(examples: Examples, tokenizer: Any) -> list[list[int]]:
    """The tokens of each row of `encode`, one call of the tokenizer a text."""
    bos, eos = opening(tokenizer), tokenizer.eos_token_id
    found = []
    for row in examples.rows:
        if examples.kind == "text":
            ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
            found += [cut for cut in windows([*ids, eos], LENGTH, bos) if len(cut) > 1]
        else:
            prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
            whole = tokenizer(row["prompt"] + row["completion"], add_special_tokens=False)["input_ids"]
            if whole[: len(prompt)] != prompt:
                whole = prompt + tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
            found.append([*bos, *whole, eos][:LENGTH])
    return found


def timed(work: Any) -> tuple[Any, float, float]:
    """What `work` gives, and the wall and processor seconds it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    return work(), time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, rows: list[dict[str, str]], tokenizer: Any) -> None:
    """Prints a line of the table for each side."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        examples, read_wall, read_cpu = timed(lambda: load_examples(path))
    ours, wall, cpu = timed(lambda: encode(examples, tokenizer, LENGTH))
    loop, naive_wall, naive_cpu = timed(lambda: naive(examples, tokenizer))
    assert ours["input_ids"][:] == loop, "the two sides differ"
    print(f"| {name} | reading | {read_wall:.1f} s | {read_cpu:.1f} s |")
    print(f"| | a loop over rows | {naive_wall:.1f} s | {naive_cpu:.1f} s |")
    print(f"| | `encode` | {wall:.1f} s | {cpu:.1f} s |")
    print(f"| | ratio | {naive_wall / wall:.2f}× | {naive_cpu / cpu:.2f}× |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="../shared/lab/model")
    parser.add_argument("--text", default="../shared/lab/text/wikipedia.jsonl")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--megabytes", type=float, default=50)
    asked = parser.parse_args()
    tokenizer = load_tokenizer(asked.model)
    text = "\n".join(load_examples(asked.text).rows["text"][:])
    print("| | | wall | processor |\n|---|---|---|---|")
    measure(f"{asked.rows} short rows", short_rows(text.split(), asked.rows), tokenizer)
    size = int(asked.megabytes * 1e6)
    long = [{"text": (text * (size // len(text) + 1))[:size]}]
    measure(f"one row of {asked.megabytes:g} MB", long, tokenizer)


if __name__ == "__main__":
    main()
