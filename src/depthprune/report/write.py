"""Writes the report of a run from its artifacts, whatever of them there is."""

from pathlib import Path

from depthprune.files import OWN, remove, write_json, write_text
from depthprune.report.artifacts import read_artifacts, shown
from depthprune.report.card import model_card
from depthprune.report.environment import environment
from depthprune.report.eval_results import write_eval_results
from depthprune.report.mergekit import mergekit_plan
from depthprune.report.page import html_page


def write_report(root: Path) -> None:
    """Writes `report.html`; with a plan `mergekit.yaml`; with a model in the folder its card, `README.md`.

    `environment.json` is written where it is missing and kept otherwise: a report made again elsewhere must
    not claim that the run was made there.
    """
    own = root / OWN
    if not (own / "environment.json").is_file():
        write_json(own / "environment.json", environment())
    run = read_artifacts(root)
    write_text(own / "report.html", html_page(shown(run)))
    if run.plan is not None and run.recipe is not None:
        if run.plan.mlp_from or run.plan.silenced:
            remove(own / "mergekit.yaml")  # a merge of whole layers cannot say it
        else:
            write_text(own / "mergekit.yaml", mergekit_plan(run))
        if run.config is not None:
            write_text(root / "README.md", model_card(shown(run)))
            write_eval_results(root)
