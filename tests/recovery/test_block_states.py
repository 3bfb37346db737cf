import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import hidden_state, record_layer_io
from depthprune.model.skip import skipped
from depthprune.recovery.block_states import block_states

# Windows, biases, tuples, in-place residuals, experts, two kinds of rotary embeddings.
FAMILIES = (
    "llama",
    "gpt2",
    "falcon",
    "bloom",
    "opt",
    "mixtral",
    "qwen3_moe",
    "gemma3_text",
    "phi",
    "gpt_oss",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_error_and_gradient_equal_those_of_a_loop_over_the_whole_model(family):
    model, batch = tiny_model(family, layers=6), tiny_batch(length=10)
    first, last = 2, 4
    with torch.no_grad():
        wanted = record_layer_io(model, batch)[last][1]
    layer, outputs = decoder_layers(model)[first], []
    handle = layer.register_forward_hook(lambda _, __, out: outputs.append(hidden_state(out)))
    with skipped(model, range(first + 1, 6)):
        model(**batch)
    handle.remove()
    squares = [
        (outputs[0][row, token] - wanted[row, token]).square().mean()
        for row in range(2)
        for token in range(int(batch["attention_mask"][row].sum()))
    ]
    expected = sum(squares) / len(squares)
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    model.zero_grad()

    (states,) = block_states(model, [batch], first, last)
    error = states.error(layer)
    error.backward()
    assert states.tokens == 18
    torch.testing.assert_close(error, expected, rtol=1e-5, atol=1e-6)
    for name, parameter in layer.named_parameters():
        if gradients[name] is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
    assert any(gradient is not None for gradient in gradients.values())
    # Used twice, the states are what they were.
    torch.testing.assert_close(states.error(layer), error, rtol=0, atol=0)


def test_the_last_block_and_a_bfloat16_model():
    model, batch = tiny_model(layers=4).bfloat16(), tiny_batch()
    (states,) = block_states(model, [batch], 2, 3)
    assert states.before.dtype == states.after.dtype == torch.bfloat16
    assert states.after.equal(record_layer_io(model, batch)[3][1])
    error = states.error(tiny_model(layers=4).model.layers[2])
    assert error.dtype == torch.float32 and error > 0
