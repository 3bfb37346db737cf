"""What a run reads, loaded and checked before anything is computed or written."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from depthprune.data.calibration import calibration_batches
from depthprune.data.chat import load_chat_template, render_chats
from depthprune.data.examples import Examples, load_examples
from depthprune.data.split import rows_in_both, split_off
from depthprune.data.splits import FOR_EVALUATION
from depthprune.data.tokens import encode
from depthprune.data.vocabulary import check_tokens, note_of, pad_within, refuse_tokens_beyond
from depthprune.errors import UserError
from depthprune.files import read_json
from depthprune.importance.igia import Igia
from depthprune.model.anatomy import decoder_layers, parameters_per_layer
from depthprune.model.base_files import PREFERRED
from depthprune.model.config_file import local_folder
from depthprune.model.engine_fields import pattern_notes, spelling_notes
from depthprune.model.fits import check_fits
from depthprune.model.loading import load_config, load_tokenizer
from depthprune.model.quantised import check_not_quantised, check_same_model
from depthprune.model.shards import read_shards
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import Sides, layer_sides
from depthprune.model.traits import pruned_config
from depthprune.recipe.recipe import Recipe
from depthprune.selection import ByScores, Explicit, KeepAll, Plan, Sizes
from depthprune.selection.pairs import Cuts
from depthprune.training import FineTuning
from depthprune.training.self_data import check_prompts

log = logging.getLogger("depthprune")


@dataclass(frozen=True)
class Inputs:
    """A recipe's model and data: checked, tokenizable, not yet tokenised.

    Attributes:
        skeleton: the model on the meta device: every shape, no weight.
        evals: datasets to measure on; empty where the user gives neither evaluation nor training data.
    """

    recipe: Recipe
    config: PretrainedConfig
    skeleton: torch.nn.Module
    tokenizer: Any
    train: Examples | None
    evals: tuple[Examples, ...]
    calibration: Examples | None
    chat_template: str | None
    _encoded: dict[int, Any] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        return len(decoder_layers(self.skeleton))

    def max_length(self, asked: int) -> int:
        """`asked`, capped by the model's own context."""
        context = getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return min(asked, context or asked)

    def encoded(self, max_length: int) -> Any:
        """The training rows as tokens, at most `max_length` each."""
        assert self.train is not None
        length = self.max_length(max_length)
        if length not in self._encoded:
            self._encoded[length] = encode(self.train, self.tokenizer, length, self.chat_template)
        return self._encoded[length]

    @cached_property
    def batches(self) -> list[dict[str, torch.Tensor]]:
        """The calibration samples."""
        assert self.calibration is not None
        wanted = self.recipe.calibration_samples
        return calibration_batches(
            self.calibration,
            self.tokenizer,
            samples=wanted.samples,
            length=self.max_length(wanted.length),
            batch_size=wanted.batch_size,
            seed=self.recipe.seed,
            chat_template=self.chat_template,
        )

    @cached_property
    def sides(self) -> list[Sides]:
        """Attention and MLP of each layer; raises `UserError` where layers cannot be divided."""
        assert isinstance(self.skeleton, PreTrainedModel)
        return layer_sides(self.skeleton)

    @cached_property
    def sizes(self) -> Sizes:
        """The model's parameters, in all and of each layer."""
        total = sum(parameter.numel() for parameter in self.skeleton.parameters())
        return Sizes(total, parameters_per_layer(self.skeleton))

    def plan(self, found: dict[str, Any], keep: Sequence[int] = ()) -> Plan:
        """The plan that the recipe's selection makes of `found`, the content of scores.json.

        `keep` names layers that stay whatever their score.
        """
        selection = self.recipe.selection
        plan = (selection.keeping(keep) if isinstance(selection, ByScores) else selection).plan(
            found, self.sizes
        )
        plan = self.recipe.recovery.complete(plan, found["scores"])
        stated = cached_file(str(self.recipe.full), "config.json")
        notes = (*pattern_notes(self.config, plan.kept), *spelling_notes(read_json(Path(str(stated)))))
        return replace(plan, notes=(*plan.notes, *notes))

    def rehearsal(self) -> Plan:
        """A plan of as many layers as will go; which ones they are is not known before the scores."""
        plan = self.recipe.selection.rehearse(self.sizes)
        return self.recipe.recovery.complete(plan, [0.0] * self.num_layers)


def load_inputs(recipe: Recipe, until: str = "evaluate") -> Inputs:
    """Loads config, tokenizer and data and makes every check that needs no weight.

    Args:
        until: the stage that the run ends after; scores can be had of weights that nothing can be written of.

    Raises:
        UserError: whatever in the recipe, the model folder or the data cannot work, in one line.
    """
    if recipe.model is None:
        raise UserError("no model: give a model folder or a hub id with --model")
    trains, needs = isinstance(recipe.training, FineTuning), recipe.importance.needs
    if recipe.train is None and (trains or needs == "training"):
        why = (
            f"training.method={recipe.training.method}"
            if trains
            else f"importance.metric={recipe.importance.metric}"
        )
        raise UserError(f"no training data, which {why} needs: give a file or a hub id with --train")
    if recipe.calibration is None and recipe.train is None and (reader := recipe.reads_calibration):
        raise UserError(
            f"no calibration data, which {reader} needs: give a file with --calibration, or training data"
        )
    config = load_config(str(recipe.full), recipe.trust_remote_code)
    shape = skeleton(config, recipe.trust_remote_code)
    _check_weights(recipe, config, shape, until)
    train, evals = _datasets(recipe)
    tokenizer = load_tokenizer(str(recipe.full), recipe.trust_remote_code)
    inputs = Inputs(
        recipe,
        config,
        shape,
        tokenizer,
        train,
        evals,
        load_examples(recipe.calibration)
        if recipe.calibration
        else train
        if recipe.reads_calibration
        else None,
        _chat_template(recipe, tokenizer),
    )
    _check_rows(inputs, until)
    _try(inputs)
    return inputs


