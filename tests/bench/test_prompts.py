import pytest
from runs import model_folder, recipe, rows, write_jsonl
from tiny_tokenizer import tiny_tokenizer

from depthprune.bench.prompts import OPENING_TOKENS, PROMPTS, find_prompts, load_prompts
from depthprune.errors import UserError


def test_rows_give_their_prompts_spread_over_the_data(tmp_path):
    tokenizer, data = tiny_tokenizer(), rows(40)
    source = write_jsonl(tmp_path / "test.jsonl", data)
    prompts, new_tokens = load_prompts(str(source), tokenizer, len(tokenizer), 16, 128)
    assert new_tokens == 16
    texts = [row["prompt"] for row in data]
    found = [texts.index(tokenizer.decode(ids, skip_special_tokens=True)) for ids in prompts]
    assert found == list(range(0, 40, 40 // PROMPTS))


def test_a_text_gives_openings_and_a_short_context_shortens(tmp_path):
    tokenizer = tiny_tokenizer()
    (tmp_path / "book.txt").write_text("abc " * 1000)
    prompts, _ = load_prompts(str(tmp_path / "book.txt"), tokenizer, len(tokenizer), 16, None)
    assert [len(ids) for ids in prompts] == [1 + OPENING_TOKENS] * PROMPTS
    assert all(ids[0] == tokenizer.bos_token_id for ids in prompts)
    prompts, new_tokens = load_prompts(str(tmp_path / "book.txt"), tokenizer, len(tokenizer), 16, 40)
    assert {len(ids) + new_tokens for ids in prompts} == {40}


def test_a_run_names_its_evaluation_data(tmp_path):
    made = recipe(tmp_path)
    (tmp_path / "model" / "depthprune").mkdir()
    (tmp_path / "model" / "depthprune" / "recipe.yaml").write_text(made.located().as_yaml())
    model = str(tmp_path / "model")
    assert find_prompts(model, None) == str(tmp_path / "test.jsonl")
    assert find_prompts(model, "mine.jsonl") == "mine.jsonl"
    with pytest.raises(UserError, match="--prompts"):
        find_prompts(str(model_folder(tmp_path / "other")), None)
