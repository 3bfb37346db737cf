import json
from importlib.util import find_spec

import pytest
from runs import model_folder

from depthprune.errors import UserError
from depthprune.evaluation.harness import Tasks, figures, parse_tasks
from depthprune.files import read_json
from depthprune.pipeline.tasks import command, keep
from depthprune.recipe.load import load_recipe

# As lm-eval 0.4.13 writes it: a task, a task with a filter and an unknown error, a group of both.
RAW = {
    "results": {
        "pick": {
            "name": "pick", "alias": "pick", "sample_len": 50,
            "acc,none": 0.28, "acc_stderr,none": 0.0641, "acc_norm,none": 0.3, "acc_norm_stderr,none": 0.065,
        },
        "write": {"alias": "write", "sample_len": 8, "exact_match,strict": 0.5,
                  "exact_match_stderr,strict": "N/A"},
        "both": {"alias": "both", "sample_len": 58, "acc,none": 0.31, "acc_stderr,none": 0.06},
    },
    "versions": {"pick": 1.0, "write": 3, "both": "N/A"},
    "n-shot": {"pick": 0, "write": 5},
    "higher_is_better": {"pick": {"acc": True, "acc_norm": True}, "write": {"exact_match": True}},
    "n-samples": {"pick": {"original": 2376, "effective": 50}, "write": {"original": 8, "effective": 8}},
}  # fmt: skip


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_the_extra_is_named():
    with pytest.raises(UserError, match=r"not installed: pip install depthprune\[eval\]$"):
        parse_tasks("arc_easy", None, None)


@pytest.mark.parametrize(
    "names, folder, shots, said",
    [
        (None, None, 5, "--num-fewshot is for lm-eval's tasks"),
        (None, "here", None, "--include-path is for lm-eval's tasks"),
        (" , ", None, None, "--tasks names no task"),
        ("arc_easy", None, -1, "num_fewshot is -1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(names, folder, shots, said):
    with pytest.raises(UserError, match=said):
        parse_tasks(names, folder, shots)


def test_no_tasks_are_none():
    assert parse_tasks(None, None, None) is None


def test_figures_are_lm_evals_own():
    found = {(one["dataset"], one["metric"], one["filter"]): one for one in figures(RAW)}
    assert set(found) == {
        ("pick", "acc", "none"),
        ("pick", "acc_norm", "none"),
        ("write", "exact_match", "strict"),
        ("both", "acc", "none"),
    }
    pick = found["pick", "acc", "none"]
    assert (pick["value"], pick["stderr"], pick["n"], pick["of"]) == (0.28, 0.0641, 50, 2376)
    assert (pick["version"], pick["num_fewshot"], pick["higher_is_better"]) == (1.0, 0, True)
    written = found["write", "exact_match", "strict"]
    assert (written["stderr"], written["num_fewshot"], "of" in written) == (None, 5, False)
    both = found["both", "acc", "none"]
    assert (both["n"], both["num_fewshot"], both["higher_is_better"]) == (58, None, None)


def test_the_command_says_what_was_asked(tmp_path):
    asked = Tasks(tasks=("pick", "mmlu_*"), include_path=tmp_path, num_fewshot=2)
    recipe = load_recipe("finetune", model="out/a b", **{"training.method": "none", "arithmetic": "float32"})
    options = {"num_fewshot": 2, "batch_size": 1, "limit": None}
    assert command(recipe, asked, options, "cpu") == (
        "lm-eval run --model hf --model_args 'pretrained=out/a b,dtype=float32' --device cpu "
        f"--tasks 'pick,mmlu_*' --include_path {tmp_path} --num_fewshot 2 --batch_size 1"
    )


def test_a_run_folder_keeps_the_result_and_another_folder_none(tmp_path):
    model = model_folder(tmp_path / "model")
    before = set(model.rglob("*"))
    assert keep(str(model), {"rows": {}}) is None
    assert set(model.rglob("*")) == before
    (model / "depthprune").mkdir()
    (model / "depthprune" / "stages.json").write_text("{}")
    (model / "depthprune" / "published.json").write_text(json.dumps({"stage": "prune", "digest": "d"}))
    paths = [keep(str(model), {"rows": {"model": {"parameters": number}}}) for number in range(2)]
    assert [read_json(path)["rows"]["model"]["parameters"] for path in paths] == [0, 1]
    assert read_json(paths[0])["published"] == {"stage": "prune", "digest": "d"}


def test_what_cannot_be_kept_is_said(tmp_path, caplog):
    (tmp_path / "depthprune").mkdir()
    (tmp_path / "depthprune" / "stages.json").write_text("{}")
    (tmp_path / "depthprune" / "lm-eval").write_text("a file where the folder should be")
    with caplog.at_level("WARNING", logger="depthprune"):
        assert keep(str(tmp_path), {"rows": {}}) is None
    assert "not kept in the run folder" in caplog.text
