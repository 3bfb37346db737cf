"""One step of a search: what became of a pair of layers."""

from dataclasses import asdict, dataclass
from typing import Any

from depthprune.recovery.flatten.making import Made
from depthprune.recovery.flatten.pair import Heads, Pair


@dataclass(frozen=True)
class Step:
    """One pair that became one layer, as `plan.json` keeps it.

    Attributes:
        first, second: the pair; one of them is `kept`, in its place in the model.
        how: `flatten`, `refit` (the kept layer's MLP fitted to the pair), `map` (what that writes mapped), or
            `cut`.
        epochs: of training from there, 0 where that was not asked or did not help.
        refined: whether a fit through a norm was improved after its closed form.
        heads: where the attention comes from.
        rho: the strengths of the ridges of attention and MLP.
        groups, channels: how many come from the first and from the second.
        error: the mean over held-out tokens of ‖ĥ − h‖²/‖h‖² at the output of the pair.
        loss: the held-out cross-entropy afterwards, in nats a token.
    """

    first: int
    second: int
    kept: int
    how: str
    heads: Heads
    rho: tuple[float | None, float | None]
    groups: tuple[int, int] | None
    channels: tuple[int, int] | None
    error: float
    loss: float
    epochs: int = 0
    refined: bool = True

    @classmethod
    def of(cls, pair: Pair, made: Made, kept: int, loss: float) -> "Step":
        """What was made of a pair, where it stands, and the loss with it."""
        return cls(
            pair.first,
            pair.second,
            kept,
            made.how,
            made.heads,
            made.rho,
            made.groups,
            made.channels,
            made.error,
            loss,
            refined=made.refined,
        )

    @property
    def removed(self) -> int:
        return self.first + self.second - self.kept

    def to_json(self) -> dict[str, Any]:
        """As it stands in the plan's `search`."""
        return asdict(self)
