import pytest
import torch
import torch.nn.functional as F

from depthprune.recovery.through_norm import Norm, ThroughNorm, held_if_small

EPSILON = 1e-6


def problem(seed=0, tokens=120, n=8, d=6, noise=0.4, centred=False):
    """Tokens' features, targets and weights, a start and a gain; without noise there is an exact solution."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = random(tokens, n) * torch.logspace(0, -1.5, n, dtype=torch.float64)
    weights = random(tokens).square() + 0.1
    start, gain = random(n, d), random(d).abs() + 0.2
    truth, true_gain = start + 0.5 * random(n, d), gain * (1 + 0.2 * random(d))
    targets = true_gain * normed(features @ truth, centred) + noise * random(tokens, d)
    return features, targets, weights, start, gain


def normed(z, centred):
    return F.layer_norm(z, z.shape[-1:], eps=EPSILON) if centred else F.rms_norm(z, z.shape[-1:], eps=EPSILON)


def batches(*tensors, size=64):
    return lambda: zip(*(tensor.split(size) for tensor in tensors), strict=True)


def error(features, targets, weights, weight, gain, centred):
    rest = targets - gain * normed(features @ weight, centred)
    return (weights * rest.square().sum(1)).sum()


def minimum_by_a_general_optimiser(features, targets, weights, start, gain, penalty, centred):
    weight, scale = start.clone().requires_grad_(), gain.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, scale], max_iter=400, history_size=50, line_search_fn="strong_wolfe"
    )

    def objective():
        optimiser.zero_grad()
        loss = error(features, targets, weights, weight, scale, centred)
        loss = loss + penalty * (weight - start).square().sum()
        loss.backward()
        return loss

    optimiser.step(objective)
    return float(objective().detach())


@pytest.mark.parametrize(("centred", "seed"), [(False, 1), (True, 0)])
def test_the_minimum_is_at_least_that_of_a_general_optimiser(centred, seed):
    *data, start, gain = problem(seed, centred=centred)
    fitting = ThroughNorm(batches(*data), start, Norm(gain, EPSILON, centred))
    for penalty in (fitting.scale * rho for rho in (0.001, 0.1)):
        fit = fitting.fit(penalty, steps=400, enough=1e-8)
        assert fit.error_before == pytest.approx(float(error(*data, start, gain, centred)))
        assert fit.error == pytest.approx(float(error(*data, fit.weight, fit.gain, centred)))
        ours = fit.error + penalty * float((fit.weight - start).square().sum())
        assert ours <= 1.001 * minimum_by_a_general_optimiser(*data, start, gain, penalty, centred)


@pytest.mark.parametrize("centred", [False, True])
def test_an_exact_solution_is_found(centred):
    features, targets, weights, start, gain = problem(noise=0, centred=centred)
    unseen, wanted, _, _, _ = problem(noise=0, centred=centred)
    half = [tensor[:100] for tensor in (features, targets, weights)]
    fit = ThroughNorm(batches(*half), start, Norm(gain, EPSILON, centred)).fit(0, steps=400)
    assert fit.error < 1e-4 * fit.error_before
    torch.testing.assert_close(
        fit.gain * normed(unseen[100:] @ fit.weight, centred), wanted[100:], rtol=0, atol=0.05
    )


def test_the_scale_is_the_mean_curvature_in_an_entry_of_the_weight():
    features, _, weights, start, gain = problem(tokens=30, n=4, d=5)
    targets = gain * normed(features @ start, False)
    fitting = ThroughNorm(batches(features, targets, weights), start, Norm(gain, EPSILON))
    by_feature, by_output = torch.zeros(()), torch.zeros(())
    for f, w in zip(features, weights, strict=True):
        length = (f @ start).square().mean().sqrt()
        u = f @ start / length
        jacobian = gain.diag() @ (torch.eye(5, dtype=torch.float64) - torch.outer(u, u) / 5)
        by_feature = by_feature + w * f.square().mean() / length.square()
        by_output = by_output + w * jacobian.square().sum() / 5 / weights.sum()
    assert fitting.scale == pytest.approx(float(by_feature * by_output), rel=1e-3)


def test_the_ridge_holds_the_weight_but_not_the_gain():
    *data, start, gain = problem()
    fitting = ThroughNorm(batches(*data), start, Norm(gain, EPSILON))
    fit = fitting.fit(1e9 * fitting.scale)
    torch.testing.assert_close(fit.weight, start, rtol=0, atol=1e-6)
    features, targets, weights = data
    direction = normed(features @ start, False)
    for j in range(len(gain)):
        best = (weights * targets[:, j] * direction[:, j]).sum() / (weights * direction[:, j].square()).sum()
        assert float(fit.gain[j]) == pytest.approx(float(best), rel=1e-4)


def test_batches_do_not_matter_nor_tokens_without_weight():
    features, targets, weights, start, gain = problem()
    weights = weights.clone()
    weights[::3] = 0
    fits = []
    for keep, size in ((slice(None), 7), (weights > 0, 1000)):
        data = (features[keep], targets[keep], weights[keep])
        fitting = ThroughNorm(batches(*data, size=size), start, Norm(gain, EPSILON))
        fits.append(fitting.fit(0.1 * fitting.scale))
    assert fits[0].error == pytest.approx(fits[1].error, rel=1e-6)
    torch.testing.assert_close(fits[0].weight, fits[1].weight, rtol=1e-2, atol=1e-3)


def test_float32_finds_the_same_minimum_in_spite_of_a_massive_activation():
    features, targets, weights, start, gain = problem()
    features = features.clone()
    features[::40] *= 1e3
    errors = []
    for dtype in (torch.float64, torch.float32):
        fitting = ThroughNorm(batches(features, targets, weights), start.to(dtype), Norm(gain, EPSILON))
        fit = fitting.fit(0.01 * fitting.scale)
        assert fit.weight.dtype == fit.gain.dtype == dtype
        errors.append(fit.error)
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_no_step_is_taken_from_a_minimum():
    features, _, weights, start, gain = problem()
    data = (features, gain * normed(features @ start, False), weights)
    fit = ThroughNorm(batches(*data), start, Norm(gain, EPSILON)).fit(0)
    torch.testing.assert_close(fit.weight, start)
    torch.testing.assert_close(fit.gain, gain)


def test_a_gain_of_zero_and_tokens_that_do_not_span_the_features_stay_finite():
    features, targets, weights, start, gain = problem(tokens=5)
    gain = gain.clone()
    gain[2] = 0
    fitting = ThroughNorm(batches(features, targets, weights), start, Norm(gain, EPSILON))
    fit = fitting.fit(0)
    assert fitting.is_singular
    assert fit.weight.isfinite().all() and fit.gain.isfinite().all()
    assert 0 <= fit.error < fit.error_before


def test_small_batches_are_held_and_large_ones_made_anew():
    made = []

    def once_more():
        made.append(1)
        return iter([(torch.zeros(4, 4), torch.zeros(4, 2), torch.zeros(4))])

    held = held_if_small(once_more, limit=112)
    assert [len(list(held())) for _ in range(3)] == [1, 1, 1] and len(made) == 1
    anew = held_if_small(once_more, limit=111)
    assert [len(list(anew())) for _ in range(3)] == [1, 1, 1] and len(made) == 5
