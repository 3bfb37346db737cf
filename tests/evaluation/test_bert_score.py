"""BERTScore is that of its paper, is asked for in the recipe, and what is wrong with it is told at once."""

import pytest
import torch
from runs import recipe, write_jsonl
from tiny_tokenizer import tiny_tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel

from depthprune.errors import UserError
from depthprune.evaluation.bert_score import bert_scores
from depthprune.pipeline.run import evaluate_model
from depthprune.recipe.load import load_recipe

LAYER = 2


@pytest.fixture
def encoder(tmp_path):
    folder = tmp_path / "encoder"
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def naive(folder, written, wanted):
    """The harmonic mean of both means of each token's best cosine among the other text's tokens (eq. 1)."""
    model, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    states = []
    for text in (written, wanted):
        ids = torch.tensor([tokenizer.encode(text)])
        found = model(ids, output_hidden_states=True).hidden_states[LAYER][0]
        states.append(found / found.norm(dim=-1, keepdim=True))
    cosines = states[0] @ states[1].mT
    precision, recall = cosines.amax(1).mean(), cosines.amax(0).mean()
    return float(2 * precision * recall / (precision + recall))


def test_it_is_that_of_the_paper(encoder):
    written, wanted = ["the cat sat", "one two", "same words"], ["a cat sat down", "three", "same words"]
    found = bert_scores(written, wanted, encoder, LAYER, "cpu")
    expected = [naive(encoder, *pair) for pair in zip(written, wanted, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5) and found[2] == pytest.approx(1)


def test_a_recipe_asks_for_it(encoder, tmp_path):
    data = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "one", "completion": " two words"}] * 3)
    asked = {"eval": (str(data),), "evaluation.bert_score": encoder, "evaluation.bert_score_layer": LAYER}
    (row,) = evaluate_model(recipe(tmp_path, "finetune", **asked))["rows"].values()
    found = {result["metric"]: result["value"] for result in row["results"]}
    assert list(found) == ["exact_match", "rougeL", "bert_score", "loss"] and found["bert_score"] < 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"bert_score": "my/encoder"}, "does not know which of its layers to read"),
        ({"bert_score_layer": 3}, "no model: name one with evaluation.bert_score"),
    ],
)
def test_what_is_missing_is_told_before_anything_runs(settings, reason):
    with pytest.raises(UserError, match=reason):
        load_recipe("finetune", **{f"evaluation.{name}": value for name, value in settings.items()})


def test_a_model_that_is_not_there_is_told_in_a_line():
    with pytest.raises(UserError, match=r"evaluation\.bert_score=/nowhere cannot be loaded: "):
        bert_scores(["a"], ["b"], "/nowhere", 1, "cpu")
