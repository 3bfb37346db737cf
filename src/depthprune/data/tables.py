"""What `datasets` saved, and what it loads from the hub."""

import logging
from collections.abc import Iterator
from pathlib import Path

import datasets

from depthprune.data.files import Record, without_nulls
from depthprune.data.splits import FOR_TRAINING, choose_split
from depthprune.errors import UserError


def is_saved(folder: Path) -> bool:
    """Whether a folder is one of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def read_saved(folder: Path, splits: tuple[str, ...] = FOR_TRAINING) -> Iterator[Record]:
    """The rows of a saved dataset, or of the first of `splits` that it has."""
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # a torn file raises errors of Arrow, JSON and the system
        raise UserError(f"{folder}: not a readable dataset of save_to_disk ({_line(error)})") from error
    return numbered(str(folder), pick(str(folder), loaded, splits))


def read_hub(source: str, hub_id: str, config: str | None, splits: tuple[str, ...]) -> Iterator[Record]:
    """The rows of a dataset on the hub; raises `UserError` where it cannot be loaded."""
    hub_logger = logging.getLogger("huggingface_hub")
    level = hub_logger.level
    hub_logger.setLevel(logging.ERROR)  # it would tell of each of its attempts
    try:
        loaded = datasets.load_dataset(hub_id, config)
    except Exception as error:  # the hub client raises errors of half a dozen unrelated classes
        raise UserError(
            f"{source}: no such file or folder here, and it could not be loaded from the hub: {_line(error)}"
        ) from error
    finally:
        hub_logger.setLevel(level)
    return numbered(source, pick(source, loaded, splits))


def pick(
    source: str, loaded: datasets.Dataset | datasets.DatasetDict, splits: tuple[str, ...]
) -> datasets.Dataset:
    """What was loaded, or the first of `splits` in it."""
    if isinstance(loaded, datasets.Dataset):
        return loaded
    return loaded[choose_split(source, [str(name) for name in loaded], splits)]


def numbered(source: str, dataset: datasets.Dataset) -> Iterator[Record]:
    """The rows of a dataset, and where each stands."""
    number = 0
    for table in dataset.with_format("arrow").iter(1000):  # not decoded: no image is ever opened
        for row in table.to_pylist():
            number += 1
            yield f"{source} row {number}", without_nulls(row)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
