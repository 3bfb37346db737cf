import json

import pytest

from depthprune.data.rows import check_rows
from depthprune.errors import UserError

ASKED = {"role": "user", "content": "Weather in Bern?"}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
SAID = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"}
ANSWER = {"role": "assistant", "content": "It rains.", "reasoning_content": "rain → wet"}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


def check(*rows: dict):
    return check_rows((f"f line {i}", row) for i, row in enumerate(rows, start=1))


def one(row: dict) -> dict:
    return check(row).rows[0]


def test_openai_s_rows_keep_their_messages_and_tools_whole():
    row = {"messages": [ASKED, CALLED, SAID, ANSWER], "tools": [TOOL], "parallel_tool_calls": False}
    assert one(row) == {"prompt": [ASKED, CALLED, SAID], "completion": [ANSWER], "tools": [TOOL]}
    assert check(row).notes == ["columns not used: `parallel_tool_calls`"]


def test_a_last_turn_that_is_a_call_is_a_completion():
    assert one({"messages": [ASKED, CALLED]}) == {"prompt": [ASKED], "completion": [CALLED]}
    assert one({"messages": [ASKED, CALLED, SAID]})["completion"] == [CALLED]


@pytest.mark.parametrize(
    "tools",
    [
        {"tools": [TOOL]},
        {"tools": json.dumps([TOOL])},
        {"tools": [json.dumps(TOOL)]},
        {"tools": [FUNCTION]},
        {"tools": json.dumps([FUNCTION])},
        {"tools": None, "functions": [FUNCTION]},
    ],
)
def test_tools_as_people_write_them(tools):
    assert one({"messages": [ASKED, ANSWER], **tools})["tools"] == [TOOL]


def test_options_of_the_template():
    row = {"messages": [ASKED, ANSWER], "chat_template_kwargs": {"enable_thinking": False}}
    assert one(row)["chat_template_kwargs"] == {"enable_thinking": False}
    as_text = {**row, "chat_template_kwargs": '{"enable_thinking": false}'}
    assert one(as_text) == one(row)


def test_openai_s_older_calls():
    older = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    assert one({"messages": [ASKED, older]})["completion"] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": CALL["function"]}],
        }
    ]


def test_parts_of_text_are_joined_and_images_refused_by_name():
    parts = [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Bern?"}]
    assert one({"messages": [{**ASKED, "content": parts}, ANSWER]})["prompt"] == [ASKED]
    image = [*parts, {"type": "image_url", "image_url": {"url": "a.png"}}]
    with pytest.raises(
        UserError, match="f line 1, message 1: its `content` has a part of the type 'image_url'"
    ):
        check({"messages": [{**ASKED, "content": image}, ANSWER]})
    with pytest.raises(UserError, match="f line 1: has `images`, and only text is read"):
        check({"messages": [ASKED, ANSWER], "images": ["a.png"]})
    check({"messages": [ASKED, ANSWER], "images": []})


def test_sharegpt_s_speakers():
    row = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Weather in Bern?"},
            {
                "from": "function_call",
                "value": json.dumps({"name": "weather", "arguments": {"city": "Bern"}}),
            },
            {"from": "observation", "value": "rain"},
            {"from": "gpt", "value": "It rains."},
        ],
        "tools": json.dumps([FUNCTION]),
    }
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    assert one(row) == {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            ASKED,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "rain"},
        ],
        "completion": [{"role": "assistant", "content": "It rains."}],
        "tools": [TOOL],
    }
    beside = {"conversations": row["conversations"][1:], "system": "Be brief."}
    assert one(beside)["prompt"] == one(row)["prompt"]
    with pytest.raises(UserError, match="f line 1, message 1: from 'narrator'; wanted one of system, human"):
        check({"conversations": [{"from": "narrator", "value": "x"}]})
    with pytest.raises(UserError, match="keep one of them"):
        check({**row, "system": "Be long."})


