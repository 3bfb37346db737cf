import json

import pytest

from depthprune.data.rows import check_rows
from depthprune.errors import UserError

GOOD = {"prompt": "p", "completion": " a", "choices": [" a", " b"]}
CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "first"},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "last"},
]


def check(*rows: dict):
    return check_rows((f"f line {i}", row) for i, row in enumerate(rows, start=1))


def read(*rows: dict) -> tuple[str, list[dict]]:
    checked = check(*rows)
    return checked.kind, checked.rows


def test_columns_of_the_kind_are_kept_and_others_said():
    assert read({"prompt": "p", "completion": "c", "text": "t", "id": 3}) == (
        "prompt-completion",
        [{"prompt": "p", "completion": "c"}],
    )
    assert read(GOOD) == ("prompt-completion", [GOOD])
    assert read({"text": "t", "url": "u"}) == ("text", [{"text": "t"}])
    assert check({"text": "t", "url": "u", "id": None}, {"text": "t", "id": 1}).notes == [
        "columns not used: `url`, `id`"
    ]
    assert check(GOOD).notes == []


def test_messages_split_at_the_last_assistant_turn():
    assert read({"messages": CHAT}) == ("messages", [{"prompt": CHAT[:4], "completion": CHAT[4:]}])
    trailing = check({"messages": [*CHAT, {"role": "user", "content": "thanks", "name": "x"}]})
    assert trailing.rows == [{"prompt": CHAT[:4], "completion": CHAT[4:]}]
    assert trailing.notes == ["1 rows go on after the last assistant turn: what comes after it is not used"]


def test_lists_may_be_json_strings_as_csv_has_them():
    assert read({**GOOD, "choices": json.dumps(GOOD["choices"])})[1] == [GOOD]
    assert read({"messages": json.dumps(CHAT)})[1][0]["completion"] == CHAT[4:]
    assert read({"prompt": "p", "completion": "c", "choices": ""})[1] == [{"prompt": "p", "completion": "c"}]


def test_blank_texts_are_passed_over():
    assert read({"text": ""}, {"text": "t"}, {"text": " \n"}) == ("text", [{"text": "t"}])


def test_no_rows():
    assert check().rows == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "q", "answer": "a"},
            "no column `prompt` (columns `question`, `answer`); wanted: `prompt`",
        ),
        (
            {"prompt": 3, "completion": "c", "choices": ["c", "d"]},
            "`prompt` must be a string and is of type int",
        ),
        ({**GOOD, "completion": None}, "`completion` must be a string and is null"),
        ({**GOOD, "completion": " \n"}, "`completion` is empty"),
        ({**GOOD, "prompt": ""}, "`prompt` is empty"),
        ({"prompt": "p", "completion": " a"}, "`choices` must stand in every row or in none"),
        ({**GOOD, "choices": [" a"]}, "1 in `choices`; wanted two or more"),
        ({**GOOD, "choices": [" a", 3]}, "`choices` must be a list of non-empty strings"),
        ({**GOOD, "choices": "a|b"}, "in CSV written as JSON"),
        (
            {**GOOD, "completion": "a"},
            "completion 'a' is not among the choices [' a', ' b']; ' a' differs in its",
        ),
    ],
)
def test_a_bad_row_is_named(row, message):
    with pytest.raises(UserError) as error:
        check(GOOD, row)
    assert str(error.value).startswith("f line 2: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "as JSON"),
        (None, "`messages` must be a list of role and content, and is null"),
        ([], "no assistant turn"),
        (CHAT[:2], "no assistant turn"),
        (CHAT[2:3], "no turn before the assistant's"),
        ([CHAT[1], {"role": "assistant", "content": " "}], "the last assistant turn is empty"),
        ([CHAT[1], {"role": "assistant"}], "f line 1, message 2: its `content` is missing or null"),
        ([CHAT[1], "hello"], "f line 1, message 2"),
    ],
)
def test_bad_messages_are_named(messages, message):
    with pytest.raises(UserError) as error:
        check({"messages": messages})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_columns_of_the_first_row_wanted_and_named():
    with pytest.raises(
        UserError, match="f line 1: columns `question`, `answer`; wanted: `prompt` and `completion`"
    ):
        check({"question": "q", "answer": "a"})
