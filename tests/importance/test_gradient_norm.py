import logging

import pytest
import torch
import torch.nn.functional as F
from tiny import FAMILIES, tiny_batch, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from depthprune import UserError, score_layers
from depthprune.importance.gradient_norm import GradientNorm
from depthprune.model.anatomy import decoder_layers


def naive_scores(model, batches):
    """Sample by sample without padding, from .grad of every parameter."""
    layers = decoder_layers(model)
    totals, count = [0.0] * len(layers), 0
    for batch in batches:
        labels = batch.get("labels", batch["input_ids"])
        for ids, targets, mask in zip(
            batch["input_ids"], labels, batch["attention_mask"].bool(), strict=True
        ):
            model.zero_grad(set_to_none=True)
            logits = model(input_ids=ids[mask][None], use_cache=False).logits[0]
            F.cross_entropy(logits[:-1].float(), targets[mask][1:]).backward()
            for i, layer in enumerate(layers):
                gradients = [weight.grad for weight in layer.parameters() if weight.grad is not None]
                totals[i] += sum(gradient.double().norm().item() for gradient in gradients)
            count += 1
    model.zero_grad(set_to_none=True)
    return torch.tensor([total / count for total in totals])


def labelled(batch):
    """Only the second half of each row is a target."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, : labels.shape[1] // 2] = -100
    return {**batch, "labels": labels}


def assert_equal(scores, expected):
    assert scores.dtype == torch.float32 and scores.shape == expected.shape
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_a_loop_of_backward_passes_with_padding(family):
    model = tiny_model(family, layers=6)
    batches = [tiny_batch(batch_size=3), labelled(tiny_batch(batch_size=2, length=9, seed=1))]
    expected = naive_scores(model, batches)
    assert_equal(GradientNorm(batch_size=3)(model, batches), expected)
    assert_equal(GradientNorm(batch_size=3, gradient_checkpointing=True)(model, batches), expected)


@pytest.mark.parametrize("length", [3, 12, 60], ids=["few tokens", "Grams", "sum over tokens"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_scores_do_not_depend_on_the_way_of_the_norms(family, length):
    """d 32 by 32: Grams are cheaper below 16 tokens."""
    model = tiny_model(family, layers=3)
    batches = [labelled(tiny_batch(batch_size=4, length=length + 2))]
    assert_equal(GradientNorm(batch_size=4)(model, batches), naive_scores(model, batches))


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 12, 40])
def test_scores_do_not_depend_on_the_batch_size(batch_size):
    model = tiny_model("qwen3_moe", layers=4)
    batches = [tiny_batch(batch_size=9), tiny_batch(batch_size=4, length=7, seed=1)]
    assert_equal(GradientNorm(batch_size=batch_size)(model, batches), naive_scores(model, batches))


def test_left_padding_and_rows_of_padding_do_not_count():
    model = tiny_model(layers=3)
    batch = tiny_batch(batch_size=2)
    batch["attention_mask"][:] = 1
    left = {key: F.pad(tensor, (4, 0)) for key, tensor in batch.items()}
    assert_equal(GradientNorm()(model, [left]), naive_scores(model, [batch]))


def test_bfloat16_weights_give_nearly_the_scores_of_float32():
    model = tiny_model(layers=4)
    batches = [tiny_batch(batch_size=3)]
    expected = GradientNorm()(model, batches)
    scores = GradientNorm()(model.bfloat16(), batches)
    torch.testing.assert_close(scores, expected, rtol=0.03, atol=0)


class ExpertList(torch.nn.Module):
    """A mixture as older remote code has it: an expert is a module called with the tokens that chose it."""

    def __init__(self, width):
        super().__init__()
        self.gate = torch.nn.Linear(width, 4)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(4))

    def forward(self, hidden):
        flat = hidden.reshape(-1, hidden.shape[-1])
        weight, chosen = self.gate(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            tokens = (chosen == i).nonzero()[:, 0]
            if len(tokens):
                out = out.index_add(0, tokens, expert(flat[tokens]) * weight[tokens, None])
        return out.view_as(hidden)


class UsedTwice(torch.nn.Module):
    """A linear that a layer calls twice, and a scale that is a weight of a module never called."""

    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)
        self.uncalled = torch.nn.LayerNorm(width)

    def forward(self, hidden):
        return self.linear(torch.tanh(self.linear(hidden)) * self.uncalled.weight)


@pytest.mark.parametrize("block", [ExpertList, UsedTwice])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_of_remote_code(block, checkpointing):
    model = tiny_model(layers=3)
    torch.manual_seed(0)
    for layer in model.model.layers:
        layer.mlp = block(32)
    batches = [tiny_batch(batch_size=3)]
    scores = GradientNorm(batch_size=3, gradient_checkpointing=checkpointing)(model, batches)
    assert_equal(scores, naive_scores(model, batches))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_module_shared_by_layers_counts_in_each(checkpointing):
    model = tiny_model(layers=4)
    model.model.layers[2].mlp = model.model.layers[0].mlp
    batches = [tiny_batch(batch_size=3)]
    scores = GradientNorm(batch_size=3, gradient_checkpointing=checkpointing)(model, batches)
    assert_equal(scores, naive_scores(model, batches))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_skipped_layer_scores_zero(checkpointing):
    model = tiny_model(layers=4)
    layer = model.model.layers[1]
    layer.forward = lambda hidden_states, **kwargs: hidden_states
    batches = [tiny_batch(batch_size=3)]
    scores = GradientNorm(batch_size=3, gradient_checkpointing=checkpointing)(model, batches)
    assert scores[1] == 0 and (scores[[0, 2, 3]] > 0).all()
    assert_equal(scores, naive_scores(model, batches))


def test_a_weight_without_gradient_adds_nothing():
    model = tiny_model(layers=3)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    batches = [tiny_batch()]
    assert_equal(GradientNorm()(model, batches), naive_scores(model, batches))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_model_is_left_as_it_was(checkpointing):
    model = tiny_model(layers=3).train()
    model.model.layers[1].eval()
    model.model.embed_tokens.weight.requires_grad_(False)
    learnable = [weight.requires_grad for weight in model.parameters()]
    training = [module.training for module in model.modules()]
    GradientNorm(gradient_checkpointing=checkpointing)(model, [tiny_batch()])
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError):
        GradientNorm(gradient_checkpointing=checkpointing)(model, [tiny_batch()])
    assert [weight.requires_grad for weight in model.parameters()] == learnable
    assert [module.training for module in model.modules()] == training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())


class LargestResult(TorchDispatchMode):
    """The most elements that any operation allocated."""

    def __init__(self, model):
        super().__init__()
        self.weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if torch.is_tensor(result) and result.untyped_storage().data_ptr() not in self.weights:
                self.elements = max(self.elements, result.numel())
        return results


@pytest.mark.parametrize("batch_size", [None, 3])
def test_nothing_of_a_weights_size_is_allocated(batch_size):
    model = tiny_model(layers=2, hidden_size=64, intermediate_size=96, head_dim=16, num_key_value_heads=4)
    model.requires_grad_(True)
    with LargestResult(model) as largest:
        GradientNorm(batch_size=batch_size)(model, [tiny_batch(batch_size=3, length=5, vocab_size=100)])
    assert 0 < largest.elements < 64 * 64
    with LargestResult(model) as largest:
        naive_scores(model, [tiny_batch(batch_size=3, length=5, vocab_size=100)])
    assert largest.elements >= 64 * 64


def test_dropout_is_off():
    model = tiny_model("gpt2", layers=2, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    batches = [tiny_batch()]
    expected = naive_scores(model, batches)
    assert_equal(GradientNorm()(model.train(), batches), expected)


def test_a_caller_without_gradients_gets_the_scores():
    model = tiny_model(layers=2)
    expected = GradientNorm()(model, [tiny_batch()])
    with torch.no_grad():
        assert GradientNorm()(model, [tiny_batch()]).equal(expected)


def test_damaged_weights_are_named():
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0, 0] = float("inf")
    message = r"layer 2 are not finite: model\.layers\.2\.mlp\.up_proj\.weight holds .* load another copy"
    with pytest.raises(UserError, match=message) as refusal:
        score_layers(model, [tiny_batch()], "gradient-norm")
    assert "\n" not in str(refusal.value)


def test_gradients_that_overflow_name_the_first_layer():
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.model.norm.weight.mul_(1e38)
    with pytest.raises(UserError, match="gradients of layer 0 are not finite though all weights are"):
        GradientNorm()(model, [tiny_batch()])


def test_samples_without_a_target_are_left_out_and_said(caplog):
    model = tiny_model(layers=3)
    batch = labelled(tiny_batch(batch_size=3))
    expected = naive_scores(model, [{key: tensor[:2] for key, tensor in batch.items()}])
    batch["labels"][2] = -100
    with caplog.at_level(logging.WARNING, "depthprune"):
        assert_equal(GradientNorm()(model, [batch]), expected)
    assert "1 of 3 samples left out" in caplog.text


def test_data_without_any_target_is_refused():
    with pytest.raises(UserError, match="no calibration sample has a token to predict"):
        GradientNorm()(tiny_model(layers=2), [tiny_batch(length=1, batch_size=1)])


def test_modules_that_need_a_pass_per_sample_are_said(caplog):
    with caplog.at_level(logging.INFO, "depthprune"):
        GradientNorm(batch_size=2)(tiny_model("qwen3_moe", layers=4), [tiny_batch()])
        GradientNorm(batch_size=2)(tiny_model("llama", layers=2), [tiny_batch()])
    said = [record.message for record in caplog.records]
    assert said == ["gradient-norm: a backward pass per sample for Qwen3MoeExperts, Qwen3MoeTopKRouter"]
