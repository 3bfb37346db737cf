"""What every part of a recipe is made of: strict settings with Hugging Face's own names."""

from difflib import get_close_matches
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from depthprune.errors import UserError

S = TypeVar("S", bound=BaseModel)


class Settings(BaseModel):
    """A part of a recipe. Unknown keys are refused, so that a typo cannot pass for a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    later: ClassVar[tuple[str, ...]] = ()
    """Fields younger than run folders that there are: at their defaults no digest counts them, so that what
    was finished without them stays finished."""

    def counted(self) -> dict[str, Any]:
        """The values that a digest counts."""
        values = self.model_dump(mode="json")
        defaults = {name: type(self).model_fields[name].default for name in self.later}
        return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


class TrainerSettings(Settings):
    """One run of Hugging Face's Trainer; fields carry the names of `transformers.TrainingArguments`."""

    learning_rate: float = Field(1e-4, gt=0)
    num_train_epochs: float = Field(3, gt=0)
    max_steps: int = Field(-1, ge=-1)
    """Ends training after this many optimizer steps; −1 follows `num_train_epochs`."""
    per_device_train_batch_size: int = Field(8, ge=1)
    """In several passes where the activations of so many rows would not fit; the weights are the same."""
    gradient_accumulation_steps: int = Field(8, ge=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: float = Field(0.03, ge=0)
    """Below 1 a fraction of all steps, from 1 on a number of steps."""
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"
    """`group_by_length` batches rows of like length: less padding, up to twice the speed on uneven data."""
    weight_decay: float = Field(0.1, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(2048, ge=8)
    """Longer rows lose their end; the model's own context caps it."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass. By default on an accelerator, or where one row needs it."""
    bf16: bool | None = None
    """bfloat16 autocast. By default where an accelerator supports it, or the recipe's `arithmetic` has it."""


class LoraSettings(TrainerSettings):
    """A Trainer run that updates low-rank adapters on every linear of the decoder layers."""

    lora_r: int = Field(8, ge=1)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.05, ge=0, lt=1)


def build(settings: type[S], values: dict[str, Any], where: str = "") -> S:
    """`settings(**values)`; what pydantic finds becomes one `UserError` that names key and way out."""
    try:
        return settings(**values)
    except ValidationError as problem:
        raise UserError(_explain(problem, settings, where)) from None


def _explain(problem: ValidationError, settings: type[BaseModel], where: str) -> str:
    first = problem.errors()[0]
    key = ".".join([*([where] if where else []), *map(str, first["loc"])])
    if first["type"] == "extra_forbidden":
        known = list(_owner(settings, first["loc"]).model_fields)
        close = get_close_matches(str(first["loc"][-1])[:100], known, n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{key:.200}: no such setting; {mend}"
    said = first["msg"].removeprefix("Value error, ")  # of a validator of ours
    return f"{key:.200} is {first['input']!r:.200}: {said[0].lower()}{said[1:]}"


def _owner(settings: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel]:
    """The settings class that the last key of `path` was looked for in."""
    for key in path[:-1]:
        settings = settings.model_fields[key].annotation  # type: ignore[assignment]
    return settings
