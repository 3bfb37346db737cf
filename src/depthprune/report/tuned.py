"""How the model was fine-tuned, in words."""

from depthprune.report.artifacts import Artifacts
from depthprune.report.figures import percent

METHODS = {
    "lora": "LoRA, the adapters merged",
    "qlora": "LoRA on a base in four bits, the adapters merged into the whole weights",
    "full": "full fine-tuning",
    "partial": "the final norm, the head and the last layers",
}


def tuning(run: Artifacts) -> str:
    """The method of a tuned run, what trained where not all did, and what it learned from."""
    assert run.tuned is not None and run.recipe is not None
    said = METHODS.get(run.tuned, run.tuned)
    trained = (run.training or {}).get("train")
    if run.tuned == "partial" and trained:
        share = percent(trained["trained"] / trained["parameters"])
        said = f"only {trained['what']}: {share} of the parameters"
    settings = run.recipe["training"]
    if settings.get("data") == "self":
        said += "; on the answers that the whole model gave to the prompts"
    if settings.get("loss") == "distill":
        said += "; following the whole model's predictions"
    return said
