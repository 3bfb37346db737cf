"""What PyYAML makes of a text is what is read, unless it stands for too much."""

import pytest
import yaml

from depthprune import UserError, load_recipe
from depthprune.recipe.bounded_yaml import read_yaml
from depthprune.recipe.load import parse_override

BILLION = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1, y: 2}"]
    + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]
)
BOMBS = {
    "aliases": BILLION,
    "merges": MERGES,
    "a list in itself": "a: &a [*a]",
    "a mapping in itself": "&a {b: *a}",
    "deep lists": "[" * 5000,
    "deep lists, closed": "[" * 5000 + "]" * 5000,
    "deep mappings": "{a: " * 5000,
    "deep blocks": "- " * 5000,
    "deeper than any recipe": "[" * 30 + "]" * 30,
    "5000 digits": "9" * 5000,
    "4000 digits": "seed: " + "9" * 4000,
    "hexadecimal": "0x" + "f" * 5000,
    "binary": "0b" + "1" * 5000,
    "base 60": ":".join(["59"] * 3000),
    "long": "a: " + "b" * 2_000_000,
    "many values": "[" + "1," * 20_000 + "]",
    "a day that is none": "2024-13-45",
    "a tag": "!!python/object/apply:os.system [ls]",
    "an unknown anchor": "*nobody",
    "control characters": "a: \x1b[31m",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_one_line(tmp_path, kind):
    for read in (
        lambda: parse_override(f"seed={BOMBS[kind]}"),
        lambda: load_recipe(tmp_path / "mine.yaml"),
    ):
        (tmp_path / "mine.yaml").write_text(BOMBS[kind])
        with pytest.raises(UserError) as refusal:
            read()
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600


@pytest.mark.parametrize(
    "text",
    ["", "1", "a: [1, 2.5, x, null, true]", "a: &a {b: 1}\nc: {<<: *a, d: [*a, *a]}", "-9", "12:30", "1e-4"],
)
def test_the_rest_is_as_pyyaml_reads_it(text):
    assert read_yaml(text, "text") == yaml.safe_load(text)


def test_a_large_file_and_one_in_another_encoding(tmp_path):
    path = tmp_path / "mine.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no place on the disk
    for content in (None, "seed: 1".encode("utf-16"), b"model: caf\xe9"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"not YAML|longer than"):
            load_recipe(path)


def test_a_key_of_a_thousand_parts():
    with pytest.raises(UserError, match="no such setting"):
        load_recipe("finetune", **{".".join(["a"] * 1000): 1})
