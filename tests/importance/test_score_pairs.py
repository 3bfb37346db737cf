"""Scores of pairs of sublayers equal those of the model cut there, whole before or cut already."""

import pytest
import torch
from test_loss_metric import labelled
from tiny import tiny_config, tiny_model

from depthprune.importance import METRICS
from depthprune.importance.block_influence import BlockInfluence
from depthprune.importance.gradient_norm import GradientNorm
from depthprune.importance.loss import Loss
from depthprune.importance.perplexity import Perplexity
from depthprune.model.anatomy import decoder_layers
from depthprune.model.skeleton import skeleton
from depthprune.model.skip import skipped
from depthprune.model.sublayers import layer_sides, recomposed
from depthprune.model.surgery import remove_layers

FAMILIES = ("llama", "opt", "gemma3_text", "qwen3_moe")
# Removed, whose MLP stands where, and what is left without some layers' MLP and the next attention.
WHOLE = ((), {}, {0: ((1,), {0: 1}), 3: ((4,), {3: 4})})
CUT = ((3,), {2: 3}, {1: ((2, 3), {1: 3}), 2: ((3, 4), {2: 4})})
BATCHES = [labelled(0), labelled(1)]


def scores(metric, family, removed, mlp_from):
    model, sides = tiny_model(family), layer_sides(skeleton(tiny_config(family)))
    with recomposed(model, mlp_from, sides), skipped(model, removed):
        return metric.score_pairs(model, BATCHES, sides)


@torch.no_grad()
def loss_without(family, removed, mlp_from):
    model, total, tokens = tiny_model(family), 0.0, 0
    if removed:
        remove_layers(model, removed, mlp_from)
    for batch in BATCHES:
        count = int((batch["labels"][:, 1:] != -100).sum())
        total += count * float(model(**batch, use_cache=False).loss)
        tokens += count
    return total / tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_cut_model(family):
    for removed, mlp_from, cuts in (WHOLE, CUT):
        layers, across = scores(Loss(), family, removed, mlp_from)
        for i, (gone, taken) in cuts.items():
            assert float(across[i]) == pytest.approx(loss_without(family, gone, taken), rel=1e-5)
        whole = {i: taken for i, taken in mlp_from.items() if i != 0}
        assert float(layers[0]) == pytest.approx(loss_without(family, (0, *removed), whole), rel=1e-5)
    perplexity = scores(Perplexity(), family, (), {})
    for found, loss in zip(perplexity, scores(Loss(), family, (), {}), strict=True):
        torch.testing.assert_close(found, loss.exp())


def middles(family, i):
    """The stream before layer i's MLP, token by token: its input and what its attention adds."""
    model, kept = tiny_model(family), []
    layer = decoder_layers(model)[i]
    added = {"gemma3_text": "post_attention_layernorm"}.get(family, "self_attn")

    def keep(_, __, output):
        kept.append(output if isinstance(output, torch.Tensor) else output[0])

    layer.register_forward_pre_hook(
        lambda _, a, k: kept.append(a[0] if a else k["hidden_states"]), with_kwargs=True
    )
    layer.get_submodule(added).register_forward_hook(keep)
    found = []
    for batch in BATCHES:
        kept.clear()
        with torch.no_grad():
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        found.append((kept[0] + kept[1])[batch["attention_mask"].bool()])
    return torch.cat(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_block_influence_across_two_layers(family):
    layers, across = scores(BlockInfluence(), family, (), {})
    torch.testing.assert_close(layers, BlockInfluence()(tiny_model(family), BATCHES))
    cosine = torch.cosine_similarity(middles(family, 2), middles(family, 3), dim=-1)
    assert float(across[2]) == pytest.approx(float((1 - cosine).mean()), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_norms_of_both_sides_add_up(family):
    layers, across = scores(GradientNorm(), family, (), {})
    torch.testing.assert_close(layers, GradientNorm()(tiny_model(family), BATCHES), rtol=1e-5, atol=0)
    model, total, samples = tiny_model(family), 0.0, 0
    sides = layer_sides(skeleton(tiny_config(family)))
    parts = [(1, sides[1].mlp), (2, sides[2].attention)]
    for batch in BATCHES:
        for row in range(len(batch["input_ids"])):
            model.zero_grad()
            model(
                **{key: value[row : row + 1] for key, value in batch.items()}, use_cache=False
            ).loss.backward()
            for i, names in parts:
                for name, weight in decoder_layers(model)[i].named_parameters():
                    if name.split(".")[0] in names and weight.grad is not None:
                        total += float(weight.grad.norm())
            samples += 1
    assert float(across[1]) == pytest.approx(total / samples, rel=1e-3)


def test_which_metrics_score_pairs():
    able = {name for name, metric in METRICS.items() if metric.scores_pairs}
    assert able == {"loss", "perplexity", "block-influence", "gradient-norm"}
