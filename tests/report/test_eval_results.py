"""The hub's form of lm-eval's results."""

import json

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from depthprune.report.eval_results import OURS, write_eval_results

PUBLISHED = {"stage": "train", "digest": "d"}


def config(dataset, part=None, metric="acc"):
    return {"dataset_path": dataset, "dataset_name": part, "metric_list": [{"metric": metric}]}


# As lm-eval 0.4.13 writes it: two parts of a dataset, one with a filter, a local task, a part of the rows.
RAW = {
    "date": 1764158400.0,
    "results": {
        "gpqa_diamond_zeroshot": {"acc,none": 0.31, "acc_stderr,none": 0.03296, "acc_norm,none": 0.5},
        "gpqa_main_n_shot": {"acc,none": 0.25, "acc_stderr,none": "N/A"},
        "gsm8k": {"exact_match,strict-match": 0.2, "exact_match,flexible-extract": 0.4},
        "mine": {"acc,none": 0.9},
        "arc_easy": {"acc,none": 0.7},
        "group": {"acc,none": 0.3},
    },
    "configs": {
        "gpqa_diamond_zeroshot": config("Idavidrein/gpqa", "gpqa_diamond"),
        "gpqa_main_n_shot": config("Idavidrein/gpqa", "gpqa_main"),
        "gsm8k": config("openai/gsm8k", "main", "exact_match"),
        "mine": config("json"),
        "arc_easy": config("allenai/ai2_arc", "ARC-Easy"),
    },
    "versions": {"gpqa_diamond_zeroshot": 1.0, "gpqa_main_n_shot": 2.0, "gsm8k": 3.0},
    "n-shot": {"gpqa_diamond_zeroshot": 0, "gpqa_main_n_shot": 5, "gsm8k": 5},
    "n-samples": {"arc_easy": {"original": 2376, "effective": 50}},
}


def kept(root, name, raw=RAW, published=PUBLISHED):
    """A result as `evaluate --tasks` keeps it."""
    path = root / "depthprune/lm-eval" / f"results_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"raw": raw, "harness": {"lm_eval": "0.4.13"}, "tasks": []}
    path.write_text(json.dumps({"rows": {"out": row}, "published": published}))
    (root / "depthprune/published.json").write_text(json.dumps({**PUBLISHED, "files": {}}))


def entries(root, name):
    return parse_eval_result_entries(yaml.safe_load((root / ".eval_results" / name).read_text()))


def test_a_file_a_dataset_and_an_entry_a_task_as_the_hub_s_own_library_reads_them(tmp_path):
    kept(tmp_path, "1")
    write_eval_results(tmp_path)
    assert {path.name for path in (tmp_path / ".eval_results").iterdir()} == {
        "Idavidrein--gpqa.yaml",
        "openai--gsm8k.yaml",
    }
    one, other = entries(tmp_path, "Idavidrein--gpqa.yaml")
    assert (one.dataset_id, one.task_id, one.value) == ("Idavidrein/gpqa", "gpqa_diamond", 0.31)
    assert one.notes == (
        "acc, 0-shot, standard error 0.0330, lm-eval 0.4.13 task gpqa_diamond_zeroshot version 1.0"
    )
    assert one.date == "2025-11-26T12:00:00Z"
    assert (other.task_id, other.value) == ("gpqa_main", 0.25) and "standard error" not in other.notes
    (third,) = entries(tmp_path, "openai--gsm8k.yaml")
    assert (third.task_id, third.value) == ("gsm8k", 0.2)
    assert third.notes.startswith("exact_match after strict-match, 5-shot")


def test_the_newest_result_counts_and_only_of_the_model_that_is_there(tmp_path):
    kept(tmp_path, "1")
    newer = {**RAW, "results": {"gsm8k": {"exact_match,strict-match": 0.3}}}
    kept(tmp_path, "2", newer)
    kept(tmp_path, "3", {**RAW, "results": {"gsm8k": {"exact_match,strict-match": 0.9}}}, {"stage": "prune"})
    (tmp_path / "depthprune/lm-eval/results_4.json").write_text("{")
    write_eval_results(tmp_path)
    (one,) = entries(tmp_path, "openai--gsm8k.yaml")
    assert one.value == 0.3 and len(entries(tmp_path, "Idavidrein--gpqa.yaml")) == 2


@pytest.mark.parametrize("others", [True, False])
def test_results_of_a_model_that_is_gone_go_and_files_of_others_stay(tmp_path, others):
    kept(tmp_path, "1")
    write_eval_results(tmp_path)
    if others:
        (tmp_path / ".eval_results/mine.yaml").write_text("- value: 1\n")
    (tmp_path / "depthprune/published.json").write_text(json.dumps({"stage": "train", "digest": "new"}))
    write_eval_results(tmp_path)
    left = [path.name for path in tmp_path.glob(".eval_results/*")]
    assert left == (["mine.yaml"] if others else []) and (tmp_path / ".eval_results").exists() == others
    assert OURS.startswith("#")
