"""In which arithmetic a run computes: chosen once a folder, so that what goes on fits what is there."""

import logging
from dataclasses import replace

from depthprune.distributed.processes import first_does
from depthprune.model.arithmetic import Arithmetic, choose_arithmetic
from depthprune.pipeline.fingerprint import model_fingerprint
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.inputs import Inputs

log = logging.getLogger("depthprune")


def settle_arithmetic(inputs: Inputs, folder: RunFolder | None) -> Arithmetic:
    """The choice that the folder's environment.json tells of, or else a new one, in every process."""
    return first_does(lambda: _choose(inputs, folder))


def _choose(inputs: Inputs, folder: RunFolder | None) -> Arithmetic:
    recipe = inputs.recipe
    model = model_fingerprint(str(recipe.model))
    if folder is not None:
        stored = folder.read_if_whole("environment.json", {}).get("arithmetic")
        if stored and (stored["model"], stored["word"]) == (model, recipe.arithmetic):
            return Arithmetic(**stored)
    parameters = inputs.sizes.total
    found = choose_arithmetic(inputs.config, parameters, recipe.arithmetic, recipe.trust_remote_code)
    if found.seconds:
        log.info("%s arithmetic: %s", found.dtype, found.why)
    return replace(found, model=model)
