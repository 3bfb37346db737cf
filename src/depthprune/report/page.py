"""The HTML report: one file, no network, a section for each artifact that the run has left."""

from typing import Any

import yaml

from depthprune.report import plots, story
from depthprune.report.artifacts import Artifacts, name_of
from depthprune.report.pages import templates
from depthprune.report.table import evaluation_table, table_notes, table_warnings


def html_page(run: Artifacts) -> str:
    """The content of `report.html`."""
    rounds = (run.scores or {}).get("rounds", [])
    template = templates().get_template("report.html.j2")
    return template.render(
        run=run,
        name=name_of(run.model),
        summary=story.summary(run, name_of(run.model)),
        table=evaluation_table(run.evaluation) if run.evaluation else None,
        table_notes=table_notes(run.evaluation) if run.evaluation else [],
        table_warnings=table_warnings(run.evaluation) if run.evaluation else [],
        costs=[(story.STAGES[name], run.stages[name]) for name in story.STAGES if name in run.stages],
        layers=_layers(run),
        course=_course(run),
        merges=sorted((run.recovery or {}).get("merged", []), key=lambda merge: merge["layer"]),
        opinions=story.opinions(run),
        flattened=(run.recovery or {}).get("steps", []),
        rounds=[story.round_(number, found) for number, found in enumerate(rounds, start=1)],
        repair=_repair(run),
        losses=plots.loss_curves(run.losses) if any("loss" in entry for entry in run.losses) else None,
        recipe=yaml.safe_dump(run.recipe, sort_keys=False) if run.recipe else None,
    )


def _layers(run: Artifacts) -> dict[str, Any] | None:
    """Every layer with its score and fate; the chart only of scores that something was measured for."""
    if run.scores is None and run.plan is None:
        return None
    scores = run.scores["scores"] if run.scores and run.scores["metric"] != "none" else None
    num_layers = run.plan.num_layers if run.plan else len(scores or ())
    fate = {i: name for name, layers in plots.fates(run.plan, num_layers).items() for i in layers}
    return {
        "chart": plots.layer_scores(run.scores, run.plan)
        if run.scores and story.informed(run.scores)
        else None,
        "rows": [(i, fate[i], scores[i] if scores else None) for i in range(num_layers)],
        "removed": story.dash_ranges(run.plan.removed) if run.plan else None,
        "linears": story.scored_linears((run.scores or {}).get("scored", [])),
    }


def _repair(run: Artifacts) -> dict[str, Any] | None:
    """What a recovery from calibration samples found; None where nothing was repaired."""
    found = run.recovery or {}
    if not found.get("repairs"):
        return None
    return {**found, "chart": plots.drift(found["drift"])}


def _course(run: Artifacts) -> dict[str, Any] | None:
    steps = (run.scores or {}).get("course")
    if not steps:
        return None
    notes = story.course_notes(steps)
    if run.plan and run.plan.selection != "explicit":
        notes.append(story.settled(steps, len(run.plan.removed)))
    return {"chart": plots.course(steps), "notes": notes}
