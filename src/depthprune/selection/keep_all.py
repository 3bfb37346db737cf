"""No selection: the model is only tuned and measured."""

from typing import Literal

from depthprune.selection.base import SelectionSettings


class KeepAll(SelectionSettings):
    """Remove nothing: the model is only tuned and measured."""

    method: Literal["none"] = "none"
