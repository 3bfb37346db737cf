from dataclasses import replace

import pytest
from sample_run import sample_run

from depthprune.report.artifacts import read_artifacts
from depthprune.report.tuned import tuning

TRAINED = {"train": {"what": "model.norm, lm_head, layers 5–7", "trained": 30, "parameters": 100}}


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"method": "full"}, "full fine-tuning"),
        ({"method": "partial"}, "only model.norm, lm_head, layers 5–7: 30.0% of the parameters"),
        (
            {"method": "qlora", "loss": "distill", "data": "self"},
            "LoRA on a base in four bits, the adapters merged into the whole weights; "
            "on the answers that the whole model gave to the prompts; "
            "following the whole model's predictions",
        ),
    ],
)
def test_what_trained_and_what_it_learned_from(tmp_path, settings, said):
    run = read_artifacts(sample_run(tmp_path).root)
    run = replace(run, training=TRAINED, recipe={**run.recipe, "training": settings})
    assert tuning(run) == said
