import json

import pytest

from depthprune.data.json_files import read_json
from depthprune.errors import UserError

ROWS = [{"prompt": "p", "completion": "c"}, {"prompt": "q", "completion": "d"}]
CHAT = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}


def read(tmp_path, content, *splits, **dumped):
    path = tmp_path / "data.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, **dumped))
    return [row for _, row in read_json(path, *splits)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.0", "tags": ["x"], "rows": ROWS},
        {"train": ROWS, "test": ROWS[:1]},
        {"prompt": ["p", "q"], "completion": ["c", "d"]},
    ],
)
def test_rows_wherever_they_stand(tmp_path, content, indent):
    assert read(tmp_path, content, indent=indent) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "row", [CHAT, ROWS[0], {"text": "t"}, {"conversations": [{"from": "human", "value": "x"}]}]
)
def test_one_object_may_be_one_row(tmp_path, row, indent):
    assert read(tmp_path, row, indent=indent) == [row]


def test_objects_after_each_other(tmp_path):
    assert read(tmp_path, "\n".join(json.dumps(row) for row in ROWS)) == ROWS
    assert read(tmp_path, "\n\n".join(json.dumps(row, indent=2) for row in ROWS)) == ROWS
    assert read(tmp_path, {"messages": [CHAT["messages"]] * 2}) == [CHAT, CHAT]
    assert read(tmp_path, " \n") == []


def test_keys_that_are_splits(tmp_path):
    content = {"train": ROWS, "dev": ROWS[1:]}
    assert read(tmp_path, content, ("validation",)) == ROWS[1:]
    assert read(tmp_path, content, ("test", "validation", "train")) == ROWS[1:]
    with pytest.raises(UserError, match="no split 'test'; there: train, dev"):
        read(tmp_path, content, ("test",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"good": ROWS, "bad": ROWS}, "the keys `good`, `bad`, of which several hold a list of rows"),
        ({"version": 1, "size": 2}, "the keys `version`, `size`, of which none holds a list of rows"),
        ({}, "the keys none"),
        ({"data": [ROWS[0], 3]}, "data.json data row 2: of type int"),
        ('[{"text": "x"}] trailing', "line 1 column 17"),
        ('{"data": [\n{"text": "x"},\n', "not valid JSON"),
    ],
)
def test_what_holds_no_rows_is_named(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        read(tmp_path, content)
    assert message in str(error.value) and "\n" not in str(error.value)
