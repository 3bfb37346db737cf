import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import for_each_layer_io, record_layer_io


@pytest.mark.parametrize("family", ["llama", "falcon", "bloom", "gpt2", "opt", "gemma2", "mixtral"])
def test_states_are_those_that_the_model_itself_reports(family):
    model, batch = tiny_model(family), tiny_batch()
    with torch.no_grad():
        states = record_layer_io(model, batch)
        reported = model(**batch, output_hidden_states=True).hidden_states
    assert len(states) == 6
    for i, (before, after) in enumerate(states):
        assert before.shape == after.shape == (2, 12, 32)
        torch.testing.assert_close(before, reported[i])
        if i < 5:  # the last one that is reported has gone through the final norm
            torch.testing.assert_close(after, reported[i + 1])
            torch.testing.assert_close(after, states[i + 1][0])


def test_the_last_state_is_taken_before_the_final_norm():
    model, batch = tiny_model(), tiny_batch()
    with torch.no_grad():
        last = record_layer_io(model, batch)[-1][1]
        torch.testing.assert_close(model.lm_head(model.model.norm(last)), model(**batch).logits)


def test_hooks_are_gone_afterwards_even_after_an_error():
    model = tiny_model()

    def stop(i, before, after):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each_layer_io(model, tiny_batch(), stop)
    for layer in decoder_layers(model):
        assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_an_input_is_kept_though_the_layer_writes_over_it():
    model, batch = tiny_model(), tiny_batch()
    with torch.no_grad():
        expected = record_layer_io(model, batch)[2][0]
        decoder_layers(model)[2].input_layernorm.register_forward_pre_hook(lambda _, args: args[0].mul_(2))
        assert torch.equal(record_layer_io(model, batch)[2][0], expected)
