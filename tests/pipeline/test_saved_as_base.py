"""What a run writes is what its base is, but for what the run changed; so is each of its stages."""

import json
import logging
from pathlib import Path

from runs import LAYERS, model_folder, recipe
from transformers import AutoTokenizer

from depthprune.pipeline.run import run

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"


def hub_style(folder: Path) -> dict:
    """Makes a base's config what transformers 4 writes; returns it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in ("rope_parameters", "dtype"):
        config.pop(name)
    config |= {"torch_dtype": "float32", "rope_theta": 500000.0, "transformers_version": "4.44.0"}
    path.write_text(json.dumps(config))
    (folder / "LICENSE").write_text("of the base")
    (folder / "additional_chat_templates").mkdir()
    for name in ("rag", "tool_use"):
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(name.upper())
    return config


def test_a_run_keeps_the_bases_files_and_adds_the_template_that_it_trained_with(tmp_path, caplog):
    base = hub_style(model_folder(tmp_path / "base"))
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    settings = recipe(
        tmp_path, "reverse", model=str(tmp_path / "base"), chat_template=str(tmp_path / "template.jinja"),
        baseline=True, **{"selection.ratio": 0.34},
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "depthprune"):
        root = run(settings, tmp_path / "out")
    assert caplog.text.count("loses the model's own template 'tool_use'") == 1
    own = root / "depthprune"
    for folder, layers in ((root, 4), (own / "pruned", 4), (own / "tuned", 4), (own / "baseline", LAYERS)):
        found = json.loads((folder / "config.json").read_text())
        assert found == {**base, "num_hidden_layers": layers} and list(found) == list(base)
        assert (folder / "LICENSE").read_text() == "of the base"
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert (folder / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
        templates = AutoTokenizer.from_pretrained(folder).chat_template
        assert templates["rag"] == "RAG"
        assert (templates["default"] == TEMPLATE) is (folder != own / "pruned")
        assert ("tool_use" in templates) is (folder == own / "pruned")


def test_a_chat_template_is_known_by_what_it_says(tmp_path, caplog):
    first, other = tmp_path / "first.jinja", tmp_path / "other.jinja"
    first.write_text(TEMPLATE)
    other.write_text(TEMPLATE)

    def stages_done(path):
        caplog.clear()
        with caplog.at_level(logging.INFO, "depthprune"):
            run(recipe(tmp_path, "random", chat_template=str(path)), tmp_path / "out", "select")
        return caplog.text.count("already done")

    assert stages_done(first) == 0
    assert stages_done(other) == 2
    other.write_text(TEMPLATE + "{# another #}")
    assert stages_done(other) == 0
