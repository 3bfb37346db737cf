"""A sample of `make test-faults`, and that its states are what real kills leave."""

from functools import partial

import pytest
from faults.every_kill import Recorded, check, killed_twice, recorded, scenarios, warm
from faults.kills import dying, forked, read_tree, shape


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    warm(folder)
    return folder


@pytest.fixture(scope="module")
def pruned(place) -> Recorded:
    return recorded(scenarios(place)[-1], place)


def test_the_states_are_what_real_kills_leave(place, pruned, tmp_path):
    known = [shape(tree) for _, tree in pruned.states.trees]
    for moment in (1, pruned.states.operations // 2, pruned.states.operations - 2):
        root = tmp_path / str(moment) / "out"
        root.parent.mkdir()
        forked(partial(dying, root, partial(pruned.scenario.act, root), moment), tmp_path / "log")()
        assert shape(read_tree(root, {})) in known


def test_a_sample_of_the_kills_of_prune(place, pruned):
    for number in range(0, len(pruned.states.trees), 5):
        assert check(pruned, number, place)() is None
    assert killed_twice(pruned, (9, 12), place) is None


def test_a_kill_between_the_stamp_and_the_publishing_and_one_while_the_trainer_goes(place):
    found = recorded(scenarios(place)[0], place)
    assert found.states.operations > 300
    labels = [label for label, _ in found.states.trees]
    stamped = [i for i, label in enumerate(labels) if label.endswith("depthprune/published.json")]
    removed = [i for i, label in enumerate(labels) if "os.remove" in label and "trainer" in label]
    for number in (stamped[2], removed[len(removed) // 2]):
        assert check(found, number, place)() is None