def _chat_template(recipe: Recipe, tokenizer: Any) -> str | None:
    if recipe.chat_template is None:
        return None
    template, named = load_chat_template(recipe.chat_template), tokenizer.chat_template
    if isinstance(recipe.training, FineTuning) and isinstance(named, dict) and PREFERRED in named:
        log.info(
            "%s is for chats with tools too: what is tuned with it loses the model's own template %r",
            recipe.chat_template,
            PREFERRED,
        )
    return template


def _check_weights(recipe: Recipe, config: PretrainedConfig, shape: Any, until: str) -> None:
    """Raises UserError for files that do not hold the model, and for codes where numbers are needed."""
    model = str(recipe.full)
    if (folder := local_folder(model)) is not None:
        check_fits(folder, shape, read_shards(folder), recipe.trust_remote_code)
    prunes = not isinstance(recipe.selection, KeepAll)
    reads = f"importance.metric={recipe.importance.metric} reads its weights"
    if recipe.weights is not None:
        check_not_quantised(config, model, "weights names what is cut")
        scored = load_config(str(recipe.model), recipe.trust_remote_code)
        check_same_model(scored, config, str(recipe.model), model)
        if recipe.importance.needs not in ("calibration", "nothing"):
            check_not_quantised(scored, str(recipe.model), reads)
    elif _writes(recipe, until) or isinstance(recipe.training, FineTuning):
        check_not_quantised(config, model, "this run would write new weights")
    elif prunes and recipe.importance.needs != "calibration":
        check_not_quantised(config, model, reads)


def _writes(recipe: Recipe, until: str) -> bool:
    """Whether a run that ends after the stage `until` writes a model."""
    changes = not isinstance(recipe.selection, KeepAll) or isinstance(recipe.training, FineTuning)
    return changes and until not in ("score", "select")


def _check_rows(inputs: Inputs, until: str) -> None:
    """Refuses chats that the template does not take, and tokens that the model has no embedding for.

    A pad token alone is replaced in memory. A token that no row holds is refused where a model is written,
    which `verify` would refuse.
    """
    embedding: Any = inputs.skeleton.get_input_embeddings()  # type: ignore[operator]
    rows = embedding.weight.shape[0]
    given = {id(one): one for one in (inputs.train, inputs.calibration, *inputs.evals) if one is not None}
    for examples in given.values():
        if examples.kind == "messages":
            render_chats(examples, inputs.tokenizer, inputs.chat_template)
        check_tokens(examples, inputs.tokenizer, rows, inputs.chat_template)
    if _writes(inputs.recipe, until):
        refuse_tokens_beyond(inputs.tokenizer, rows, str(inputs.recipe.full))
    if note := note_of(inputs.tokenizer, rows):
        log.warning("%s: %s", inputs.recipe.model, note)
    pad_within(inputs.tokenizer, rows)


def _datasets(recipe: Recipe) -> tuple[Examples | None, tuple[Examples, ...]]:
    evals = tuple(load_examples(source, preferred=FOR_EVALUATION) for source in recipe.eval)
    names = [examples.name for examples in evals]
    if len(set(names)) < len(names):
        raise UserError(f"two evaluation datasets are named {max(names, key=names.count)!r}: rename one file")
    if recipe.train is None:
        return None, evals
    train = load_examples(recipe.train)
    for examples in evals:
        if shared := rows_in_both(train, examples):
            log.warning(
                "%s: %d of %d rows (%.1f %%) stand in %s too: on them it measures what training has seen",
                examples.source,
                shared,
                len(examples.rows),
                100 * shared / len(examples.rows),
                train.source,
            )
    if evals:
        return train, evals
    train, held_out = split_off(train, recipe.seed)
    return train, (held_out,)


def _try(inputs: Inputs) -> None:
    """Fails now on what would otherwise fail after hours: the plan's arithmetic and the rows' tokens."""
    recipe, layers = inputs.recipe, inputs.num_layers
    if not isinstance(recipe.selection, KeepAll):
        plan = inputs.rehearsal()
        layers = len(plan.kept)
        if isinstance(recipe.selection, Explicit):
            pruned_config(inputs.config, plan.removed)
        if isinstance(recipe.selection, Cuts) and recipe.selection.granularity != "layers":
            _ = inputs.sides
    if isinstance(recipe.importance, Igia):
        inputs.encoded(recipe.importance.max_length)
    if isinstance(recipe.training, FineTuning):
        assert inputs.train is not None
        recipe.training.check(inputs.skeleton, layers)
        if recipe.training.data == "self":
            check_prompts(inputs.train)
        inputs.encoded(recipe.training.max_length)
    if inputs.calibration is not None:
        _ = inputs.batches
