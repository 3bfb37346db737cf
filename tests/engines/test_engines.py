"""Other engines compute from what depthprune writes what transformers 5 computes in memory.

Run by `make test-engines`, which installs each engine in a venv of its own under the folder that
DEPTHPRUNE_ENGINES names.
"""

import json
import os
import subprocess
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from bases import LAB, NEWEST, Result, results
from runs import rows, write_jsonl
from transformers import AutoTokenizer

from depthprune.data.examples import load_examples
from depthprune.evaluation.choices import choice_accuracy, choice_scores
from depthprune.model.loading import load_model, load_tokenizer

ENGINES = Path(os.environ.get("DEPTHPRUNE_ENGINES", "no-engines")).resolve()
pytestmark = pytest.mark.skipif(not ENGINES.is_dir(), reason="make test-engines installs the engines")
HERE = Path(__file__).parent
TEXTS = [
    "The city of Rome was founded on the banks of a river, and for many years",
    "In the year 1969 two men walked on the surface of the moon while a third",
    "When the company reported its earnings for the second quarter, the shares",
    "She opened the door, looked at the small garden behind the house and said",
]
NEW_TOKENS = 24
# What engines cannot load or misread, whatever wrote it; said in docs/engines.md.
KNOWN = {
    "mlx-lm": ("Gemma 3, period broken",),
    "mistralrs": ("Gemma 3, period kept", "Gemma 3, flattened", "Gemma 3, period broken"),
    "xllamacpp": ("Gemma 3, period broken",),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Result]:
    return results(tmp_path_factory.mktemp("engines"))


