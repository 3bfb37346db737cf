"""What `inspect` prints, from files and from the model."""

import json

import pytest
from tiny import FAMILIES, tiny_model

from depthprune import UserError
from depthprune.pipeline.inspection import inspect_model
from depthprune.pipeline.inspection_of_files import PLAIN, inspect_files


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_tell_what_the_model_does_or_nothing(tmp_path, family):
    tiny_model(family).save_pretrained(tmp_path)
    found = inspect_files(str(tmp_path), 0.34)
    assert (found is not None) == (family in PLAIN)
    if found:
        assert found == inspect_model(str(tmp_path), 0.34)


def test_a_torn_file_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="torn"):
        inspect_files(str(tmp_path), 0.25)


@pytest.mark.parametrize(
    "config", [{"dtype": "int9"}, {"dtype": ["float32"]}, {"num_hidden_layers": 7}, {"auto_map": {}}]
)
def test_what_the_files_do_not_settle_is_left_to_the_model(tmp_path, config):
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    assert inspect_files(str(tmp_path), 0.25) is None
