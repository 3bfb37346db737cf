"""Counts against those made by hand, and by torch's own counter where it knows the operations."""

import pytest
import torch
from tiny import tiny_batch, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from depthprune.bench.counting import Counter, held_bytes
from depthprune.bench.generating import generation
from depthprune.model.anatomy import decoder_layers, lm_head
from depthprune.model.surgery import remove_layers

B, T, NEW = 2, 12, 5
MB = 10**6


def counted(work, held=0):
    counter = Counter(held)
    work(counter)
    return counter.found


def weights_of(model):
    """Elements of all two-dimensional weights of a layer, and of the head."""
    layer = sum(p.numel() for p in decoder_layers(model)[0].parameters() if p.ndim == 2)
    return layer, lm_head(model).weight.numel()


def flops_by_hand(model):
    """Products with weights, and attention's: 2 × 2 × d for each query and key, the masked ones too."""
    (layer, head), layers = weights_of(model), len(decoder_layers(model))
    width = model.config.num_attention_heads * model.config.head_dim
    prefill = B * (2 * layers * T * layer + 2 * head + 4 * layers * width * T * T)
    steps = range(T + 1, T + NEW)
    decode = B * sum(2 * layers * layer + 2 * head + 4 * layers * width * keys for keys in steps)
    return prefill, decode


def test_flops_of_prefill_and_decoding_are_those_by_hand():
    model = tiny_model()
    found = counted(generation(model, tiny_batch(length=T)["input_ids"], NEW))
    assert (found["prefill"].flops, found["decode"].flops) == flops_by_hand(model)


def test_the_ideal_of_a_cut_is_kept_layers_and_head_over_all_layers_and_head():
    whole, cut = tiny_model(), remove_layers(tiny_model(), [1, 2])
    ids = torch.randint(3, 100, (1, 1))
    one, other = (counted(generation(model, ids, 2))["prefill"].flops for model in (cut, whole))
    layer, head = weights_of(whole)
    attention = 2 * 32  # a query and a key, by 4 heads of 8
    assert one / other == (4 * (layer + attention) + head) / (6 * (layer + attention) + head)


def test_a_mixture_counts_the_experts_that_a_token_goes_through():
    model = tiny_model("mixtral", layers=1)
    batch = tiny_batch(length=T)
    model(batch["input_ids"])

    def work(section):
        with torch.no_grad(), section("pass"):
            model(batch["input_ids"], use_cache=False)

    config, tokens = model.config, B * T
    attention = tokens * 2 * 32 * (32 + 16 + 16 + 32) + B * 4 * 32 * T * T
    experts = tokens * 2 * (2 * 3 * config.intermediate_size * 32 + 4 * 32)  # two of them, and the router
    assert counted(work)["pass"].flops == attention + experts + tokens * 2 * 32 * config.vocab_size


@pytest.mark.parametrize("family", ["gpt2", "deepseek_v3"])
def test_forward_and_backward_as_torch_counts_them(family):
    model, batch = tiny_model(family, layers=4, attn_implementation="eager"), tiny_batch()

    def work(section):
        with section("step"):
            model(**batch, labels=batch["input_ids"]).loss.backward()

    with FlopCounterMode(display=False) as torchs:
        model(**batch, labels=batch["input_ids"]).loss.backward()
    found = counted(work)["step"].flops
    if family == "gpt2":
        assert found == torchs.get_total_flops()
    else:  # stacked experts, which torch leaves out
        assert found > torchs.get_total_flops()


def test_the_peak_is_of_tensors_that_there_are_at_once():
    weight = torch.ones(500, 500, requires_grad=True)
    given = torch.ones(500, 500)

    def without_gradient(section):
        with torch.no_grad(), section("pass"):
            hidden = given
            for _ in range(4):
                hidden = hidden + 1  # the one before is let go of once the next one is there

    def with_gradient(section):
        with section("step"):
            hidden = given
            for _ in range(3):
                hidden = torch.tanh(hidden @ weight)  # tanh keeps its output, the product its inputs
            hidden.sum().backward()

    assert counted(without_gradient, 7)["pass"].peak_bytes == 7 + 2 * MB
    # Three outputs; then gradients of an output, a product and two for the weight, the third output gone.
    assert 5 * MB <= counted(with_gradient)["step"].peak_bytes <= 7 * MB


def test_what_is_let_go_of_between_sections_counts_no_more():
    def work(section):
        with section("one"):
            kept = torch.ones(500, 500)
            gone = torch.ones(500, 500)
        del gone
        with section("two"):
            kept + 1

    found = counted(work)
    assert (found["one"].peak_bytes, found["two"].peak_bytes) == (2 * MB, 2 * MB)


def moved(operation, *tensors):
    def work(section):
        with section("it"):
            operation(*tensors)

    return counted(work)["it"].bytes


def test_bytes_are_read_and_written_and_views_move_none():
    one, other = torch.ones(10, 20), torch.ones(20, 5)
    assert moved(torch.matmul, one, other) == 4 * (200 + 100 + 50)
    assert moved(lambda tensor: tensor.T.reshape(20, 10)[3:], one) == 0
    assert moved(lambda tensor: tensor.view(-1).add_(1), one) == 4 * 2 * 200
    assert moved(torch.clone, torch.ones(1, 20).expand(10, 20)) == 4 * (20 + 200)
    rows = torch.tensor([3, 4])
    assert moved(lambda i, table: torch.nn.functional.embedding(i, table), rows, torch.ones(9, 20)) == (
        2 * 8 + 2 * 4 * 40
    )


def test_a_decoding_step_reads_every_weight_once():
    whole, cut = tiny_model(hidden_size=128), remove_layers(tiny_model(hidden_size=128), [2, 3, 4])
    ids = torch.randint(3, 100, (1, 1))
    one, other = (counted(generation(model, ids, 2))["decode"].bytes for model in (whole, cut))
    layer = sum(p.numel() for p in decoder_layers(whole)[0].parameters())
    assert 4 * 3 * layer <= one - other <= 1.2 * 4 * 3 * layer


def test_tied_weights_are_held_once():
    model = tiny_model("gemma3_text")
    assert held_bytes(model.parameters()) == held_bytes([*model.parameters(), lm_head(model).weight])
    assert held_bytes(model.parameters()) == 4 * sum(p.numel() for p in model.parameters())
