"""Batches that go through a model on disk layer by layer compute what they do one by one in memory."""

from collections import Counter
from collections.abc import Mapping

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.importance import score_layers
from depthprune.importance.cut_loss import cut_losses
from depthprune.model.anatomy import decoder_layers
from depthprune.model.offloaded import load_offloaded, shelf_of
from depthprune.model.states import Room
from depthprune.model.walk import walks
from depthprune.recovery.activations import mean_loss, mean_outputs
from depthprune.recovery.stretch import log_norms

BATCHES = [tiny_batch(seed=seed, length=length) for seed, length in enumerate((12, 9, 12))]


class Counted(Mapping):
    """A layer's stored weights, which tells how often one of them is read."""

    def __init__(self, stored):
        self.stored, self.reads = stored, Counter()

    def __getitem__(self, name):
        self.reads[name] += 1
        return self.stored[name]

    def __iter__(self):
        return iter(self.stored)

    def __len__(self):
        return len(self.stored)


def on_disk(model, folder):
    model.save_pretrained(folder / "base")
    found, _ = load_offloaded(folder / "base", "disk", scratch=folder)
    return found


def counted(found):
    """The most often that a weight of each layer is read, as far as it is now."""
    weights = [layer._hf_hook.weights_map for layer in decoder_layers(found)]
    for one in weights:
        one.stored = Counted(one.stored)
    return lambda: [max(one.stored.reads.values()) for one in weights]


@pytest.mark.parametrize("family", ["llama", "opt", "mixtral"])
def test_each_layer_comes_once_for_all_batches(family, tmp_path):
    model = tiny_model(family)
    found = on_disk(model, tmp_path)
    assert walks(found, BATCHES)
    for metric in ("block-influence", "loss"):
        reads = counted(found)
        assert score_layers(found, BATCHES, metric).equal(score_layers(model, BATCHES, metric))
        assert reads()[1:] == [1] * 5  # the first one also shows what a layer returns
    assert cut_losses(found, BATCHES, [1, 2]).equal(cut_losses(model, BATCHES, [1, 2]))
    assert mean_outputs(found, BATCHES, [3]).equal(mean_outputs(model, BATCHES, [3]))
    assert log_norms(found, BATCHES).equal(log_norms(model, BATCHES))
    labelled = [{**batch, "labels": batch["input_ids"]} for batch in BATCHES]
    assert mean_loss(found, labelled, [0]) == mean_loss(model, labelled, [0])


def test_states_that_have_no_room_lie_in_files(tmp_path):
    model = tiny_model()
    found = on_disk(model, tmp_path)
    shelf_of(found).room = 2 * 12 * 32 * 4  # a batch's
    assert cut_losses(found, BATCHES, [4]).equal(cut_losses(model, BATCHES, [4]))
    assert score_layers(found, BATCHES, "loss").equal(score_layers(model, BATCHES, "loss"))
    room = Room(torch.device("cpu"), tmp_path, 400)
    states = room.of(torch.full((1, 3, 32), float(n)) for n in range(3))
    states[2] = states[2] + 1
    assert [float(states[n].mean()) for n in range(3)] == [0, 1, 3] and room.size < 0


def test_layers_that_hand_on_more_are_read_batch_by_batch(tmp_path):
    model = tiny_model("bloom")
    found = on_disk(model, tmp_path)
    shelf_of(found).walks = False
    assert cut_losses(found, BATCHES).equal(cut_losses(model, BATCHES))
    assert torch.equal(score_layers(found, BATCHES), score_layers(model, BATCHES))
