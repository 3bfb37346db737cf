import pytest
import torch
from safetensors.torch import load_file

from depthprune.importance.factors import FactorPair, mean_squared_gradient, write_step

RANK, IN, OUT, EXPERTS = 4, 24, 40, 3


def random_pair(experts=None, dtype=torch.float32, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn((experts or 1) * RANK, IN, generator=generator) * scale
    b = torch.randn(OUT, RANK * (experts or 1), generator=generator) * scale
    return FactorPair(a.to(dtype), b.to(dtype), experts)


def naive_products(pair):
    """∇B·∇A of each expert, in loops over experts and ranks; fp64."""
    experts = pair.experts or 1
    a, b = pair.a.double(), pair.b.double()
    products = []
    for e in range(experts):
        product = torch.zeros(b.shape[0], a.shape[1], dtype=torch.float64)
        for k in range(a.shape[0] // experts):
            # A's rows: expert by expert; B's columns: rank by rank.
            product += torch.outer(b[:, k * experts + e], a[e * (a.shape[0] // experts) + k])
        products.append(product)
    return products


@pytest.mark.parametrize("experts", [None, 1, EXPERTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_grams_equal_the_materialised_sum_of_squares(experts, dtype, scale):
    pair = random_pair(experts, dtype, scale=scale)
    naive = torch.stack([(product**2).sum() for product in naive_products(pair)])
    torch.testing.assert_close(pair.squared_norms().double(), naive, rtol=1e-5, atol=0)


def test_grams_survive_cancellation_between_ranks():
    pair = random_pair(seed=1)
    # The ranks nearly cancel: ‖∇B·∇A‖ is 1e-3 of the norms of its parts.
    a = torch.cat([pair.a[:2], pair.a[:2]])
    b = torch.cat([pair.b[:, :2], -pair.b[:, :2] + 1e-3 * pair.b[:, 2:]], dim=1)
    nearly = FactorPair(a, b)
    (naive,) = naive_products(nearly)
    torch.testing.assert_close(nearly.squared_norms().double(), (naive**2).sum()[None], rtol=1e-5, atol=0)


def test_split_gives_each_expert_its_own_factors():
    pair = random_pair(EXPERTS)
    b, a = pair.split()
    assert b.shape == (EXPERTS, OUT, RANK) and a.shape == (EXPERTS, RANK, IN)
    torch.testing.assert_close((b @ a).double(), torch.stack(naive_products(pair)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("experts", [None, EXPERTS])
@pytest.mark.parametrize("block", [1, 7 * IN, 2**20])
def test_mean_squared_gradient_is_the_mean_of_squares_over_steps(tmp_path, monkeypatch, experts, block):
    monkeypatch.setattr("depthprune.importance.factors._BLOCK_ELEMENTS", block)
    pairs = [random_pair(experts, seed=seed) for seed in range(5)]
    for step, pair in enumerate(pairs):
        write_step(tmp_path, step, {"layers.0.up": pair})
    naive = sum(torch.stack(naive_products(pair)) ** 2 for pair in pairs) / 5
    found = mean_squared_gradient(tmp_path, "layers.0.up", experts)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), naive if experts else naive[0], rtol=1e-5, atol=1e-6)


def test_a_step_without_the_weight_counts_as_zero(tmp_path):
    pair, other = random_pair(seed=0), random_pair(seed=1)
    write_step(tmp_path, 0, {"up": pair, "down": other})
    write_step(tmp_path, 1, {"down": other})
    torch.testing.assert_close(
        mean_squared_gradient(tmp_path, "up").double(), naive_products(pair)[0] ** 2 / 2, rtol=1e-5, atol=1e-6
    )
    assert mean_squared_gradient(tmp_path, "gate") is None


def test_spooled_files_hold_the_pairs_as_they_were(tmp_path):
    plain, stacked = random_pair(dtype=torch.bfloat16), random_pair(EXPERTS)
    write_step(
        tmp_path, 12, {"model.layers.0.mlp.up_proj": plain, "model.layers.0.mlp.experts.down": stacked}
    )
    assert [file.name for file in tmp_path.iterdir()] == ["step-00012.safetensors"]
    tensors = load_file(tmp_path / "step-00012.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "model.layers.0.mlp.up_proj.lora_A": (RANK, IN),
        "model.layers.0.mlp.up_proj.lora_B": (OUT, RANK),
        "model.layers.0.mlp.experts.down.lora_A": (EXPERTS * RANK, IN),
        "model.layers.0.mlp.experts.down.lora_B": (OUT, RANK * EXPERTS),
    }
    assert tensors["model.layers.0.mlp.up_proj.lora_A"].equal(plain.a)
    assert tensors["model.layers.0.mlp.experts.down.lora_B"].equal(stacked.b)
