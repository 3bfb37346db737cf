import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_model

from depthprune.model import memory
from depthprune.model.anatomy import decoder, decoder_layers


def test_a_tokens_activations_are_the_outputs_of_the_widest_layers_linears():
    # q, k, v and o have 32 inputs or outputs, gate, up and down 48; float32 each.
    assert memory.token_bytes(tiny_model(layers=2), 100) == 4 * (4 * 32 + 3 * 48)
    eager = tiny_model(layers=2, attn_implementation="eager")
    assert memory.token_bytes(eager, 100) == 4 * (4 * 32 + 3 * 48) + 8 * 4 * 100


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_no_layer_makes_a_wider_tensor(family):
    """Beside the scores of eager attention, of which there is one at a time."""
    model, batch = tiny_model(family, layers=6), tiny_batch()
    tokens, widest = batch["input_ids"].numel(), []

    def look(_, __, output):
        for value in output if isinstance(output, tuple) else [output]:
            if isinstance(value, torch.Tensor) and value.dim() < 4:
                widest.append(value.numel() * 4)

    for layer in decoder_layers(model):
        for module in layer.modules():
            module.register_forward_hook(look)
    decoder(model)(**batch, use_cache=False)
    assert max(widest) <= tokens * memory.token_bytes(model, 12)


def test_fewer_tokens_go_together_where_little_is_free(monkeypatch):
    model = tiny_model(layers=2)
    size = memory.token_bytes(model, 100)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20 * size)
    assert memory.affordable_tokens(model, 100) == 10
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert memory.affordable_tokens(model, 100) == 1
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**60)
    assert memory.affordable_tokens(model, 100) == memory._BUDGET_BYTES // size
