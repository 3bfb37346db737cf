import pytest
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.chat import load_chat_template, render_chat
from depthprune.errors import UserError

PROMPT = [{"role": "user", "content": "hi"}]


def test_prompt_opens_the_turn_and_completion_closes_it():
    assert render_chat(PROMPT, "yes", tiny_tokenizer(), None) == ("<s>user: hi\nassistant: ", "yes</s>\n")


def test_template_that_opens_the_turn_otherwise_in_a_prompt():
    template = (
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    )
    assert render_chat(PROMPT, "yes", tiny_tokenizer(), template) == ("[hi]<think>", "yes")


def test_given_template_goes_before_the_tokenizers():
    template = "{% for m in messages %}{{ m.content }};{% endfor %}"
    assert render_chat(PROMPT, "yes", tiny_tokenizer(chat_template=False), template) == ("hi;", "yes;")


def test_tokenizer_without_template_names_the_way_out():
    with pytest.raises(UserError, match="give --chat-template FILE"):
        render_chat(PROMPT, "yes", tiny_tokenizer(chat_template=False), None)


def test_template_that_refuses_the_roles():
    template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(UserError, match="refuses messages with the roles user: no system turn"):
        render_chat(PROMPT, "yes", tiny_tokenizer(), template)


def test_template_files(tmp_path):
    (tmp_path / "good.jinja").write_text(
        "{% for m in messages %}{% if m %}{% break %}{% endif %}{% endfor %}"
    )
    (tmp_path / "bad.jinja").write_text("a\n{% for m in messages %}")
    assert load_chat_template(tmp_path / "good.jinja").startswith("{% for")
    with pytest.raises(UserError, match=r"bad\.jinja line 2: not a Jinja template"):
        load_chat_template(tmp_path / "bad.jinja")
    with pytest.raises(UserError, match="no such chat template"):
        load_chat_template(tmp_path / "none.jinja")
