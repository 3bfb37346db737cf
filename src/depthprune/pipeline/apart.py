"""A run never writes where it reads."""

from pathlib import Path

from depthprune.errors import UserError
from depthprune.recipe.recipe import Recipe


def check_apart(recipe: Recipe, output: Path) -> None:
    """Raises `UserError` where the model or data lies in the run folder, or the folder in the data."""
    data = {"train": recipe.train, "calibration": recipe.calibration, "chat_template": recipe.chat_template}
    sources = [
        ("model", recipe.model),
        ("weights", recipe.weights),
        *data.items(),
        *(("eval", source) for source in recipe.eval),
    ]
    for key, source in sources:
        if source is None or not (path := Path(source).expanduser()).exists():
            continue
        files = [path, *path.iterdir()] if key in ("model", "weights") and path.is_dir() else [path]
        if any(_lies_in(file, output) for file in files):
            raise UserError(
                f"{key} {source} lies in the output {output}, which the run changes: name another folder "
                "with --output, or copy it out first"
            )
        if key not in ("model", "weights") and path.is_dir() and _lies_in(output, path):
            raise UserError(
                f"the output {output} lies in the data {source}, and would be read as data: name another "
                "folder with --output"
            )


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or something in it, whatever links and mounts they are named by."""
    whole = path.resolve()
    if whole.is_relative_to(folder.resolve()):
        return True
    return folder.exists() and any(
        above.exists() and above.samefile(folder) for above in (whole, *whole.parents)
    )
