"""Explicit selection: the user names the layers."""

from typing import Any, Literal

from depthprune.errors import UserError
from depthprune.selection.base import SelectionSettings, Sizes
from depthprune.selection.plan import Layers, Plan, resolve_layers


class Explicit(SelectionSettings):
    """Remove the layers that the user names."""

    method: Literal["explicit"] = "explicit"
    remove: Layers = ()
    """The layers that go, such as 18-30."""
    keep: Layers = ()
    """The layers that stay, in place of `remove`."""

    def plan(self, found: dict[str, Any], sizes: Sizes) -> Plan:
        """Exactly the layers named in `remove` go, or all but those named in `keep`."""
        if bool(self.remove) == bool(self.keep):
            raise UserError(
                "selection.method=explicit takes either selection.remove or selection.keep, such as 18-30"
            )
        num_layers = sizes.num_layers
        named = resolve_layers(self.remove or self.keep, num_layers, "selection")
        removed = named if self.remove else [i for i in range(num_layers) if i not in set(named)]
        if not 0 < len(removed) < num_layers:
            raise UserError(
                f"{len(removed)} of {num_layers} layers would go: remove between 1 and {num_layers - 1}"
            )
        return Plan(num_layers, tuple(removed), metric=found["metric"], selection=self.method)

    def rehearse(self, sizes: Sizes) -> Plan:
        """The very layers."""
        return self.plan({"metric": "none"}, sizes)
