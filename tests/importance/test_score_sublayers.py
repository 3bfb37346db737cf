"""Scores of attentions and MLPs equal those of a model that has zeros at their end."""

import pytest
import torch
from test_loss_metric import labelled
from tiny import tiny_config, tiny_model

from depthprune import UserError, score_layers
from depthprune.importance import METRICS
from depthprune.importance.output_change import OutputChange
from depthprune.importance.perplexity import Perplexity
from depthprune.model.silence import SIDES, silence
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import layer_sides

BATCHES = [labelled(0), labelled(1)]
GONE = [5, 6]


def quiet(family, parts):
    model, sides = tiny_model(family), layer_sides(skeleton(tiny_config(family)))
    for part in parts:
        silence(model, {part // 2: (SIDES[part % 2],)}, sides)
    return model


@torch.no_grad()
def naive(family, part):
    """Perplexity, and the mean Jensen-Shannon divergence from the whole model."""
    whole, model = tiny_model(family), quiet(family, [*GONE, part])
    loss = tokens = moved = real = 0
    for batch in BATCHES:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        count = int((batch["labels"][:, 1:] != -100).sum())
        loss += count * float(model(**batch).loss)
        tokens += count
        p, q = (one(**inputs).logits.double().softmax(-1) for one in (whole, model))
        middle = (p + q) / 2
        js = (p * (p / middle).log() + q * (q / middle).log()).sum(-1) / 2
        moved += float(js[batch["attention_mask"].bool()].sum())
        real += int(batch["attention_mask"].sum())
    return torch.tensor(loss / tokens).exp(), moved / real


@pytest.mark.parametrize("family", ["llama", "opt", "gemma3_text"])
def test_scores_are_those_of_the_model_with_zeros(family):
    sides = layer_sides(skeleton(tiny_config(family)))
    ours = [
        m.score_sublayers(tiny_model(family), BATCHES, GONE, sides) for m in (Perplexity(), OutputChange())
    ]
    for part in (0, 3, 7, 10):
        perplexity, moved = naive(family, part)
        assert float(ours[0][part]) == pytest.approx(float(perplexity), rel=1e-4)
        assert float(ours[1][part]) == pytest.approx(moved, rel=1e-3)


def test_which_metrics_score_sublayers():
    assert {name for name, m in METRICS.items() if m.scores_sublayers} == {"perplexity", "output-change"}
    with pytest.raises(UserError, match="granularity=sublayers"):
        score_layers(tiny_model(), BATCHES, metric="output-change")
