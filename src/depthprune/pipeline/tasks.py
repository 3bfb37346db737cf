"""lm-eval's tasks on a recipe's model, loaded as lm-eval loads it; a run folder keeps the result."""

import logging
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import PartialState

from depthprune.cost import measured
from depthprune.errors import UserError, disk_fault
from depthprune.evaluation.harness import Tasks, check_installed, figures, run_tasks
from depthprune.files import OWN, write_json
from depthprune.model.anatomy import decoder_layers
from depthprune.model.config_file import local_folder
from depthprune.model.loading import load_model
from depthprune.model.published import STAMPS, read_record
from depthprune.pipeline.inputs import Inputs
from depthprune.recipe.recipe import Recipe
from depthprune.report.eval_results import KEPT, write_eval_results

log = logging.getLogger("depthprune")


def row_on_tasks(
    inputs: Inputs, state: PartialState, wanted: Tasks, found: tuple[Any, list[str]]
) -> dict[str, Any]:
    """A row as in eval.json: `tasks` in place of `results`, `harness` (how), and lm-eval's `raw` result.

    Weights are in their own dtype and documents go one by one, as by lm-eval's command line, unless
    `arithmetic` and `evaluation.batch_size` say otherwise: the figures are equal then.
    """
    recipe = inputs.recipe
    if state.num_processes > 1:
        raise UserError("--tasks runs in one process: call it without torchrun or accelerate launch")
    given = "batch_size" in recipe.evaluation.model_fields_set
    options: dict[str, Any] = {
        "num_fewshot": wanted.num_fewshot,
        "batch_size": recipe.evaluation.batch_size if given else 1,
        "limit": recipe.evaluation.limit,
    }
    log.info("lm-eval: %s …", ", ".join(found[1]))
    model = load_model(str(recipe.model), recipe.arithmetic, state.device, recipe.trust_remote_code)
    with measured() as cost:
        raw, bos = run_tasks(model, inputs.tokenizer, *found, **options)
    how = {
        "lm_eval": check_installed(),
        "bos": bos,
        **options,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "max_length": raw["max_length"],
        "command": command(recipe, wanted, options, str(model.device)),
        **cost,
    }
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": len(decoder_layers(model)),
        "tasks": figures(raw),
        "harness": how,
        "raw": raw,
    }


def command(recipe: Recipe, wanted: Tasks, options: dict[str, Any], device: str) -> str:
    """The call of lm-eval that gives the same figures."""
    model = f"pretrained={recipe.model}"
    if recipe.arithmetic != "auto":
        model += f",dtype={recipe.arithmetic}"
    if recipe.trust_remote_code:
        model += ",trust_remote_code=True"
    given = {"tasks": ",".join(wanted.tasks), "include_path": wanted.include_path, **options}
    said = [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]
    return shlex.join(["lm-eval", "run", "--model", "hf", "--model_args", model, "--device", device, *said])


def keep(model: str, found: dict[str, Any]) -> Path | None:
    """Writes the result into the run folder that `model` is, with the stage that it is of; None elsewhere.

    Hours of work may stand behind it: where it cannot be written, that is said, and no more.
    """
    root = local_folder(model)
    if root is None or not (root / OWN / STAMPS).is_file():
        return None
    now = datetime.now(UTC)
    path = root / OWN / KEPT / f"results_{now:%Y-%m-%dT%H-%M-%S.%f}.json"
    record = read_record(root)
    content = {**found, "published": {"stage": record["stage"], "digest": record["digest"]}}
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, content)
        write_eval_results(root)
    except OSError as error:
        log.warning("the result is not kept in the run folder: %s", disk_fault(error) or error)
        return None
    return path
