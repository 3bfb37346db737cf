"""mlx-lm computes from the nemotron-nas form what the model with zeros computes in transformers."""

from pathlib import Path

from bases import Result, hub_style, tiny
from test_engines import TEXTS, ask, compare, pytestmark  # noqa: F401

from depthprune.export.nemotron_nas import export
from depthprune.model.loading import load_model
from depthprune.model.silence import silence
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import layer_sides


def with_zeros(folder: Path, **config) -> Result:
    """A random Llama of which two attentions and an MLP are zeros."""
    hub_style(tiny("llama", folder, intermediate_size=512, **config), rope_theta=500000.0)
    model = load_model(folder, "float32")
    silenced = {2: ("attention",), 3: ("mlp",), 5: ("attention",)}
    silence(model, silenced, layer_sides(skeleton(model.config)))
    model.save_pretrained(folder)
    return Result(folder, model)


def test_mlx_lm_reads_nemotron_nas(tmp_path, capsys):
    made = {
        "untied": with_zeros(tmp_path / "untied"),
        "tied": with_zeros(tmp_path / "tied", tie_word_embeddings=True),
    }
    folders = {name: tmp_path / f"{name}-nas" for name in made}
    for name, result in made.items():
        export(result.folder, folders[name])
    answers = ask("mlx-lm", "run_mlx.py", made, folders, tmp_path)
    for name, result in made.items():
        equal, apart = compare(answers[name], result)
        with capsys.disabled():
            print(
                f"\n{answers[name]['version']:24} nemotron-nas, {name}: {equal} texts, off by {apart:.1e}",
                end="",
            )
        assert equal == len(TEXTS) and apart is not None and apart < 1e-2
