"""Gradient norms of a model on disk, layer by layer, are those of the same model in memory."""

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.importance import score_layers
from depthprune.model.anatomy import decoder_layers
from depthprune.model.offloaded import load_offloaded, shelf_of
from depthprune.model.skip import skipped

FAMILIES = ("llama", "qwen3", "gemma3_text", "opt", "gpt2", "mixtral", "olmo2", "phi")
BATCHES = [tiny_batch(seed=seed, length=length) for seed, length in enumerate((12, 9, 12))]


def on_disk(model, folder):
    model.save_pretrained(folder / "base")
    return load_offloaded(folder / "base", "disk", scratch=folder)[0]


def assert_same(found, model):
    scores, expected = (score_layers(one, BATCHES, "gradient-norm") for one in (found, model))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=0)
    return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_in_memory(family, tmp_path):
    model = tiny_model(family)
    found = on_disk(model, tmp_path)
    assert_same(found, model)
    assert len(shelf_of(found).at_hand) == 1
    assert all(weight.requires_grad for weight in found.parameters())
    assert all(weight.grad is None for weight in found.parameters())


def test_layers_that_are_skipped_and_states_in_files(tmp_path):
    model = tiny_model()
    found = on_disk(model, tmp_path)
    shelf_of(found).room = 2 * 12 * 32 * 4  # a batch's
    with skipped(model, [1, 5]), skipped(found, [1, 5]):
        scores = assert_same(found, model)
    assert scores[[1, 5]].tolist() == [0, 0] and scores[[0, 2, 3, 4]].min() > 0


def test_each_layer_comes_once_forward_and_once_backward(tmp_path, monkeypatch):
    found = on_disk(tiny_model(), tmp_path)
    score_layers(found, BATCHES, "gradient-norm")  # tries whether its layers can be called one by one
    came = []
    hook = type(decoder_layers(found)[0]._hf_hook)
    bring = hook.bring

    def counted(self):
        came.extend([] if self in self.shelf.at_hand else [self.layer])
        bring(self)

    monkeypatch.setattr(hook, "bring", counted)
    score_layers(found, BATCHES, "gradient-norm")
    layers = list(decoder_layers(found))
    # The first one is still there from the scores before.
    assert [layers.index(layer) for layer in came] == [1, 2, 3, 4, 5, 4, 3, 2, 1, 0]


def test_what_is_damaged_is_named(tmp_path):
    model = tiny_model()
    decoder_layers(model)[2].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"layer 2 are not finite: .*up_proj\.weight"):
        score_layers(on_disk(model, tmp_path), BATCHES, "gradient-norm")


def test_layers_that_hand_on_more_are_refused(tmp_path):
    found = on_disk(tiny_model("bloom"), tmp_path)
    shelf_of(found).walks = False
    with pytest.raises(UserError, match="layers of bloom hand on more than hidden states"):
        score_layers(found, BATCHES, "gradient-norm")
