"""The word of the first of several processes holds for all runs of a comparison."""

import json

from runs import recipe

from depthprune.compare.one_arithmetic import in_one_arithmetic


def test_the_first_word_holds(tmp_path):
    kept, asked = tmp_path / "arithmetic.json", recipe(tmp_path)
    kept.write_text("{")  # torn
    assert in_one_arithmetic(asked, tmp_path).arithmetic == "float32"
    assert json.loads(kept.read_text()) == {"dtype": "float32"}
    kept.write_text('{"dtype": "bfloat16"}')
    assert in_one_arithmetic(asked, tmp_path).arithmetic == "bfloat16"
    own = asked.model_copy(update={"arithmetic": "float32"})
    assert in_one_arithmetic(own, tmp_path) is own
    assert [path.name for path in tmp_path.glob(".arithmetic*")] == []
