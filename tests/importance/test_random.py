import torch
from tiny import tiny_model

from depthprune.importance.random import Random


def test_the_seed_decides_and_the_global_one_does_not():
    model = tiny_model(layers=6)
    first = Random(seed=1)(model)
    torch.manual_seed(123)
    assert Random(seed=1)(model).equal(first)
    assert not Random(seed=2)(model).equal(first)
    assert first.shape == (6,) and first.dtype == torch.float32
    assert ((first >= 0) & (first < 1)).all() and len(set(first.tolist())) == 6


def test_scoring_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Random()(tiny_model(layers=4))
    assert torch.rand(3).equal(expected)
