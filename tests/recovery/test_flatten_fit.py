"""The fits of flattening against dense solves over the tokens themselves."""

import itertools

import pytest
import torch

from depthprune.recovery.flatten.fit import Grams, ridge, strongest_channels, without_worst_groups

TOKENS, FEATURES, WIDTH = 60, 12, 5


def sample(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(TOKENS, FEATURES, generator=generator, dtype=torch.float64)
    t = z @ torch.randn(FEATURES, WIDTH, generator=generator, dtype=torch.float64)
    t += torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    w = torch.rand(TOKENS, generator=generator, dtype=torch.float64)
    return z, t, w, torch.randn(FEATURES, WIDTH, generator=generator, dtype=torch.float64)


def dense(z, t, w, prior, chosen, penalty):
    """The same least squares with the penalty as rows of its own, by QR over all tokens."""
    root = w.sqrt()[:, None]
    eye = torch.eye(len(chosen), dtype=torch.float64) * penalty**0.5
    rows = torch.cat([root * z[:, chosen], eye])
    wanted = torch.cat([root * t, penalty**0.5 * prior[chosen]])
    solved = torch.linalg.lstsq(rows, wanted).solution
    return solved, float((rows @ solved - wanted).square().sum())


def grams(z, t, w) -> Grams:
    return Grams(zip(z.split(17), t.split(17), w.split(17), strict=True))


@pytest.mark.parametrize("penalty", [0.0, 0.3, 40.0])
def test_the_ridge_is_the_dense_solve(penalty):
    z, t, w, prior = sample()
    chosen = torch.tensor([0, 3, 4, 9])
    fit = ridge(grams(z, t, w), prior, chosen, penalty)
    wanted, _ = dense(z, t, w, prior, chosen, penalty)
    torch.testing.assert_close(fit.weight, wanted, rtol=1e-9, atol=1e-9)


def test_the_error_is_that_of_the_tokens():
    z, t, w, prior = sample()
    chosen = torch.tensor([1, 2, 8])
    error = grams(z, t, w).squared_error(chosen, prior[chosen])
    assert error == pytest.approx(float((w[:, None] * (t - z[:, chosen] @ prior[chosen]).square()).sum()))


@pytest.mark.parametrize("penalty", [0.01, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_each_elimination_is_the_best_of_all_dense_ones(penalty, seed):
    z, t, w, prior = sample(seed)
    groups = list(torch.arange(FEATURES).split(3))
    left = list(range(len(groups)))
    while len(left) > 2:
        tried = {
            gone: dense(z, t, w, prior, torch.cat([groups[g] for g in left if g != gone]), penalty)[1]
            for gone in left
        }
        left.remove(min(tried, key=tried.__getitem__))
    found, fit = without_worst_groups(grams(z, t, w), prior, groups, 2, penalty)
    assert found == left
    wanted, _ = dense(z, t, w, prior, torch.cat([groups[g] for g in left]), penalty)
    torch.testing.assert_close(fit.weight, wanted, rtol=1e-7, atol=1e-9)
    assert fit.chosen.tolist() == [i for g in left for i in groups[g].tolist()]


def test_channels_that_the_target_is_made_of_are_found():
    z, _, w, prior = sample()
    made_of = torch.tensor([2, 5, 11])
    t = z[:, made_of] @ prior[made_of]
    fit = strongest_channels(grams(z, t, w), torch.zeros_like(prior), 3, 1e-9)
    assert fit.chosen.tolist() == made_of.tolist()
    torch.testing.assert_close(fit.weight, prior[made_of], rtol=1e-6, atol=1e-6)


def test_features_that_are_all_kept_are_the_whole_fit():
    z, t, w, prior = sample()
    every = torch.arange(FEATURES)
    found = grams(z, t, w)
    torch.testing.assert_close(
        strongest_channels(found, prior, FEATURES, 0.5).weight, ridge(found, prior, every, 0.5).weight
    )
    groups = list(every.split(4))
    assert without_worst_groups(found, prior, groups, 3, 0.5)[0] == list(itertools.chain(range(3)))
