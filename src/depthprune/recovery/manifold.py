"""How alike two layers are: diffusion maps of their hidden states, and the information that these share."""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist
from scipy.special import digamma, gammaln
from sklearn.feature_selection import mutual_info_regression
from sklearn.neighbors import NearestNeighbors

Array = np.ndarray


def diffusion_map(points: Array, sigma: float, alpha: float, dimensions: int) -> Array:
    """The diffusion map of points [N, d], with the kernel exp(−(D/σ)^½): [N, dimensions].

    The kernel is divided by its densities to the power α, then made a Markov matrix; the coordinates are its
    eigenvectors after the first, which is constant. Each is scaled to mean 0 and variance 1.
    """
    kernel = np.exp(-np.sqrt(cdist(points, points) / sigma))
    density = kernel.sum(axis=1)
    kernel /= np.outer(density, density) ** alpha
    root = np.sqrt(kernel.sum(axis=1))
    # The Markov matrix is similar to this symmetric one; its own eigenvectors are these over the first.
    last = len(points) - 1
    _, vectors = eigh(kernel / np.outer(root, root), subset_by_index=[last - dimensions, last])
    coordinates = vectors[:, -2::-1] / vectors[:, -1:]
    return (coordinates - coordinates.mean(axis=0)) / coordinates.std(axis=0)


def entropy(points: Array, neighbours: int) -> float:
    """The differential entropy of points [N, d] in nats, by the distance to the k-th nearest neighbour.

    ψ(N) − ψ(k) + log V_d + d·E[log ε_k], V_d the volume of the unit ball (Kozachenko and Leonenko).
    """
    count, d = points.shape
    nearest = NearestNeighbors(n_neighbors=neighbours + 1).fit(points)  # each point is its own nearest one
    distance = nearest.kneighbors(points)[0][:, -1]
    ball = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
    return float(digamma(count) - digamma(neighbours) + ball + d * np.log(distance).mean())


def mutual_information(one: Array, other: Array, neighbours: int) -> float:
    """The mean mutual information of a coordinate of `one` and one of `other`, [N, d] each, in nats.

    By the nearest neighbours of each pair of coordinates (Kraskov et al., arXiv:cond-mat/0305641).
    """
    found = [
        mutual_info_regression(one, column, n_neighbors=neighbours, random_state=0).mean()
        for column in other.T
    ]
    return float(np.mean(found))


def similarities(maps: Sequence[Array], mi_neighbours: int, entropy_neighbours: int) -> Array:
    """S_ij = I(i; j) / √(H_i·H_j) of every two maps, [n, n]; NaN on the diagonal.

    H_i is NaN, and so is every S_ij of it, where the entropy of a map is not positive.
    """
    entropies = np.array([entropy(points, entropy_neighbours) for points in maps])
    entropies[entropies <= 0] = np.nan
    found = np.full((len(maps), len(maps)), np.nan)
    for i, one in enumerate(maps):
        for j in range(i + 1, len(maps)):
            information = mutual_information(one, maps[j], mi_neighbours)
            found[i, j] = found[j, i] = information / np.sqrt(entropies[i] * entropies[j])
    return found
