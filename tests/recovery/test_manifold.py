import math

import numpy as np
import pytest
from scipy.special import digamma

from depthprune.recovery.manifold import diffusion_map, entropy, mutual_information, similarities


def points(count=30, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, d)) * 4


def test_the_map_is_the_eigenvectors_of_the_markov_matrix():
    cloud, sigma, alpha = points(), 8.0, 0.5
    count = len(cloud)
    kernel = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(cloud[i], cloud[j], strict=True)))
            kernel[i, j] = math.exp(-((distance / sigma) ** 0.5))
    density = [sum(row) for row in kernel]
    normal = np.array(
        [[kernel[i, j] / (density[i] * density[j]) ** alpha for j in range(count)] for i in range(count)]
    )
    values, vectors = np.linalg.eig(normal / normal.sum(axis=1, keepdims=True))
    order = np.argsort(-values.real)
    assert values.real[order[0]] == pytest.approx(1)
    found = diffusion_map(cloud, sigma, alpha, 2)
    for k in (1, 2):
        expected = vectors[:, order[k]].real
        expected = (expected - expected.mean()) / expected.std()
        sign = np.sign(expected @ found[:, k - 1])
        np.testing.assert_allclose(found[:, k - 1], sign * expected, atol=1e-8)


def test_entropy_by_neighbours_equals_loops_and_nears_the_gaussians():
    cloud = points(40, 2)
    logs = []
    for i in range(40):
        distances = sorted(math.dist(cloud[i], cloud[j]) for j in range(40) if j != i)
        logs.append(math.log(distances[4]))
    expected = digamma(40) - digamma(5) + math.log(math.pi) + 2 * sum(logs) / 40
    assert entropy(cloud, 5) == pytest.approx(expected)
    many = np.random.default_rng(1).normal(size=(5000, 2))
    assert entropy(many, 5) == pytest.approx(math.log(2 * math.pi * math.e), abs=0.05)


def naive_information(x, y, neighbours):
    """Kraskov's first estimator on one coordinate each."""
    count, total = len(x), 0.0
    for i in range(count):
        others = [j for j in range(count) if j != i]
        radius = sorted(max(abs(x[i] - x[j]), abs(y[i] - y[j])) for j in others)[neighbours - 1]
        near_x = sum(abs(x[i] - x[j]) < radius for j in others)
        near_y = sum(abs(y[i] - y[j]) < radius for j in others)
        total += digamma(near_x + 1) + digamma(near_y + 1)
    return max(0.0, digamma(count) + digamma(neighbours) - total / count)


def test_mutual_information_is_the_mean_over_pairs_of_coordinates():
    one = points(50, 2)
    other = one @ np.array([[1.0, 0.2], [0.1, 1.0]]) + points(50, 2, seed=1) / 4
    expected = [
        naive_information(x / x.std(), y / y.std(), 5) for x in one.T for y in other.T
    ]  # both on one scale, as the estimator has it
    assert mutual_information(one, other, 5) == pytest.approx(np.mean(expected), abs=1e-6)
    assert max(expected) > 0.5


def test_similarities_are_normalised_and_symmetric():
    maps = [points(60, 2, seed) for seed in range(3)]
    maps[1] = maps[0] + maps[1] / 10
    found = similarities(maps, 5, 20)
    assert np.isnan(np.diag(found)).all()
    expected = mutual_information(maps[0], maps[1], 5) / math.sqrt(
        entropy(maps[0], 20) * entropy(maps[1], 20)
    )
    assert found[0, 1] == found[1, 0] == pytest.approx(expected)
    assert found[0, 1] > found[0, 2]


def test_a_map_without_positive_entropy_has_no_similarity():
    maps = [points(60, 2, seed) for seed in range(3)]
    found = similarities([maps[0], maps[1] / 1000, maps[2]], 5, 20)
    assert np.isnan(found[1]).all() and np.isfinite(found[0, 2])