def call(engine: str, *command: str | Path, **environment: str) -> str:
    """Runs a script of this folder with the python of an engine's venv."""
    python = ENGINES / engine / "bin" / "python"
    done = subprocess.run(
        [python, HERE / command[0], *command[1:]],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def ask(engine: str, script: str, made: dict[str, Result], folders: dict[str, Path], tmp_path: Path) -> Any:
    """The engine's answer, with its results by the names in `made`."""
    tokenizers = {name: AutoTokenizer.from_pretrained(result.folder) for name, result in made.items()}
    answers: dict[str, Any] = {}
    for vocabulary in sorted({len(tokenizer) for tokenizer in tokenizers.values()}):
        names = [name for name, tokenizer in tokenizers.items() if len(tokenizer) == vocabulary]
        prompts = tokenizers[names[0]](TEXTS).input_ids
        asked = {"folders": [str(folders[name]) for name in names], "prompts": prompts, "texts": TEXTS,
                 "new_tokens": NEW_TOKENS}  # fmt: skip
        (tmp_path / "request.json").write_text(json.dumps(asked))
        call(engine, script, tmp_path / "request.json", tmp_path / "answer.json", MISTRALRS_CPU_KV_F32="1")
        found = json.loads((tmp_path / "answer.json").read_text())
        answers |= {
            name: {**found["results"][str(folders[name])], "version": found["version"]} for name in names
        }
    return answers


@torch.inference_mode()
def expected(result: Result) -> tuple[list[list[int]], list[str], torch.Tensor, list[torch.Tensor]]:
    """Greedy tokens (up to the end token) and texts, the logits [prompts, V] of each prompt's end, and the
    tokens' log-likelihoods."""
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    tokens, logits, logprobs = [], [], []
    for prompt in tokenizer(TEXTS).input_ids:
        ids = list(prompt)
        while len(ids) < len(prompt) + NEW_TOKENS and ids[-1] != tokenizer.eos_token_id:
            # Without a cache: independent of how an engine keeps one.
            ids.append(int(result.meant(torch.tensor([ids])).logits[0, -1].argmax()))
        found = result.meant(torch.tensor([ids])).logits[0]
        written = ids[len(prompt) :]
        tokens.append(written)
        logits.append(found[len(prompt) - 1])
        chosen = found[len(prompt) - 1 : -1].log_softmax(-1)
        logprobs.append(chosen[range(len(written)), written])
    # A random model writes halves of letters, which servers leave out: compared up to the first of them.
    tokens = [list(takewhile(lambda token: tokenizer.decode([token]).isascii(), ids)) for ids in tokens]
    texts = [tokenizer.decode(written, skip_special_tokens=True) for written in tokens]
    return tokens, texts, torch.stack(logits), logprobs


def compare(answer: dict[str, Any], result: Result) -> tuple[int, float | None]:
    """The number of equal greedy texts, and how far logits or log-likelihoods are off at most."""
    tokens, texts, logits, logprobs = expected(result)
    if "texts" in answer:
        return sum(map(str.startswith, answer["texts"], texts)), None
    # Some engines stop at the end token, with or without it; others go on.
    equal = sum(
        given[: len(meant)] == meant or given == meant[:-1]
        for given, meant in zip(answer["tokens"], tokens, strict=True)
    )
    if "logits" in answer:
        return equal, float((torch.tensor(answer["logits"]) - logits).abs().max())
    apart = [0.0]
    for given, meant, written in zip(answer["logprobs"], logprobs, tokens, strict=True):
        both = min(len(given), len(written))
        apart += (torch.tensor(given[:both]) - meant[:both]).abs().tolist()
    return equal, max(apart)


@pytest.mark.parametrize(
    "engine, script",
    [("transformers4", "run_transformers.py"), ("mlx-lm", "run_mlx.py"), ("mistralrs", "run_mistralrs.py")],
)
def test_engines_that_read_the_folder(engine, script, made, tmp_path, capsys):
    folders = {name: result.folder for name, result in made.items()}
    check(engine, made, ask(engine, script, made, folders, tmp_path), capsys)


def test_llama_cpp_after_its_converter(made, tmp_path, capsys):
    folders = {}
    for number, (name, result) in enumerate(made.items()):
        folders[name] = tmp_path / str(number)
        folders[name].mkdir()
        call("xllamacpp", "to_gguf.py", ENGINES / "llama.cpp", result.folder, folders[name] / "model.gguf")
    check("xllamacpp", made, ask("xllamacpp", "run_llamacpp.py", made, folders, tmp_path), capsys)


def check(engine: str, made: dict[str, Result], answers: dict[str, Any], capsys) -> None:
    """Prints what every result came to, and fails where a text or a logit is another."""
    wrong = []
    for name, result in made.items():
        answer = answers[name]
        if "refused" in answer:
            line, right = f"refused: {answer['refused'][:90]}", False
        else:
            equal, apart = compare(answer, result)
            off = "" if apart is None else f", off by at most {apart:.1e}"
            line = f"{equal} of {len(TEXTS)} greedy texts equal{off}"
            right = equal == len(TEXTS) and (apart or 0) < 1e-2
        with capsys.disabled():
            print(f"\n{answer['version']:24} {name:26} {line}", end="")
        if right is (name in KNOWN.get(engine, ())):
            wrong.append(f"{name}: {line}")
        if "tokenizer" in answer:
            tokenizer = AutoTokenizer.from_pretrained(result.folder)
            assert name == NEWEST or answer["tokenizer"] == tokenizer(TEXTS).input_ids
    assert not wrong


def test_lm_eval_picks_what_evaluate_picks(made, tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    source = LAB / "data" / "piqa" / "test.jsonl"
    if source.is_file():
        data.write_text("".join(source.open().readlines()[:200]))
    else:
        write_jsonl(data, rows(200, seed=3))
    folder = made["pruned"].folder
    call("lm-eval", "run_lm_eval.py", folder, data, tmp_path / "answer.json")
    theirs = json.loads((tmp_path / "answer.json").read_text())

    examples, model, tokenizer = (
        load_examples(str(data)),
        load_model(folder, "float32"),
        load_tokenizer(folder),
    )
    ours = choice_scores(model, tokenizer, examples, batch_size=16, length=512)
    characters = [[len(choice) for choice in choices] for choices in examples.rows["choices"]]
    per_character = [
        [score / length for score, length in zip(*row, strict=True)]
        for row in zip(theirs["loglikelihoods"], characters, strict=True)
    ]
    picks = [[row.index(max(row)) for row in scores] for scores in (ours, per_character)]
    equal = sum(map(int.__eq__, *picks))
    accuracy = choice_accuracy(model, tokenizer, examples, 16, 512).value
    there = theirs["accuracy"]
    line = f"{equal} of {len(picks[0])} picks equal, accuracy {accuracy:.4f} here, {there:.4f} there"
    with capsys.disabled():
        print(f"\n{theirs['version']:24} {line}", end="")
    assert equal == len(picks[0]) == 200
    assert accuracy == pytest.approx(theirs["accuracy"], abs=1e-9)
