"""`depthprune evaluate --tasks` gives what lm-eval's own command line gives on the same folder."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from runs import recipe, rows, write_jsonl

import depthprune
from depthprune import run

ENGINES = Path(os.environ.get("DEPTHPRUNE_ENGINES", "no-engines")).resolve()
PYTHON = ENGINES / "lm-eval" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="make test-engines installs the engines")

PICK = """
task: pick
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}, train: {shots}}}}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: "{{{{choices.index(completion)}}}}"
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
WRITE = """
task: write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: completion
num_fewshot: 0
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6}}
metric_list:
  - {{metric: chrf, aggregation: chrf, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
BOTH = """
group: both
task: [pick, write]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""
BROKEN = {
    "no_file": "dataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\ntest_split: test\n",
    "on_the_hub": "dataset_path: no-one/nothing\ntest_split: test\n",
}


@pytest.fixture
def tasks(tmp_path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    files = {
        "rows": write_jsonl(tmp_path / "lm-rows.jsonl", rows(40, seed=5)),
        "shots": write_jsonl(tmp_path / "lm-shots.jsonl", rows(20, seed=6)),
    }
    (folder / "pick.yaml").write_text(PICK.format(**files))
    (folder / "write.yaml").write_text(WRITE.format(**files))
    (folder / "both.yaml").write_text(BOTH)
    for name, data in BROKEN.items():
        common = (
            "output_type: multiple_choice\ndoc_to_text: prompt\ndoc_to_choice: choices\ndoc_to_target: 0\n"
        )
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{data}{common}")
    return folder


def called(tmp_path: Path, *command: str | Path) -> subprocess.CompletedProcess:
    """In lm-eval's venv, with the packages under test, and caches that go with the test."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(depthprune.__file__).parents[1]),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [PYTHON, "-m", *command], capture_output=True, text=True, env=environment, cwd=tmp_path
    )


def figures_of(raw: dict) -> dict:
    return {task: {key: value for key, value in found.items() if "," in key} for task, found in raw.items()}


@pytest.mark.parametrize("options", [["--limit=24"], ["--num-fewshot=2", "arithmetic=float32"]])
def test_figures_are_those_of_lm_evals_command_line(tmp_path, tasks, options):
    folder = run(
        recipe(tmp_path, "reverse", **{"selection.ratio": 0.3, "dtype": "bfloat16"}), tmp_path / "out"
    )
    asked = ["evaluate", "--model=out", "--tasks=pick,write", f"--include-path={tasks}", *options, "--json"]
    ours = called(tmp_path, "depthprune", *asked)
    assert ours.returncode == 0, ours.stderr
    found = json.loads(ours.stdout)
    row = found["rows"]["out"]

    program, *arguments = shlex.split(row["harness"]["command"])
    assert program == "lm-eval"
    theirs = called(tmp_path, "lm_eval", *arguments, "--output_path", "theirs")
    assert theirs.returncode == 0, theirs.stderr[-2000:]
    (written,) = (tmp_path / "theirs").rglob("results_*.json")
    result = json.loads(written.read_text())

    assert figures_of(row["raw"]["results"]) == figures_of(result["results"])
    assert {task for task, values in figures_of(result["results"]).items() if values} == {"pick", "write"}
    for key in ("versions", "n-shot", "n-samples", "max_length", "tokenizer_bos_token"):
        assert row["raw"][key] == result[key], key
    for one in row["tasks"]:
        assert one["value"] == result["results"][one["dataset"]][f"{one['metric']},{one['filter']}"]
    (kept,) = (folder / "depthprune" / "lm-eval").iterdir()
    assert json.loads(kept.read_text())["rows"] == found["rows"]


def test_what_cannot_be_run_is_one_line(tmp_path, tasks):
    recipe(tmp_path)  # makes the model
    before = set(tmp_path.rglob("*"))
    for name in BROKEN:
        asked = ["evaluate", "--model=model", f"--tasks={name}", f"--include-path={tasks}"]
        done = called(tmp_path, "depthprune", *asked)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        said = done.stderr.splitlines()
        assert said[-1].startswith(f"error: lm-eval: it cannot run {name}: "), said
        assert len([line for line in said if line.strip()]) == 2, said  # what is run, and why not
    after = {path for path in tmp_path.rglob("*") if "hf" not in path.relative_to(tmp_path).parts}
    assert after == before
