import logging

import pytest
from runs import model_folder, recipe, rows, write_jsonl
from tiny_tokenizer import tiny_tokenizer

from depthprune import UserError, run, verify
from depthprune.pipeline.inputs import load_inputs


def grown(folder, **special):
    """A model whose tokenizer has a token that its embedding does not."""
    model_folder(folder, pad=False)
    tokenizer = tiny_tokenizer(pad=False)
    tokenizer.add_special_tokens(special) if special else tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("option", ["train", "eval", "calibration"])
def test_a_token_without_a_row_of_the_embedding_stops_a_run_before_it_begins(tmp_path, option):
    made = recipe(tmp_path)  # the data
    model, given = grown(tmp_path / "grown"), rows(40)
    given[7]["prompt"] += " <tool>"
    path = str(write_jsonl(tmp_path / "tool.jsonl", given))
    chosen = recipe(tmp_path, model=model, **{option: (path,) if option == "eval" else path})
    with pytest.raises(UserError, match=r"tool\.jsonl row 8: holds '<tool>'"):
        run(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert made.model != model


def test_a_token_that_no_row_holds_stops_what_verify_would_refuse(tmp_path, caplog):
    recipe(tmp_path)
    model = grown(tmp_path / "grown")
    chosen = recipe(tmp_path, "random", model=model, **{"training.method": "none"})
    with pytest.raises(UserError, match=r"grown: a token .*'<tool>'.*resize_token_embeddings"):
        run(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="'<tool>'"):
        verify(model)
    with caplog.at_level(logging.WARNING, "depthprune"):
        run(chosen, tmp_path / "out", until="select")  # writes no model
    assert "'<tool>'" in caplog.text and "no row of the data holds one" in caplog.text


def test_an_image_token_without_a_row_of_the_embedding_is_said_and_kept(tmp_path, caplog):
    """As Gemma 3's text models have one."""
    recipe(tmp_path)
    model = grown(tmp_path / "grown", additional_special_tokens=["<image_soft_token>"])
    with caplog.at_level(logging.WARNING, "depthprune"):
        folder = run(recipe(tmp_path, "random", model=model, **{"training.method": "none"}), tmp_path / "out")
    assert "'<image_soft_token>'" in caplog.text
    verify(folder)


def test_a_pad_token_without_a_row_of_the_embedding_is_none_of_the_run_s(tmp_path):
    recipe(tmp_path)
    model = grown(tmp_path / "grown", pad_token="<pad>")
    folder = run(recipe(tmp_path, model=model), tmp_path / "out")
    verify(folder)
    saved = (folder / "tokenizer_config.json").read_text()
    assert saved == (tmp_path / "grown" / "tokenizer_config.json").read_text()


def test_rows_that_are_trained_and_measured_on_are_said_with_their_share(tmp_path, caplog):
    recipe(tmp_path)
    write_jsonl(tmp_path / "test.jsonl", [*rows(64)[:4], *rows(12, seed=9)])
    with caplog.at_level(logging.WARNING, "depthprune"):
        load_inputs(recipe(tmp_path))
    assert "test.jsonl: 4 of 16 rows (25.0 %) stand in" in caplog.text


def test_a_folder_is_trained_on_its_train_split_and_measured_on_its_test_split(tmp_path):
    recipe(tmp_path)
    (tmp_path / "sets").mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).rename(tmp_path / "sets" / name)
    inputs = load_inputs(recipe(tmp_path, train=f"{tmp_path}/sets", eval=(f"{tmp_path}/sets",)))
    assert (len(inputs.train.rows), len(inputs.evals[0].rows)) == (64, 16)


def test_a_chat_to_measure_on_that_the_template_refuses_stops_a_run_before_it_begins(tmp_path):
    recipe(tmp_path)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    chats = [{"messages": turns}, {"messages": [{"role": "narrator", "content": "x"}, *turns]}]
    path = write_jsonl(tmp_path / "chat.jsonl", chats)
    refuses = "{% if m.role == 'narrator' %}{{ 1 / 0 }}{% endif %}"
    strict = "{% for m in messages %}" + refuses + "{{ m.content }}{% endfor %}"
    (tmp_path / "strict.jinja").write_text(strict)
    chosen = recipe(tmp_path, eval=(str(path),), chat_template=str(tmp_path / "strict.jinja"))
    with pytest.raises(UserError, match=r"chat\.jsonl line 2: the chat template refuses .*ZeroDivisionError"):
        run(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()
