import pytest
import yaml

from depthprune import UserError, load_recipe


def loaded(tmp_path, importance="none", selection="by-recovery", recovery="collapse", **overrides):
    slots = {"importance": {"metric": importance}, "training": {"method": "none"}}
    slots |= {"selection": {"method": selection}, "recovery": {"method": recovery}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(slots))
    return load_recipe(path, **overrides)


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"recovery": "manifold-merge"},
        {"selection": "explicit", "recovery": "none", "selection.remove": "2-3"},
        {"importance": "angular", "selection": "contiguous", "recovery": "none"},
        {
            "importance": "reverse",
            "selection": "contiguous",
            "recovery": "replacement-layer",
            "selection.keep_first": True,
        },
        {"selection": "explicit", "recovery": "replacement-layer", "selection.remove": "2-3"},
        {"recovery": "manifold-merge", "calibration_samples.samples": 51},
    ],
)
def test_what_makes_sense_is_let_through(tmp_path, choice):
    assert loaded(tmp_path, **choice).training.method == "none"


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"selection": "one-shot"}, "chooses the layers itself"),
        ({"selection": "none"}, "chooses the layers itself"),
        (
            {"recovery": "none"},
            "chooses no layers: choose recovery.method=flatten or collapse or manifold-merge",
        ),
        ({"importance": "reverse"}, "would be computed in vain"),
        ({"selection": "one-shot", "recovery": "none"}, "importance.metric=none scores nothing"),
        (
            {"recovery": "manifold-merge", "calibration_samples.samples": 50},
            "at least 51 calibration samples",
        ),
        (
            {"importance": "reverse", "selection": "one-shot", "recovery": "replacement-layer"},
            "takes layers one by one",
        ),
        (
            {"importance": "reverse", "selection": "contiguous", "recovery": "replacement-layer"},
            "selection.keep_first is false, and recovery.method=replacement-layer needs",
        ),
        (
            {
                "importance": "reverse",
                "selection": "contiguous",
                "recovery": "none",
                "selection.keep_first": True,
            },
            "selection.keep_first is true, and recovery.method=none does nothing with",
        ),
    ],
)
def test_what_makes_none_is_refused_in_one_line(tmp_path, choice, message):
    with pytest.raises(UserError) as refusal:
        loaded(tmp_path, **choice)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
