"""Selections: from scores, or an explicit list, to a plan. To add one: a file, and a line in SELECTIONS."""

from depthprune.selection.base import Amount, ByScores, SelectionSettings, Sizes, count_from_ratio
from depthprune.selection.by_recovery import ByRecovery
from depthprune.selection.contiguous import Contiguous
from depthprune.selection.explicit import Explicit
from depthprune.selection.iterative import Iterative
from depthprune.selection.keep_all import KeepAll
from depthprune.selection.one_shot import OneShot, select_layers
from depthprune.selection.plan import Layers, Plan, parse_layers, resolve_layers

SELECTIONS: dict[str, type[SelectionSettings]] = {
    "one-shot": OneShot,
    "iterative": Iterative,
    "contiguous": Contiguous,
    "explicit": Explicit,
    "by-recovery": ByRecovery,
    "none": KeepAll,
}

__all__ = [
    "SELECTIONS",
    "Amount",
    "ByRecovery",
    "ByScores",
    "Contiguous",
    "Explicit",
    "Iterative",
    "KeepAll",
    "Layers",
    "OneShot",
    "Plan",
    "SelectionSettings",
    "Sizes",
    "count_from_ratio",
    "parse_layers",
    "resolve_layers",
    "select_layers",
]
