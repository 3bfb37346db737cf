"""What the recoveries share: they change weights, on the whole model, before the layers are cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from depthprune.selection import ByRecovery, Plan, Sizes
from depthprune.settings import Settings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Taken:
    """The steps of a long choice, each kept as soon as it is made, so that one that was killed goes on.

    Attributes:
        steps: what an earlier call left, as JSON.
        keep: is given all steps, and the last one in words.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    keep: "Callable[[Sequence[dict[str, Any]], str], None]" = lambda steps, said: None

    def add(self, step: dict[str, Any], said: str) -> None:
        """Keeps one more."""
        self.steps.append(step)
        self.keep(self.steps, said)


@dataclass(frozen=True)
class Evidence:
    """What a recovery may look at besides the weights.

    Attributes:
        gradients: the folder of factor pairs that IGIA spooled, for recoveries with `needs_gradients`.
        batches: the calibration samples, each [B, T], for recoveries with `needs_calibration`.
        dtype: of the checkpoint that will be written, to which changed weights are rounded before they are
            judged; None for the dtype that they are in.
        taken: the steps of a choice that is long enough to be killed.
    """

    gradients: Path | None = None
    batches: "Sequence[dict[str, torch.Tensor]]" = ()
    dtype: "torch.dtype | None" = None
    taken: Taken = field(default_factory=Taken)


class RecoverySettings(Settings):
    """A recovery: its settings, and what it reads besides the model.

    `recovery(model, plan, evidence)` changes weights of the whole model in place and returns its report,
    which becomes `recovery.json`: `changed_layers` and whatever else it found. The layers are removed
    afterwards. Torch and the like are imported there and not at the top of the file, so that a recipe is read
    without them.
    """

    needs_gradients: ClassVar[bool] = False
    needs_calibration: ClassVar[bool] = False
    decides: ClassVar[bool] = False
    """Whether it chooses the layers that go, in `choose`, which `selection.method=by-recovery` calls."""
    takes_plans: ClassVar[bool] = True
    """Whether it repairs what other methods choose to remove."""
    replaces_block: ClassVar[bool] = False
    """Whether the kept layer before a removed block is to stand for the block and itself."""
    takes_offloaded: ClassVar[bool] = False
    """Whether it can repair layers whose weights come when they are called."""
    takes_pairs: ClassVar[bool] = False
    """Whether it can repair where kept layers take others' MLPs."""
    paper: ClassVar[str]
    method: str
    cost: ClassVar[str] = "–"
    """Of the choice, for recoveries that decide."""

    @property
    def fewest_samples(self) -> int:
        """With fewer calibration samples it cannot work."""
        return 1

    def choose(
        self, model: "torch.nn.Module", evidence: Evidence, selection: ByRecovery, sizes: Sizes
    ) -> Plan:
        """The plan, for recoveries that decide; the model is left as it was, bit for bit."""
        raise NotImplementedError

    def estimate(self, model: "torch.nn.Module", tokens: int, removed: int) -> dict[str, int]:
        """`memory` in bytes beside the model and `passes` over the calibration tokens, where it takes much.

        Args:
            model: on the meta device.
        """
        return {}

    def complete(self, plan: Plan, scores: list[float]) -> Plan:
        """The plan with `merged_into` filled in by recoveries that merge; refuses plans it cannot repair."""
        return plan

    def parts(self, plan: Plan) -> list[tuple[Plan, set[int]]] | None:
        """Plans that repair one after the other what the whole one does, each with all the layers it reads.

        None for recoveries that read the whole model.
        """
        return None

    def check(self, model: "torch.nn.Module") -> None:
        """Raises `UserError` where this recovery cannot work on this model, whatever the plan."""

    def __call__(self, model: "torch.nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Repairs the kept layers."""
        raise NotImplementedError
