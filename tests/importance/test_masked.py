"""The loss and the perplexity without each layer."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune import UserError, remove_layers, score_layers
from depthprune.data.batches import collate
from depthprune.data.examples import load_examples
from depthprune.data.tokens import encode_documents, opening, windows
from depthprune.evaluation.loss import text_loss
from depthprune.importance.loss import Loss
from depthprune.importance.perplexity import Perplexity
from depthprune.model.anatomy import decoder_layers
from depthprune.model.checkpoint import prune_files
from depthprune.model.loading import load_model, load_tokenizer
from depthprune.model.skip import skipped

LAB = Path(__file__).parents[2] / "../shared/lab"
BATCHES = [tiny_batch(seed=0), tiny_batch(seed=1, batch_size=3, length=9)]


def naive_loss(model, batches):
    """The mean over all target tokens, from transformers' own loss of each batch."""
    total, tokens = 0.0, 0
    for batch in batches:
        labels = batch.get("labels", batch["input_ids"]).masked_fill(batch["attention_mask"] == 0, -100)
        count = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            total += count * float(model(**inputs, labels=labels, use_cache=False).loss)
        tokens += count
    return total / tokens


def naive_scores(model, batches):
    """By surgery, layer for layer."""
    layers = range(len(decoder_layers(model)))
    return torch.tensor([naive_loss(remove_layers(copy.deepcopy(model), [i]), batches) for i in layers])


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon", "qwen3_moe"])
def test_scores_equal_surgery_and_transformers_own_loss(family):
    model = tiny_model(family, layers=4, **{"mlp_only_layers": []} if family == "qwen3_moe" else {})
    naive = naive_scores(model, BATCHES)
    losses, perplexities = (score_layers(model, BATCHES, name) for name in ("loss", "perplexity"))
    assert losses.dtype == perplexities.dtype == torch.float32
    torch.testing.assert_close(losses, naive, rtol=1e-6, atol=0)
    torch.testing.assert_close(perplexities, naive.exp(), rtol=1e-5, atol=0)


def test_labels_are_honoured():
    model = tiny_model(layers=4)
    batch = tiny_batch()
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, :5] = -100
    masked = Loss()(model, [batch])
    torch.testing.assert_close(masked, naive_scores(model, [batch]), rtol=1e-6, atol=0)
    assert not torch.allclose(masked, Loss()(model, [tiny_batch()]))


def test_padding_does_not_count():
    model = tiny_model(layers=4)
    batch = tiny_batch(batch_size=1)
    batch["attention_mask"][:] = 1
    padded = {key: torch.nn.functional.pad(tensor, (0, 5)) for key, tensor in batch.items()}
    torch.testing.assert_close(Loss()(model, [padded]), Loss()(model, [batch]), rtol=1e-6, atol=0)


def test_a_layer_that_does_nothing_leaves_the_loss_as_it_is():
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    assert Loss()(model, BATCHES)[2] == pytest.approx(naive_loss(model, BATCHES), rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("removed", [[1], [0, 4], [5, 3]])
def test_layers_already_skipped_stay_away_and_are_not_scored(family, removed):
    model = tiny_model(family)
    with skipped(model, removed):
        scores = Loss()(model, BATCHES)
    kept = [i for i in range(6) if i not in removed]
    naive = naive_scores(remove_layers(tiny_model(family), removed), BATCHES)
    torch.testing.assert_close(scores[kept], naive, rtol=1e-6, atol=0)
    assert not scores[removed].any()


@pytest.mark.parametrize("batches", [[], [{**tiny_batch(), "labels": torch.full((2, 12), -100)}]])
def test_batches_without_a_token_to_predict_are_refused(batches):
    with pytest.raises(UserError, match="perplexity: the calibration batches hold no token to predict"):
        Perplexity()(tiny_model(layers=2), batches)


def test_a_damaged_layer_is_named():
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(UserError, match="loss: layer 2 is damaged, model") as refusal:
        Loss()(model, BATCHES)
    assert "\n" not in str(refusal.value)


def test_a_perplexity_too_large_for_float32_names_its_layer():
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    with pytest.raises(
        UserError, match="perplexity: the score of layer 0 is not finite though all weights are"
    ):
        Perplexity()(model, BATCHES)


@pytest.mark.slow
@pytest.mark.skipif(not LAB.is_dir(), reason="needs the lab model")
def test_the_lab_models_perplexities_are_those_of_cut_files_evaluated(tmp_path):
    words = [json.loads(line)["text"].split() for line in (LAB / "text/wikipedia.jsonl").open()][:6]
    texts = tmp_path / "short.jsonl"
    texts.write_text("".join(json.dumps({"text": " ".join(text[:50])}) + "\n" for text in words))
    examples, tokenizer = load_examples(texts), load_tokenizer(LAB / "model")
    bos = opening(tokenizer)
    rows = [
        {"input_ids": window}
        for ids in encode_documents(examples, tokenizer)
        for window in windows(ids, 128, bos)
    ]
    model = load_model(LAB / "model", torch.float32)
    scores = score_layers(model, [collate(rows[:4], tokenizer), collate(rows[4:], tokenizer)], "perplexity")
    for i in range(16):
        prune_files(LAB / "model", [i], tmp_path / str(i))
        cut = load_model(tmp_path / str(i), torch.float32)
        measured = {m.metric: m.value for m in text_loss(cut, tokenizer, examples, batch_size=4, length=128)}
        assert math.log(float(scores[i])) == pytest.approx(measured["loss"], rel=1e-6)
        assert float(scores[i]) == pytest.approx(measured["perplexity"], rel=1e-5)
