"""Recoveries: repair without training. To add one: a file here, and a line in RECOVERIES."""

from depthprune.recovery.base import RecoverySettings
from depthprune.recovery.collapse import Collapse
from depthprune.recovery.flatten.flatten import Flatten
from depthprune.recovery.linear import Linear
from depthprune.recovery.magnitude_compensation import MagnitudeCompensation
from depthprune.recovery.manifold_merge import ManifoldMerge
from depthprune.recovery.none import NoRecovery
from depthprune.recovery.projection import Projection
from depthprune.recovery.replacement_layer import ReplacementLayer
from depthprune.recovery.same_sign_merge import SameSignMerge

RECOVERIES: dict[str, type[RecoverySettings]] = {
    "none": NoRecovery,
    "same-sign-merge": SameSignMerge,
    "projection": Projection,
    "linear": Linear,
    "magnitude-compensation": MagnitudeCompensation,
    "replacement-layer": ReplacementLayer,
    "flatten": Flatten,
    "collapse": Collapse,
    "manifold-merge": ManifoldMerge,
}
