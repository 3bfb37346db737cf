"""Fine-tuning on TRL's SFTTrainer: LoRA or full, resumable, and back to one plain model."""

import copy
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from peft import LoraConfig, PeftModel
from pydantic import Field
from transformers import PrinterCallback, TrainerCallback, set_seed

from depthprune.errors import UserError
from depthprune.model.anatomy import layers_path, lora_targets
from depthprune.settings import LoraSettings, Settings, TrainerSettings

if TYPE_CHECKING:  # trl takes seconds to import, and only a run that trains needs it
    from datasets import Dataset
    from trl import SFTTrainer

log = logging.getLogger("depthprune")


class FineTuning(TrainerSettings):
    """What the fine-tuning methods share beyond the Trainer's own settings."""

    logging_steps: float = Field(0.01, gt=0)
    """Below 1 a fraction of all steps."""
    save_steps: float = Field(0.1, gt=0)
    """A checkpoint to resume from, this often; below 1 a fraction of all steps."""
    report_to: str = "none"
    """Passed through to the Trainer: tensorboard, wandb, trackio, … ."""


class Lora(LoraSettings, FineTuning):
    """Low-rank adapters on every linear of the layers, merged into the model at the end."""

    paper: ClassVar[str] = "LoRA (arXiv:2106.09685)"
    method: Literal["lora"] = "lora"


class Full(FineTuning):
    """Every weight is trained, from float32 master weights."""

    paper: ClassVar[str] = "–"
    method: Literal["full"] = "full"
    learning_rate: float = Field(1e-5, gt=0)


class NoTraining(Settings):
    """The pruned model is the result."""

    paper: ClassVar[str] = "–"
    method: Literal["none"] = "none"


TRAININGS: dict[str, type[Lora] | type[Full] | type[NoTraining]] = {
    "lora": Lora,
    "full": Full,
    "none": NoTraining,
}


def training_dtype(settings: TrainerSettings, checkpoint: torch.dtype) -> torch.dtype:
    """The dtype to load weights in for training.

    Trained weights are float32, since bf16 loses updates of a small learning rate. Frozen ones under LoRA
    keep the checkpoint's dtype on an accelerator; on a CPU bf16 is several times slower than float32.
    """
    if isinstance(settings, LoraSettings) and torch.accelerator.is_available():
        return checkpoint
    return torch.float32


def sft_trainer(
    model: Any,
    tokenizer: Any,
    dataset: "Dataset",
    settings: TrainerSettings,
    folder: Path,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> "SFTTrainer":
    """An SFTTrainer over tokenised rows: `input_ids`, and `completion_mask` where there is a completion.

    With `LoraSettings` the model gets adapters; otherwise all of it trains. TRL changes the model's config
    and its `forward`: wrap the training in `untouched`.
    """
    from trl import SFTTrainer

    if not hasattr(model, model.base_model_prefix):  # Llama 4's text model, whose backbone TRL looks up by it
        model.base_model_prefix = layers_path(model).split(".")[0]
    lora = _lora_config(model, settings) if isinstance(settings, LoraSettings) else None
    model.requires_grad_(lora is None)
    trainer = SFTTrainer(
        model=model,
        args=_trainer_arguments(model, settings, folder, seed, "completion_mask" in dataset.column_names),
        train_dataset=dataset,
        processing_class=copy.deepcopy(
            tokenizer
        ),  # TRL sets a pad token on it; the saved one stays as it was
        peft_config=lora,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _trainer_arguments(model: Any, settings: TrainerSettings, folder: Path, seed: int, masked: bool) -> Any:
    from trl import SFTConfig

    accelerated = torch.accelerator.is_available()
    fine_tuning = settings if isinstance(settings, FineTuning) else None
    common = TrainerSettings.model_fields.keys() - {"max_length", "gradient_checkpointing", "bf16"}
    bf16 = (
        settings.bf16
        if settings.bf16 is not None
        else torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    checkpointing = settings.gradient_checkpointing
    balanced = hasattr(model.config.get_text_config(), "num_experts")
    return SFTConfig(
        output_dir=str(folder),
        **settings.model_dump(include=set(common)),
        max_length=None,  # the rows come truncated, and a row that would vanish has been reported
        completion_only_loss=masked,
        router_aux_loss_coef=None if balanced else 0.0,  # TRL's balancing loss reads `num_experts`
        bf16=bf16,
        gradient_checkpointing=accelerated if checkpointing is None else checkpointing,
        use_cpu=not accelerated,
        dataloader_pin_memory=accelerated,
        seed=seed,
        report_to=fine_tuning.report_to if fine_tuning else "none",
        logging_steps=fine_tuning.logging_steps if fine_tuning else 1,
        save_strategy="steps" if fine_tuning else "no",
        save_steps=fine_tuning.save_steps if fine_tuning else 500,
        save_total_limit=2,  # one behind, should the newest be torn
        disable_tqdm=not sys.stderr.isatty(),
        ddp_find_unused_parameters=False,
    )


def _lora_config(model: torch.nn.Module, settings: LoraSettings) -> LoraConfig:
    targets = lora_targets(model)
    if targets.without_adapter:
        log.warning("no adapter on: %s", "; ".join(targets.without_adapter))
    dropout = settings.lora_dropout
    if targets.target_parameters and dropout:
        log.warning(
            "LoRA dropout is off: PEFT has none for stacked experts (%s)", targets.target_parameters[0]
        )
        dropout = 0.0
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=targets.target_modules,
        target_parameters=targets.target_parameters or None,
    )


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Takes back what TRL does to a model: token ids and flags in its configs, a patched `forward`."""
    config, generation = copy.deepcopy(model.config.__dict__), copy.deepcopy(model.generation_config.__dict__)
    yield
    for live, saved in ((model.config.__dict__, config), (model.generation_config.__dict__, generation)):
        live.clear()
        live.update(saved)
    for patched in ("forward", "_original_forward", "base_model_prefix"):
        vars(model).pop(patched, None)
    model.gradient_checkpointing_disable()


def fine_tune(
    model: Any,
    tokenizer: Any,
    dataset: "Dataset",
    settings: Lora | Full,
    folder: Path,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> torch.nn.Module:
    """Trains `model` and returns it as a plain model in eval mode, adapters merged.

    `folder` is the Trainer's own. A call that was killed goes on from its newest whole checkpoint there, with
    the same result as if it had not been.
    """
    with untouched(model):
        trainer = sft_trainer(model, tokenizer, dataset, settings, folder, seed, callbacks)
        checkpoint = newest_checkpoint(folder)
        if checkpoint is not None:
            log.info("training goes on from %s", checkpoint.name)
        set_seed(seed)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if not all(parameter.isfinite().all() for parameter in trained.parameters()):
            raise UserError(
                f"training ended with weights that are not finite: lower training.learning_rate "
                f"({settings.learning_rate:g})"
            )
        if isinstance(trained, PeftModel):
            trained.merge_and_unload()
    return model.requires_grad_(True).eval()


def newest_checkpoint(folder: Path) -> Path | None:
    """The Trainer's newest checkpoint that was written to its end; torn ones are removed.

    `trainer_state.json` is the last file that the Trainer writes.
    """
    checkpoints = sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True
    )
    for checkpoint in checkpoints:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
        else:
            return checkpoint
    return None
