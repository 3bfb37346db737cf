"""Rows of eval.json that runs of a comparison have in common: the whole model, and equal bare cuts."""

from typing import Any

from depthprune.pipeline.digests import hash_of
from depthprune.pipeline.fingerprint import fingerprint, model_fingerprint
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.job import Job

PER_ROW = "per-row.json"


def measured_as(job: Job) -> str:
    """A hash of all that a row of eval.json depends on besides its checkpoint."""
    recipe = job.recipe
    parts = [
        model_fingerprint(str(recipe.full)),
        [fingerprint(source) for source in recipe.eval],
        None if recipe.eval else [fingerprint(str(recipe.train)), recipe.seed],
        recipe.chat_template and fingerprint(recipe.chat_template),
        recipe.digest("evaluation", "dtype", "trust_remote_code"),
        job.arithmetic.dtype,
    ]
    return hash_of(*parts)


def lent_row(job: Job, name: str, key: str) -> dict[str, Any] | None:
    """The row of the whole model, or of the bare cut of the same layers, where a run beside it has it.

    `key` is `measured_as` of this job.
    """
    if name not in ("base", "pruned"):
        return None
    for path in job.beside or ():
        lender = RunFolder(path)
        try:
            found = lender.read("eval.json")
            alike = found["measured_as"] == key
            if alike and (name == "base" or _same_cut(lender, job.folder)):
                row = found["rows"][name]
                return {**row, "per_row": lender.read(PER_ROW)[name], "from": path.name}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _same_cut(lender: RunFolder, borrower: RunFolder) -> bool:
    one, other = lender.read("plan.json"), borrower.read("plan.json")
    return all(one.get(key) == other.get(key) for key in ("removed", "mlp_from", "silenced"))
