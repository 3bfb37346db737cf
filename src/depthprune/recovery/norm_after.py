"""The norm that a branch's output goes through before it is added to the residual stream."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from depthprune.model.parts import norm_after
from depthprune.recovery.slope import Arguments, float_copies, slope
from depthprune.recovery.through_norm import Norm

# How far, relatively, a norm's output may be from the formula's in float32.
TOLERANCE = 1e-4
# A row whose mean square is near the usual epsilons, and one of the usual size.
PROBE_SIZES = (1e-3, 1.0)


@dataclass(frozen=True)
class NormAfter:
    """x → x + m·(g ⊙ N(z) + bias), z the output of the branch's last linear.

    Attributes:
        weight: what the checkpoint holds of the gain, g minus `offset`, which is 1 in Gemma.
        bias: of a LayerNorm.
        multiplier: m.
        name: of the weight, in the layer or whatever module was looked into.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    offset: float
    epsilon: float
    centred: bool
    multiplier: float
    name: str = "weight"

    @property
    def norm(self) -> Norm:
        """g ⊙ N(z), in float64."""
        return Norm(self.weight.detach().double() + self.offset, self.epsilon, self.centred)

    def stored(self, gain: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The weight that stands for this gain, rounded once, to `dtype` or its own."""
        return (gain - self.offset).to(self.weight.device, dtype or self.weight.dtype).to(self.weight.dtype)


def find_norm_after(layer: nn.Module, path: str, arguments: Arguments, i: int) -> NormAfter | str:
    """The norm between the linear at `path` and the output of layer i, or why none of a known kind is there.

    Found by trial, as everything about a layer: which norm is given what the linear puts out, whether the
    layer's output is linear in the norm's, and by which formula the norm computes.
    """
    name = norm_after(layer, float_copies(arguments), path)
    if name is None:
        return f"what {path} puts out enters its output neither linearly nor through a norm of its own"
    multiplier = slope(layer, name, arguments, i)
    if not multiplier:
        return f"its output is not linear in that of {name}, the norm after {path}"
    module = layer.get_submodule(name)
    found = known_norm(module, multiplier, f"{name}.weight")
    kind = type(module).__name__
    return found or f"{name}, the norm after {path}, is a {kind}, neither RMSNorm nor LayerNorm"


def known_norm(module: nn.Module, multiplier: float = 1.0, name: str = "weight") -> NormAfter | None:
    """What a module computes if it is an RMSNorm or a LayerNorm with a gain, by whatever name; else None."""
    kind = _kind(module)
    if kind is None:
        return None
    parameters = dict(module.named_parameters())
    return NormAfter(parameters["weight"], parameters.get("bias"), *kind, multiplier, name)


def _kind(module: nn.Module) -> tuple[float, float, bool] | None:
    """The offset of the gain, ε, and whether the mean goes; None for a norm of neither kind."""
    plain = copy.deepcopy(module).float()
    parameters = dict(plain.named_parameters())
    if "weight" not in parameters or parameters.keys() - {"weight", "bias"}:
        return None
    weight = parameters["weight"]
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(len(weight), generator=generator).to(weight) + 0.5
    rows = torch.stack([row * size for size in PROBE_SIZES])
    without, with_one = (_output(plain, gain, rows) for gain in (0.0, 1.0))
    direction = with_one - without
    offset = float((without * direction).sum() / direction.square().sum())
    for centred in (False, True):
        z = rows - rows.mean(-1, keepdim=True) if centred else rows
        epsilon = max(0.0, float(z[0].square().mean() * (1 / direction[0].square().mean() - 1)))
        expected, _ = Norm(torch.ones_like(weight), epsilon, centred).direction(rows)
        if _near(direction, expected) and _near(with_one, (1 + round(offset)) * expected):
            return float(round(offset)), epsilon, centred
    return None


@torch.no_grad()
def _output(norm: nn.Module, weight: float, rows: Tensor) -> Tensor:
    """What a norm makes of the rows with this number for all of its weight, and no bias."""
    for name, parameter in norm.named_parameters():
        parameter.fill_(weight if name == "weight" else 0.0)
    return norm(rows.clone())


def _near(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= TOLERANCE * expected.norm())
