"""A moment of `make fuzz`, and that it would find something."""

import shutil
from pathlib import Path

import pytest
from fuzz.explore import explore
from fuzz.kinds import Kind, kinds, prepare
from fuzz.watching import watched
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from depthprune.errors import UserError

SECONDS = 0.5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    set_hypothesis_home_dir(folder / "hypothesis")
    prepare(folder)
    return folder


@pytest.mark.parametrize("name", ["headers", "indexes", "configs", "recipes", "datasets", "templates"])
def test_nearly_valid_input_is_taken_or_refused(name, place):
    found = explore(kinds(place)[name], place, SECONDS, seed=0)
    assert found.tried and not found.faults


def writes_outside(place: Path) -> None:
    (place / "elsewhere").mkdir()


def raises(place: Path) -> None:
    raise KeyError("x")


def refuses(place: Path) -> None:
    raise UserError("no")


@pytest.mark.parametrize(
    ("act", "said"), [(writes_outside, "Outside"), (raises, "KeyError"), (refuses, None)]
)
def test_what_goes_wrong_is_found(act, said, place):
    kind = Kind(st.just(b"x"), lambda place, case: None, act)
    found = explore(kind, place, 0.05, seed=0)
    assert found.refused == (found.tried if said is None else 0)
    assert [fault.partition(":")[0] for fault in found.faults] == ([said] if said else [])


def test_a_tree_may_be_removed_inside_the_output_and_nowhere_else(place, tmp_path):
    for name in ("out", "other"):
        (tmp_path / name / "in" / "it").mkdir(parents=True)
    with watched(tmp_path / "out"):
        shutil.rmtree(tmp_path / "out")
    with pytest.raises(BaseException, match="other"), watched(tmp_path / "out"):
        shutil.rmtree(tmp_path / "other")
