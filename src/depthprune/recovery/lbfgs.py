"""L-BFGS for a function whose every value costs a pass over the data."""

from collections import deque
from collections.abc import Callable, Sequence

from torch import Tensor

# Pairs of steps and gradients' changes that are remembered, 2 vectors each.
HISTORY = 8
# The share of the promised decrease that a step has to bring, and how often it is shortened for that.
SUFFICIENT, SHORTENINGS = 1e-4, 8


def minimise(
    objective: Callable[[Tensor], tuple[float, Tensor]], starts: Sequence[Tensor], steps: int, enough: float
) -> Tensor:
    """A minimum near the best of `starts`, from `objective(x)`: a value ≥ 0 and its gradient.

    The coordinates are taken to be such that a first step of minus the gradient is a sensible one. Stops
    after `steps`, or when two in a row lower the value by less than the share `enough`. Never returns a point
    above the best start.
    """
    found = [(*objective(x), x) for x in starts]
    value, gradient, x = min(found, key=lambda point: point[0])
    history: deque[tuple[Tensor, Tensor]] = deque(maxlen=HISTORY)
    small = 0
    for _ in range(steps):
        direction = _direction(gradient, history)
        moved = _line_search(objective, x, value, gradient, direction)
        if moved is None:
            if not history:
                break
            history.clear()
            continue
        new_value, new_gradient, new_x = moved
        step, change = new_x - x, new_gradient - gradient
        if float(step @ change) > 0:
            history.append((step, change))
        small = small + 1 if value - new_value <= enough * value else 0
        value, gradient, x = new_value, new_gradient, new_x
        if small == 2:
            break
    return x


def _direction(gradient: Tensor, history: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Minus the inverse Hessian, as the history tells it, times the gradient."""
    direction, shares = -gradient, []
    for step, change in reversed(history):
        share = float(step @ direction) / float(step @ change)
        shares.append(share)
        direction = direction - share * change
    if history:
        step, change = history[-1]
        direction = direction * (float(step @ change) / float(change @ change))
    for (step, change), share in zip(history, reversed(shares), strict=True):
        direction = direction + (share - float(change @ direction) / float(step @ change)) * step
    return direction


def _line_search(
    objective: Callable[[Tensor], tuple[float, Tensor]],
    x: Tensor,
    value: float,
    gradient: Tensor,
    direction: Tensor,
) -> tuple[float, Tensor, Tensor] | None:
    """The first point with a sufficient decrease, at full length or shortened; None if there is none."""
    slope, length = float(gradient @ direction), 1.0
    if slope >= 0:
        return None
    for _ in range(SHORTENINGS):
        moved = x + length * direction
        new_value, new_gradient = objective(moved)
        if new_value <= value + SUFFICIENT * length * slope:
            return new_value, new_gradient, moved
        # The minimum of the parabola through what is known, within bounds; halved where that is no number.
        parabola = -slope * length / (2 * (new_value - value - slope * length))
        length *= min(max(parabola, 0.1), 0.5) if parabola == parabola else 0.5
    return None
