"""What the report says of rounds and repairs."""

import re
from pathlib import Path

from sample_run import sample_plan, sample_repair, sample_rounds, sample_run, sample_scores

from depthprune.pipeline.folder import RunFolder
from depthprune.report import write_report


def repaired_run(tmp_path: Path) -> RunFolder:
    scores = sample_scores(8)
    plan = sample_plan(scores["scores"], 2)
    scores["rounds"] = sample_rounds(scores, list(plan.removed))
    folder = sample_run(tmp_path, 8, scores=scores, plan=plan)
    folder.write("recovery.json", sample_repair(plan))
    write_report(folder.root)
    return folder


def test_every_round_and_every_candidate_is_on_the_page(tmp_path: Path) -> None:
    folder = repaired_run(tmp_path)
    html = (folder.own / "report.html").read_text()
    assert {"rounds", "repair"} <= set(re.findall(r'<section id="([^"]+)"', html))
    shown = {float(value) for value in re.findall(r'<data value="([^"]+)"', html)}
    for found in folder.read("scores.json")["rounds"]:
        assert {found["scores"][i] for i in found["removed"]} <= shown
    for repair in folder.read("recovery.json")["repairs"]:
        for candidate in repair["candidates"]:
            assert {candidate["held_out_loss"], candidate["held_out_error"]} <= shown
    assert "no change" in html


def test_card_summary_and_merge_plan_name_the_repaired_layer(tmp_path: Path) -> None:
    folder = repaired_run(tmp_path)
    layer = folder.read("recovery.json")["changed_layers"][0]
    said = f"layer {layer} repaired by a linear map"
    assert said in (folder.own / "report.html").read_text()
    card = (tmp_path / "README.md").read_text()
    assert said in card and f"folded into the down projection: {layer}." in card
    assert "a linear map was folded into kept ones" in (folder.own / "mergekit.yaml").read_text()
