import logging

import datasets
import pytest
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.chat import Chat, render_chat, render_chats
from depthprune.data.examples import Examples
from depthprune.errors import UserError

PROMPT = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = {"type": "function", "id": "1", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
# As in published templates: tools before all, calls as JSON, what a tool says in a turn of its own.
WITH_TOOLS = (
    "{% if tools %}[{% for t in tools %}{{ t.function.name }}{% endfor %}]{% endif %}{% for m in messages %}"
    "{{ m.role }}: {% if m.reasoning_content %}<{{ m.reasoning_content }}>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}CALL {{ c.function | tojson }}{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def answer(content: str | None, **more) -> dict:
    return {"role": "assistant", "content": content, **more}


def chat(content: str | None = "yes", **more) -> Chat:
    return Chat(PROMPT, [answer(content, **more)])


def rows(*found: dict) -> Examples:
    columns = {name: [row.get(name) for row in found] for name in {name for row in found for name in row}}
    table = datasets.Dataset.from_dict(
        columns, datasets.Features({name: datasets.Json() for name in columns})
    )
    return Examples(
        "chat", "chat.jsonl", "messages", table, tuple(f"line {i + 1}" for i in range(len(found)))
    )


def row(completion: dict, prompt: list = PROMPT, **more) -> dict:
    return {"prompt": prompt, "completion": [completion], **more}


def test_prompt_opens_the_turn_and_completion_closes_it():
    found = render_chat(chat(), tiny_tokenizer(), None)
    assert found == ("<s>user: hi\nassistant: ", "yes</s>\n", True)


@pytest.mark.parametrize(
    ("content", "learned"), [("yes", "yes]"), ("<think>why</think>yes", "why</think>yes]"), ("t", "t]")]
)
def test_template_that_opens_the_turn_otherwise_in_a_prompt(content, learned):
    template = (
        "{% for m in messages %}{{ m.role }}[{{ m.content.split('</think>')[-1] }}]{% endfor %}"
        "{% if add_generation_prompt %}assistant[<think>{% endif %}"
    )
    found = render_chat(chat(content), tiny_tokenizer(), template)
    assert found == ("user[hi]assistant[<think>", learned, False)


def test_a_call_behind_another_opening_cannot_be_told_apart():
    template = WITH_TOOLS.replace("assistant: {% endif %}", "assistant: THINK{% endif %}")
    with pytest.raises(UserError, match="does not begin its whole chat"):
        render_chat(chat(None, tool_calls=[CALL]), tiny_tokenizer(), template)


def test_a_call_is_an_answer_and_the_row_s_tools_are_in_the_prompt():
    called = Chat(PROMPT, [answer(None, tool_calls=[CALL])], TOOLS)
    asked, learned, opened = render_chat(called, tiny_tokenizer(), WITH_TOOLS)
    assert asked == "[weather]user: hi\nassistant: "
    assert learned == 'CALL {"name": "weather", "arguments": {"city": "Bern"}}\n'
    assert opened


def test_a_completion_of_several_messages_is_learned_whole():
    turns = [
        answer(None, tool_calls=[CALL]),
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
        answer("wet"),
    ]
    _, learned, _ = render_chat(Chat(PROMPT, turns), tiny_tokenizer(), WITH_TOOLS)
    assert learned.startswith("CALL {") and learned.endswith("}\ntool: rain\nassistant: wet\n")


def test_a_template_that_writes_nothing_of_the_answer():
    with pytest.raises(UserError, match="writes nothing of the answer's call of 'weather'"):
        render_chat(chat(None, tool_calls=[CALL]), tiny_tokenizer(), None)
    with pytest.raises(UserError, match="writes nothing of the answer;"):
        render_chat(
            chat(), tiny_tokenizer(), "{% for m in messages[:1] %}{{ m.content }}{% endfor %}{{ eos_token }}"
        )


def test_given_template_goes_before_the_tokenizers():
    template = "{% for m in messages %}{{ m.content }};{% endfor %}"
    found = render_chats(rows(row(answer("yes"))), tiny_tokenizer(chat_template=False), template)
    assert found == [("hi;", "yes;")]


def test_tokenizer_without_template_names_the_way_out():
    with pytest.raises(UserError, match=r"chat\.jsonl: .*give --chat-template FILE"):
        render_chats(rows(row(answer("yes"))), tiny_tokenizer(chat_template=False), None)


def test_the_row_that_a_template_refuses_is_named():
    template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    template += "{{ m.content }}{% endfor %}"
    refused = row(answer("yes"), [*PROMPT, {"role": "tool", "content": "x"}])
    with pytest.raises(
        UserError, match="line 2: the chat template refuses messages with the roles user, tool"
    ):
        render_chats(rows(row(answer("yes")), refused), tiny_tokenizer(), template)


def test_what_the_template_never_reads_is_said_once(caplog):
    named = [{**PROMPT[0], "name": "Ann", "weight": 0}]
    many = rows(
        row(answer("a", reasoning_content="r")),
        row(answer("b", tool_calls=[], name=None), named, tools=TOOLS),
        row(answer("c"), named, chat_template_kwargs={"enable_thinking": True, "tone": "flat"}),
    )
    template = "{% if enable_thinking is defined and enable_thinking is false %}!{% endif %}" + WITH_TOOLS
    with caplog.at_level(logging.WARNING, "depthprune"):
        for _ in range(2):
            render_chats(many, tiny_tokenizer(), template)
    assert caplog.messages == [
        f"chat.jsonl: the chat template never reads `{name}`, which {count} rows have: "
        "the model does not see it"
        for name, count in (("chat_template_kwargs.tone", 1), ("name", 2), ("weight", 2))
    ]
    caplog.clear()
    render_chats(many, tiny_tokenizer(), None)  # reads nothing of them
    said = " ".join(caplog.messages)
    assert "`tools`, which 1 rows" in said and "`reasoning_content`" in said and "enable_thinking" in said


def test_answers_opened_otherwise_are_counted(caplog):
    template = (
        "{% for m in messages %}{{ m.role }}[{{ m.content }}]{% endfor %}"
        "{% if add_generation_prompt %}<t>{% endif %}"
    )
    assert render_chats(rows(row(answer("yes"))), tiny_tokenizer(), template) == [("user[hi]<t>", "yes]")]
    assert "in 1 of 1 rows the chat template opens the answer otherwise" in caplog.text


def test_chats_that_were_rendered_stay_so_in_a_part_of_them(caplog):
    many = rows(*(row(answer(content, tool_call_id="1")) for content in "abc"))
    whole = render_chats(many, tiny_tokenizer(), None)
    caplog.clear()
    part = many.select([2, 0])
    assert render_chats(part, tiny_tokenizer(), None) == [whole[2], whole[0]]
    assert caplog.messages == []
    assert render_chats(part, tiny_tokenizer(), WITH_TOOLS)[0] == ("user: hi\nassistant: ", "c\n")
