"""Models whose layers lie on disk compute, change and save as those in memory do."""

import copy
import gc
from types import SimpleNamespace

import psutil
import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.importance import score_layers
from depthprune.importance.cut_loss import cut_losses
from depthprune.model.anatomy import decoder_layers
from depthprune.model.loading import load_model
from depthprune.model.offloaded import at_hand, load_offloaded, shelf_of
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import save_pruned

BATCHES = [tiny_batch(), tiny_batch(seed=1)]


def on_disk(model, folder):
    model.save_pretrained(folder / "base")
    return load_offloaded(folder / "base", "disk", scratch=folder)[0]


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "gpt_oss"])
def test_what_comes_from_disk_computes_the_same(family, tmp_path):
    model = tiny_model(family)
    found = on_disk(model, tmp_path)
    for metric in ("block-influence", "loss"):
        assert score_layers(found, BATCHES, metric).equal(score_layers(model, BATCHES, metric))
        assert len(shelf_of(found).at_hand) == 1
    assert cut_losses(found, BATCHES, [1, 2]).equal(cut_losses(model, BATCHES, [1, 2]))
    del found
    gc.collect()
    assert not list(tmp_path.glob(".offloaded-*"))


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_what_changes_of_a_layer_is_kept_and_saved(family, tmp_path):
    model = tiny_model(family)
    found = on_disk(model, tmp_path)
    for one in (model, found):
        layer = decoder_layers(one)[2]
        with at_hand(layer):
            for parameter in layer.parameters():
                parameter.data = 2 * parameter.data
        remove_layers(one, [1])
    assert cut_losses(found, BATCHES).equal(cut_losses(model, BATCHES))
    save_pruned(found, tmp_path / "pruned", tmp_path / "base")
    saved = load_model(tmp_path / "pruned").state_dict()
    assert all(saved[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_a_copy_has_weights_of_its_own(tmp_path):
    layer = decoder_layers(on_disk(tiny_model(), tmp_path))[3]
    assert all(parameter.is_meta for parameter in layer.parameters())
    with at_hand(layer):
        own = copy.deepcopy(layer)
    assert not any(parameter.is_meta for parameter in own.parameters())
    hidden, places = torch.ones(1, 1, 32), (torch.ones(1, 1, 8), torch.zeros(1, 1, 8))
    before = own(hidden, position_embeddings=places)
    own.mlp.down_proj.weight.data.zero_()
    assert not own(hidden, position_embeddings=places)[0].equal(before[0])
    with at_hand(layer):
        assert layer.mlp.down_proj.weight.any()


def test_auto_leaves_on_disk_what_has_no_room_elsewhere(tmp_path, monkeypatch):
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    whole, _ = load_offloaded(tmp_path / "base", "auto", scratch=tmp_path)
    assert shelf_of(whole) is None  # all of it is in memory
    size = sum(parameter.nbytes for parameter in model.parameters())
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size * 2 // 3))
    found, _ = load_offloaded(tmp_path / "base", "auto", scratch=tmp_path)
    on_disk = [all(parameter.is_meta for parameter in layer.parameters()) for layer in decoder_layers(found)]
    assert True in on_disk and False in on_disk
    for one in (whole, found):
        assert cut_losses(one, BATCHES, [1, 5]).equal(cut_losses(model, BATCHES, [1, 5]))
        for metric in ("block-influence", "loss", "gradient-norm"):
            assert score_layers(one, BATCHES, metric).allclose(
                score_layers(model, BATCHES, metric), rtol=1e-5
            )
