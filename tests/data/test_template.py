import json

import pytest
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.template import load_chat_template, render
from depthprune.errors import UserError

ASKED = {"role": "user", "content": "hi"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "unit": None}}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
LOOP = "{% for m in messages %}{{ m.role }}:"
END = ";{% endfor %}"


def as_text(message: dict) -> dict:
    function = {"name": "weather", "arguments": json.dumps(CALL["function"]["arguments"])}
    return {**message, "tool_calls": [{"type": "function", "function": function}]}


def shown(template: str, *messages: dict, **options) -> str:
    return render(list(messages), tiny_tokenizer(), template, False, options=options)


@pytest.mark.parametrize("message", [CALLED, as_text(CALLED)])
def test_a_template_gets_the_arguments_of_calls_in_the_form_that_it_writes(message):
    wanted = 'assistant:{"city": "Zürich", "unit": null};'
    calls = "{% for c in m.tool_calls %}"
    as_object = LOOP + calls + "{{ c.function.arguments | tojson }}{% endfor %}" + END
    assert shown(as_object, message) == wanted
    printing = LOOP + calls + "{{ c.function.arguments }}{% endfor %}" + END
    adding = LOOP + calls + "{{ '' + c['function']['arguments'] }}{% endfor %}" + END
    for template in (printing, adding):
        assert json.loads(shown(template, message)[len("assistant:") : -1]) == CALL["function"]["arguments"]


def test_contents_that_are_null_are_left_out_or_empty():
    assert shown(LOOP + "{{ m.content is defined }}" + END, CALLED) == "assistant:False;"
    assert shown(LOOP + "{{ m.content + '!' }}" + END, CALLED) == "assistant:!;"
    both = LOOP + "{{ m.content + m.tool_calls[0].function.arguments }}" + END
    assert json.loads(shown(both, CALLED)[len("assistant:") : -1]) == CALL["function"]["arguments"]


@pytest.mark.parametrize(
    "raising",
    [
        "{{ raise_exception('no system turn') }}",
        "{{ 1 / 0 }}",
        "{{ messages[9].content + 1 }}",
        "{{ 'a' + 1 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0].content | round }}",
    ],
)
def test_whatever_a_template_raises_is_a_line_for_the_user(raising):
    with pytest.raises(UserError, match="refuses messages with the roles user: ") as error:
        shown(raising, ASKED)
    assert "\n" not in str(error.value)


def test_rows_give_the_template_its_options():
    assert shown("{{ enable_thinking }}", ASKED, enable_thinking=False) == "False"
    with pytest.raises(UserError, match="tokenize"):
        shown("{{ enable_thinking }}", ASKED, tokenize=True)


def test_named_templates_are_found_as_transformers_does():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "plain", "tool_use": "{{ tools[0].name }}", "rag": "rag"}
    assert render([ASKED], tokenizer, None, False) == "plain"
    assert render([ASKED], tokenizer, None, False, tools=[{"name": "weather"}]) == "weather"
    tokenizer.chat_template = {"rag": "rag"}
    with pytest.raises(UserError, match="no default"):
        render([ASKED], tokenizer, None, False)


def test_template_files(tmp_path):
    loops = "{% for m in messages %}{% if m %}{% break %}{% endif %}{% endfor %}"
    marked = LOOP + "{% generation %}{{ m.content }}{% endgeneration %}" + END
    own = "{{ strftime_now('%Y') }}{{ raise_exception('x') }}{{ messages | tojson(indent=2) }}"
    for template in (loops, marked, own):
        (tmp_path / "good.jinja").write_text(template)
        assert load_chat_template(tmp_path / "good.jinja") == template
    assert shown(marked, ASKED) == "user:hi;"
    for bad in ("a\n{% for m in messages %}", "a\n{{ m | nosuchfilter }}"):
        (tmp_path / "bad.jinja").write_text(bad)
        with pytest.raises(UserError, match=r"bad\.jinja line 2: not a Jinja template"):
            load_chat_template(tmp_path / "bad.jinja")
    with pytest.raises(UserError, match="no such chat template"):
        load_chat_template(tmp_path / "none.jinja")
