import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder, decoder_layers
from depthprune.model.resume import without_each_layer
from depthprune.model.skip import skipped


class LayerCalls:
    """Counts the layers that compute, by their first submodule's calls."""

    def __init__(self, model):
        self.count = 0
        for layer in decoder_layers(model):
            next(layer.children()).register_forward_hook(self.add)

    def add(self, *_):
        self.count += 1


@pytest.mark.parametrize("removed", [[], [0, 3], [5]])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_output_is_that_of_the_whole_pass_without_the_layer(family, removed):
    model, batch = tiny_model(family), tiny_batch()
    with torch.no_grad(), skipped(model, removed):
        found = dict(without_each_layer(model, {**batch, "labels": batch["input_ids"]}))
        assert list(found) == [i for i in reversed(range(6)) if i not in removed]
        for i, output in found.items():
            with skipped(model, [i]):
                whole = decoder(model)(**batch, use_cache=False).last_hidden_state
            torch.testing.assert_close(output.last_hidden_state, whole, rtol=0, atol=1e-6)


def test_layers_that_use_what_others_computed_are_refused():
    settings = {"layer_types": ["sliding_attention", "full_attention"] * 3, "hidden_size_per_layer_input": 0}
    model = tiny_model("gemma4_text", num_kv_shared_layers=2, **settings)
    with pytest.raises(UserError, match="gemma4_text: layers of this model use keys, values"):
        next(iter(without_each_layer(model, tiny_batch())))


@pytest.mark.parametrize("removed, left", [([], 6), ([2, 5], 4), ([0, 1, 2, 3], 2)])
@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_layers_before_the_missing_one_are_not_computed_again(family, removed, left):
    model, forms = tiny_model(family), {}
    with torch.no_grad():
        with skipped(model, removed, forms):
            decoder(model)(**tiny_batch(), use_cache=False)  # learns what a skipped layer returns
        calls = LayerCalls(model)
        with skipped(model, removed, forms):
            found = list(without_each_layer(model, tiny_batch()))
    naive = left * (left - 1)
    assert len(found) == left
    assert calls.count * 2 * left == naive * (left + 2)  # (m + 2)/2m of the naive passes


def test_the_only_layer_left_can_be_left_out_too():
    model, batch = tiny_model(layers=2), tiny_batch()
    with torch.no_grad(), skipped(model, [0]):
        ((layer, output),) = without_each_layer(model, batch)
        assert layer == 1
        embedded = model.model.norm(model.model.embed_tokens(batch["input_ids"]))
    torch.testing.assert_close(output.last_hidden_state, embedded)


def test_the_model_is_left_as_it_was_even_when_the_reader_stops_early():
    model, batch = tiny_model(), tiny_batch()
    with torch.no_grad():
        whole = model(**batch).logits
        next(iter(without_each_layer(model, batch)))
        assert torch.equal(model(**batch).logits, whole)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
