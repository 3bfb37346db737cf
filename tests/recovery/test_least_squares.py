import pytest
import torch
from naive_repair import ridge_by_lstsq

from depthprune.recovery.adam import adam_change
from depthprune.recovery.least_squares import Moments, Ridge


def random_pairs(batches=3, tokens=40, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    pairs = []
    for _ in range(batches):
        y = torch.randn(tokens, size, generator=generator, dtype=torch.float64) @ mixing
        e = 0.3 * y.flip(1) + torch.randn(tokens, size, generator=generator, dtype=torch.float64)
        pairs.append((e, y))
    return pairs


def stacked(pairs):
    return torch.cat([e for e, _ in pairs]), torch.cat([y for _, y in pairs])


@pytest.mark.parametrize("penalty", [0.0, 0.5, 300.0])
def test_the_closed_form_is_the_least_squares_solution(penalty):
    pairs = random_pairs()
    ridge = Ridge(Moments(pairs))
    torch.testing.assert_close(ridge.toward_identity(penalty), ridge_by_lstsq(*stacked(pairs), penalty))
    expected = ridge_by_lstsq(*stacked(pairs), penalty, toward=-1.0)
    torch.testing.assert_close(ridge.toward_zero(penalty), expected)


def test_the_gradient_vanishes_at_the_solution():
    pairs = random_pairs()
    e, y = stacked(pairs)
    change = Ridge(Moments(pairs)).toward_identity(7.0).requires_grad_()
    loss = sum((e_t - change @ y_t).square().sum() for e_t, y_t in zip(e, y, strict=True))
    (loss + 7.0 * change.square().sum()).backward()
    assert change.grad.norm() < 1e-12 * (2 * e.mT @ y).norm()


def test_errors_from_moments_are_those_of_the_tokens():
    pairs = random_pairs()
    e, y = stacked(pairs)
    moments = Moments(pairs)
    change = torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    error = sum(float((e_t - change @ y_t).square().sum()) for e_t, y_t in zip(e, y, strict=True))
    assert moments.tokens == 120
    assert moments.squared_error(change) == pytest.approx(error)
    assert moments.relative_error(change) == pytest.approx(error / float(e.square().sum()))
    assert moments.objective(change, 3.0) == pytest.approx(error + 3.0 * float(change.square().sum()))
    assert moments.scale == pytest.approx(float(y.square().sum()) / 16)


def test_one_huge_direction_does_not_drown_the_others():
    e, y = stacked(random_pairs())
    y[:, 0] *= 1e5
    pairs = [(e.float(), y.float())]
    found = Ridge(Moments(pairs)).toward_identity(0.0)
    torch.testing.assert_close(
        found, ridge_by_lstsq(e.float().double(), y.float().double(), 0.0), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(("tokens", "singular"), [(15, True), (16, False)])
def test_fewer_tokens_than_dimensions_are_singular(tokens, singular):
    pairs = [(e.float(), y.float()) for e, y in random_pairs(batches=1, tokens=tokens)]
    assert Ridge(Moments(pairs)).is_singular == singular


def test_adam_comes_to_the_closed_form_from_above():
    pairs = random_pairs()
    moments = Moments(pairs)
    best = moments.objective(Ridge(moments).toward_identity(5.0), 5.0)
    nothing = moments.objective(torch.zeros(16, 16, dtype=torch.float64), 5.0)
    few, many = (moments.objective(adam_change(pairs, 5.0, epochs, 1e-3), 5.0) for epochs in (5, 500))
    assert best < many < few < nothing
    assert many == pytest.approx(best, rel=0.01)
