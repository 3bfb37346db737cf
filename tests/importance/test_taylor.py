import copy
import math

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune import UserError, score_layers
from depthprune.importance.taylor import Taylor
from depthprune.model.anatomy import decoder_layers, layers_path, linear_weights
from depthprune.model.skip import skipped
from depthprune.model.surgery import remove_layers

BATCHES = [tiny_batch(seed=0), tiny_batch(seed=1, batch_size=3, length=9)]


def summed_gradients(model, batches):
    """∂L/∂W by name: sample by sample, each with its padding cut off, through transformers' own mean loss."""
    total = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in model.named_parameters()}
    for batch in batches:
        labels = batch.get("labels", batch["input_ids"])
        for ids, targets, mask in zip(batch["input_ids"], labels, batch["attention_mask"], strict=True):
            length = int(mask.sum())
            model.zero_grad()
            model(
                input_ids=ids[None, :length], labels=targets[None, :length], use_cache=False
            ).loss.backward()
            for name, weight in model.named_parameters():
                if weight.grad is not None:
                    total[name] += weight.grad.double()
    return total


def naive_taylor(model, batches):
    """Element by element products, summed over the linears of each layer."""
    model = copy.deepcopy(model)
    gradients, path = summed_gradients(model, batches), layers_path(model)
    scores = []
    for i, layer in enumerate(decoder_layers(model)):
        score = 0.0
        for name, weight in linear_weights(layer).items():
            product = weight.parameter.detach().double() * gradients[f"{path}.{i}.{name}"]
            score += float(product.abs().sum())
        scores.append(score)
    return torch.tensor(scores)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon", "qwen3_moe", "gpt_oss", "llama4_text"])
def test_scores_equal_products_with_gradients_sample_by_sample(family):
    model = tiny_model(family, layers=4)
    scores = score_layers(model, BATCHES, "taylor")
    assert scores.dtype == torch.float32 and scores.shape == (4,)
    torch.testing.assert_close(scores, naive_taylor(model, BATCHES), rtol=1e-4, atol=0)


def test_biases_norms_and_routers_do_not_count():
    model = tiny_model("gpt2", layers=2)
    names = set(linear_weights(decoder_layers(model)[0]))
    assert names == {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}
    with torch.no_grad():
        for layer in decoder_layers(model):
            for name in names:
                layer.get_parameter(name).zero_()
    assert not Taylor()(model, BATCHES).any()


def test_signs_cancel_over_samples_before_the_absolute_value():
    model = tiny_model(layers=3)
    together = Taylor()(model, BATCHES)
    apart = sum(Taylor()(model, [batch]) for batch in BATCHES)
    assert (together < apart).all()


def test_one_batch_or_many_give_the_same():
    model, batch = tiny_model(layers=3), tiny_batch(batch_size=4)
    rows = [{key: tensor[i : i + 1] for key, tensor in batch.items()} for i in range(4)]
    torch.testing.assert_close(Taylor()(model, rows), Taylor()(model, [batch]), rtol=1e-4, atol=0)


def test_labels_are_honoured():
    model, batch = tiny_model(layers=3), tiny_batch()
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, :6] = -100
    batch["labels"][-1, -2:] = -100
    torch.testing.assert_close(Taylor()(model, [batch]), naive_taylor(model, [batch]), rtol=1e-4, atol=0)


def test_a_sample_without_targets_weighs_nothing():
    model, batch = tiny_model(layers=3), tiny_batch()
    empty = {**tiny_batch(seed=5), "labels": torch.full((2, 12), -100)}
    scores = Taylor()(model, [batch])
    torch.testing.assert_close(Taylor()(model, [batch, empty]), scores)
    torch.testing.assert_close(Taylor()(model, [empty, batch]), scores)


class ByLength(torch.nn.Module):
    """Two experts, each for batches of its own length: a batch leaves one of them without a gradient."""

    def __init__(self, experts):
        super().__init__()
        self.experts = torch.nn.ModuleList(experts)

    def forward(self, hidden):
        return self.experts[hidden.shape[1] % 2](hidden)


def test_an_expert_that_the_last_batch_does_not_come_by_counts():
    model = tiny_model(layers=2)
    model.model.layers[1].mlp = ByLength([copy.deepcopy(model.model.layers[i].mlp) for i in range(2)])
    batches = [tiny_batch(length=12), tiny_batch(seed=3, length=9)]
    for batch in batches:
        batch["attention_mask"][:] = 1  # the naive way takes samples by their real length
    torch.testing.assert_close(Taylor()(model, batches), naive_taylor(model, batches), rtol=1e-4, atol=0)


def test_layers_already_skipped_stay_away():
    model = tiny_model()
    with skipped(model, [1, 4]):
        scores = Taylor()(model, BATCHES)
    naive = naive_taylor(remove_layers(tiny_model(), [1, 4]), BATCHES)
    torch.testing.assert_close(scores[[0, 2, 3, 5]], naive, rtol=1e-4, atol=0)
    assert scores[1] == scores[4] == 0


def test_bfloat16_products_are_summed_in_float32():
    model = tiny_model(layers=3).bfloat16()
    reference = naive_taylor(copy.deepcopy(model).float(), BATCHES)
    torch.testing.assert_close(Taylor()(model, BATCHES), reference, rtol=3e-2, atol=0)


def test_gradients_are_freed_as_the_last_pass_goes():
    model, held = tiny_model(layers=4), []

    def held_after(weight):
        held.append(sum(p.grad is not None for p in model.parameters()))

    for layer in model.model.layers:
        layer.mlp.up_proj.weight.register_post_accumulate_grad_hook(held_after)
    Taylor()(model, [tiny_batch()])
    assert len(held) == 4 and max(held) <= 1


def test_the_model_is_left_as_it_was():
    model = tiny_model(layers=3).train()
    frozen, kept = model.model.layers[0].mlp.up_proj.weight, model.model.layers[1].mlp.up_proj.weight
    frozen.requires_grad_(False)
    kept.grad = torch.ones_like(kept)
    with torch.no_grad():
        Taylor()(model, BATCHES)
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == [
        "model.layers.0.mlp.up_proj.weight"
    ]
    assert kept.grad.equal(torch.ones_like(kept)) and model.training
    assert sum(weight.grad is not None for weight in model.parameters()) == 1
    assert not any(weight._post_accumulate_grad_hooks for weight in model.parameters())


def test_batches_without_a_token_to_predict_are_refused():
    with pytest.raises(UserError, match="taylor: no calibration sample has a token to predict"):
        Taylor()(tiny_model(layers=2), [{**tiny_batch(), "labels": torch.full((2, 12), -100)}])


def test_a_damaged_layer_is_named():
    model = tiny_model("gpt2", layers=3)
    with torch.no_grad():
        decoder_layers(model)[1].mlp.c_fc.weight[0, 0] = math.inf
    with pytest.raises(UserError, match="taylor: layer 1 is damaged, transformer"):
        Taylor()(model, BATCHES)