def test_conversations_with_roles():
    assert one({"conversations": [ASKED, ANSWER]}) == {"prompt": [ASKED], "completion": [ANSWER]}


def test_alpaca_s_own_prompt():
    row = {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "all of it"}
    with_input = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n"
    )
    without = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\nAdd.\n\n### Response:\n"
    )
    checked = check(row, {**row, "input": ""})
    assert checked.kind == "prompt-completion"
    assert checked.rows == [{"prompt": prompt, "completion": "3"} for prompt in (with_input, without)]
    assert "read as Alpaca" in checked.notes[0] and checked.notes[1] == "columns not used: `text`"
    dolly = {"instruction": "Add.", "context": "1, 2", "response": "3"}
    assert one(dolly) == {"prompt": with_input, "completion": "3"}
    with pytest.raises(UserError, match="f line 1: Alpaca's prompt has no place for its `history`"):
        check({**row, "history": [["a", "b"]]})


def test_prompt_and_completion_as_messages():
    row = {"prompt": [ASKED], "completion": [CALLED, SAID, ANSWER], "tools": [TOOL]}
    assert check(row).kind == "messages"
    assert one(row) == row
    assert one({"prompt": "Weather in Bern?", "completion": [ANSWER]})["prompt"] == [ASKED]
    assert one({"prompt": json.dumps([ASKED]), "completion": json.dumps([ANSWER])})["prompt"] == [ASKED]
    with pytest.raises(UserError, match="`completion` must begin with an assistant turn"):
        check({"prompt": [ASKED], "completion": [ASKED]})
    with pytest.raises(UserError, match="f line 2: `completion` must be a string"):
        check({"prompt": "p", "completion": "c"}, row | {"prompt": "p"})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [ANSWER]},
        {"chosen": [ASKED, ANSWER], "rejected": [ASKED, ANSWER]},
        {"prompt": "Weather in Bern?", "chosen": [ASKED, ANSWER], "rejected": []},
    ],
)
def test_preferences_are_read_for_what_was_chosen(row):
    assert one(row) == {"prompt": [ASKED], "completion": [ANSWER]}
    assert check(row).notes[0] == "trains on `chosen`; `rejected` is not used"


def test_preferences_of_text():
    row = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    assert one(row) == {"prompt": "p", "completion": "good"}


def test_text_under_another_name_is_said():
    assert check({"content": "t", "url": "u"}).rows == [{"text": "t"}]
    assert check({"content": "t"}).notes == ["`content` is read as the text"]
    assert check({"sentence": "t"}, {"sentence": ""}).rows == [{"text": "t"}]
    for row in ({"role": "user", "content": "t"}, {"title": "t", "body": "b"}, {"label": 3}):
        with pytest.raises(UserError, match="wanted: `prompt`"):
            check(row)


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ({"role": "assistant", "content": None}, "its `content` is missing or null, and it calls no tool"),
        ({"role": "assistant", "content": 3}, "its `content` must be a string and is of type int"),
        ({"role": 3, "content": "x"}, "must be an object with `role` and `content`"),
        ({"role": "assistant", "tool_calls": {"a": 1}}, "`tool_calls` must be a list of objects"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "no `function` with a `name`"),
        ({"from": "function_call", "value": "not json"}, "in CSV written as JSON"),
        ({"from": "function_call", "value": '{"arguments": 1}'}, "must be JSON with `name` and `arguments`"),
    ],
)
def test_a_bad_message_is_named(message, wanted):
    with pytest.raises(UserError, match="f line 1, message 2") as error:
        check({"messages": [ASKED, message]})
    assert wanted in str(error.value) and "\n" not in str(error.value)


def test_bad_tools_and_options_are_named():
    for row in (
        {"tools": "[oops"},
        {"tools": [3]},
        {"tools": {"a": 1}, "functions": 3, "chat_template_kwargs": [1]},
    ):
        with pytest.raises(UserError, match="f line 1: `"):
            check({"messages": [ASKED, ANSWER], **row})
