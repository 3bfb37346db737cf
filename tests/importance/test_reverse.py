import torch
from tiny import tiny_model

from depthprune.importance.reverse import Reverse
from depthprune.selection import select_layers


def test_scores_fall_with_depth_so_the_last_layers_go():
    scores = Reverse()(tiny_model(layers=6))
    assert scores.equal(torch.tensor([0.0, -1.0, -2.0, -3.0, -4.0, -5.0]))
    assert select_layers(scores, 0.5).removed == (3, 4, 5)
