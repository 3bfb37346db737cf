import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.skip import skipped, skipped_layers
from depthprune.model.surgery import remove_layers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [[0, 3], [4, 5], [1]])
def test_skipping_is_what_removing_does(family, layers):
    batch = tiny_batch()
    model = tiny_model(family)
    with torch.no_grad(), skipped(model, layers):
        shallow = model(**batch, use_cache=False).logits
    try:
        removed = remove_layers(tiny_model(family), layers)
    except UserError:
        pytest.skip("this family's config cannot say it")
    with torch.no_grad():
        torch.testing.assert_close(shallow, removed(**batch, use_cache=False).logits)


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_the_layers_come_back_even_after_an_error(family):
    model, batch = tiny_model(family), tiny_batch()
    with torch.no_grad():
        whole = model(**batch).logits
        with pytest.raises(KeyboardInterrupt), skipped(model, [1, 2]):
            assert not torch.equal(model(**batch).logits, whole)
            raise KeyboardInterrupt
        assert torch.equal(model(**batch).logits, whole)
    assert all("forward" not in vars(layer) for layer in decoder_layers(model))


def test_gradients_pass_through_a_skipped_layer():
    model, batch = tiny_model(), tiny_batch()
    with skipped(model, [2]):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    graded = [any(p.grad is not None for p in layer.parameters()) for layer in decoder_layers(model)]
    assert graded == [True, True, False, True, True, True]


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_blocks_may_be_nested(family):
    model, batch = tiny_model(family), tiny_batch()
    with torch.no_grad():
        with skipped(model, [1, 4]):
            both = model(**batch).logits
        with skipped(model, [4]):
            outer = model(**batch).logits
            with skipped(model, [1, 4]):
                assert skipped_layers(model) == [1, 4]
                assert torch.equal(model(**batch).logits, both)
            assert skipped_layers(model) == [4]
            assert torch.equal(model(**batch).logits, outer)
    assert skipped_layers(model) == []


@pytest.mark.parametrize("family, length", [("llama", None), ("falcon", 2)])
def test_known_forms_spare_the_call_that_shows_them(family, length):
    model, batch, forms, calls = tiny_model(family), tiny_batch(), {}, []
    next(decoder_layers(model)[0].children()).register_forward_hook(lambda *_: calls.append(0))
    with torch.no_grad():
        for _ in range(3):
            with skipped(model, [0], forms):
                model(**batch)
    assert len(calls) == 1 and forms == {type(decoder_layers(model)[0]): length}
