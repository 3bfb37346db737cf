"""What each stage's result depends on, as a hash."""

import hashlib
import json
from typing import Any

from depthprune.pipeline.fingerprint import fingerprint, model_fingerprint
from depthprune.pipeline.job import Job
from depthprune.recipe.recipe import Recipe
from depthprune.selection import Contiguous, Iterative, KeepAll
from depthprune.training import FineTuning


def digests_of(job: Job, recipe: Recipe) -> dict[str, str]:
    """The stages of a run in order, each with a hash of everything that its result depends on.

    That is the recipe's keys, the model, the data, and through them the stages before. `recipe` is the job's
    own, or one on the same model and data.
    """
    sources = {key: getattr(recipe, key) for key in ("train", "calibration")}
    data = {key: fingerprint(source) for key, source in sources.items() if source}
    data["model"] = model_fingerprint(str(recipe.model))
    if recipe.weights is not None:
        data["weights"] = model_fingerprint(recipe.weights)
    evals = [fingerprint(source) for source in recipe.eval]
    keys = ["seed", "dtype", "chat_template", "trust_remote_code"]
    if recipe.arithmetic != "auto":  # what `auto` chose stays with the folder
        keys.append("arithmetic")
    if recipe.chat_template is not None:  # by what it says, not by where it lies
        recipe = recipe.model_copy(update={"chat_template": fingerprint(recipe.chat_template)})
    common = [recipe.digest(*keys), data, bool(evals)]
    digests = {}
    last = hash_of(common)
    prunes = not isinstance(recipe.selection, KeepAll)
    if prunes:
        # Rounds and windows are those of one ratio; one score per layer serves every selection.
        rounds = recipe.digest("selection") if isinstance(recipe.selection, Iterative | Contiguous) else None
        digests["score"] = hash_of(common, recipe.digest("importance", "calibration_samples"), rounds)
        digests["select"] = hash_of(digests["score"], recipe.digest("selection", "recovery"))
        digests["prune"] = last = hash_of(digests["select"])
    training = recipe.training
    if isinstance(training, FineTuning):
        if training.data == "self":
            digests["answers"] = hash_of(common, training.self_data.model_dump(), training.max_length)
        digests["train"] = last = hash_of(last, recipe.digest("training"))
        if recipe.baseline and prunes:
            digests["baseline"] = hash_of(common, recipe.digest("training"))
    if job.inputs.evals:
        digests["evaluate"] = hash_of(last, evals, recipe.digest("baseline", "evaluation"))
    return digests


def hash_of(*parts: Any) -> str:
    """A short hash of anything that JSON can say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
