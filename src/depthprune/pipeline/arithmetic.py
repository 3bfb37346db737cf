"""In which arithmetic a run computes: chosen once a folder, so that what goes on fits what is there."""

import logging
from dataclasses import replace

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from depthprune.model.arithmetic import Arithmetic, choose_arithmetic
from depthprune.pipeline.fingerprint import model_fingerprint
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.inputs import Inputs

log = logging.getLogger("depthprune")


def settle_arithmetic(inputs: Inputs, folder: RunFolder | None, state: PartialState) -> Arithmetic:
    """The choice that the folder's environment.json tells of, or else a new one, in every process."""
    chosen = [_choose(inputs, folder) if state.is_main_process else None]
    broadcast_object_list(chosen)
    (agreed,) = chosen
    assert agreed is not None
    return agreed


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
