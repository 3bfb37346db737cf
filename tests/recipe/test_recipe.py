import pytest
import yaml

from depthprune import UserError, load_recipe
from depthprune.importance.igia import Igia
from depthprune.importance.reverse import Reverse
from depthprune.recipe.load import RECIPES, parse_override, recipe_names
from depthprune.recovery.same_sign_merge import SameSignMerge
from depthprune.selection import Explicit, OneShot
from depthprune.training import Full, Lora

MINIMAL = """
importance: {metric: reverse}
selection: {method: one-shot, ratio: 0.5}
recovery: {method: none}
training: {method: none}
"""


@pytest.fixture
def written(tmp_path):
    """Writes a recipe file and returns its path."""

    def write(text):
        (tmp_path / "mine.yaml").write_text(text)
        return tmp_path / "mine.yaml"

    return write


def refused(message, name_or_path, **overrides):
    with pytest.raises(UserError) as refusal:
        load_recipe(name_or_path, **overrides)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_resolves_to_itself(name, written):
    recipe = load_recipe(name)
    assert load_recipe(written(recipe.as_yaml())) == recipe
    assert (RECIPES / f"{name}.yaml").read_text().startswith("# ")


def test_gradpruner_is_the_published_method():
    recipe = load_recipe("gradpruner")
    assert recipe.importance == Igia() and recipe.recovery == SameSignMerge() and recipe.training == Lora()
    assert recipe.selection == OneShot(ratio=0.4)


def test_overrides_by_dotted_key():
    overrides = {"importance.steps": 5, "selection.protect": "0-1,-1", "evaluation.limit": 3, "seed": 7}
    recipe = load_recipe("gradpruner", **overrides, model="some/folder", eval="test.jsonl")
    assert recipe.importance == Igia(steps=5)
    assert recipe.selection.protect == (0, 1, -1)
    assert (recipe.evaluation.limit, recipe.seed, recipe.model) == (3, 7, "some/folder")
    assert recipe.eval == ("test.jsonl",)


def test_overrides_win_over_the_file_and_leave_the_rest(written):
    path = written(MINIMAL.replace("ratio: 0.5", "ratio: 0.5, protect: 0-1"))
    assert load_recipe(path, **{"selection.ratio": 0.25}).selection == OneShot(ratio=0.25, protect=(0, 1))


@pytest.mark.parametrize("flip", [False, True])
def test_another_method_drops_the_settings_of_the_old_one(written, flip):
    path = written(MINIMAL.replace("training: {method: none}", "training: {method: lora, lora_r: 4}"))
    overrides = {"training.method": "full", "training.max_steps": 10, "selection.remove": "3-5"}
    overrides["selection.method"] = "explicit"
    if flip:  # the order in which the overrides are given does not matter
        overrides = dict(reversed(overrides.items()))
    recipe = load_recipe(path, **overrides)
    assert recipe.training == Full(max_steps=10)
    assert recipe.selection == Explicit(remove=(3, 4, 5))


def test_the_same_method_again_keeps_its_settings(written):
    path = written(MINIMAL.replace("training: {method: none}", "training: {method: lora, lora_r: 4}"))
    assert load_recipe(path, **{"training.method": "lora"}).training == Lora(lora_r=4)


def test_a_slot_may_be_left_to_the_overrides(written):
    recipe = load_recipe(
        written(MINIMAL.replace("{metric: reverse}", "")), **{"importance.metric": "reverse"}
    )
    assert recipe.importance == Reverse()


@pytest.mark.parametrize("number", ["6e-4", "6.0e-4", "0.0006"])
def test_numbers_in_scientific_notation(written, number):
    key, value = parse_override(f"training.learning_rate={number}")
    assert load_recipe("gradpruner", **{key: value}).training.learning_rate == 6e-4
    path = written(
        MINIMAL.replace("training: {method: none}", f"training: {{method: full, learning_rate: {number}}}")
    )
    assert load_recipe(path).training.learning_rate == 6e-4


@pytest.mark.parametrize(
    "text, parsed",
    [
        ("training.max_steps=130", ("training.max_steps", 130)),
        ("baseline=true", ("baseline", True)),
        ("selection.protect=[0, -1]", ("selection.protect", [0, -1])),
        ("recovery.method=none", ("recovery.method", "none")),
        ("training.report_to=a=b", ("training.report_to", "a=b")),
    ],
)
def test_overrides_on_the_command_line_are_yaml(text, parsed):
    assert parse_override(text) == parsed


@pytest.mark.parametrize("text", ["training.max_steps", "=3", "selection.protect=[1", ""])
def test_what_is_no_override_is_refused(text):
    with pytest.raises(UserError) as refusal:
        parse_override(text)
    assert repr(text) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"modle": "x"}, "modle: no such setting; did you mean 'model'?"),
        (
            {"training.learnin_rate": 1},
            "training.learnin_rate: no such setting; did you mean 'learning_rate'?",
        ),
        ({"importance.xyz": 1}, "importance.xyz: no such setting; known keys are "),
        ({"training.lora_r": 4, "training.method": "full"}, "training.lora_r: no such setting"),
        ({"evaluation.batchsize": 1}, "evaluation.batchsize: no such setting; did you mean 'batch_size'?"),
        ({"calibration_samples.size": 1}, "calibration_samples.size: no such setting"),
        ({"importance.metric": "iga"}, "importance.metric: there is no 'iga'; did you mean 'igia'?"),
        ({"training.method": "qqq"}, "there is no 'qqq'; choose one of lora, qlora, full, partial, none"),
        ({"training.method": None}, "training.method: there is no None; did you mean 'none'?"),
        ({"training.method": ["lora"]}, "training.method: there is no ['lora']"),
        ({"training": "lora"}, "training is 'lora': write its settings as a mapping"),
        ({"evaluation": 3}, "evaluation is 3: write its settings as a mapping"),
        ({"model.name": "x", "model": "y"}, "model.name: model has no settings of its own"),
        ({"importance.steps": 2}, "importance.steps is 2: input should be greater than or equal to 3"),
        (
            {"training.learning_rate": "fast"},
            "training.learning_rate is 'fast': input should be a valid number",
        ),
        ({"training.learning_rate": float("nan")}, "training.learning_rate is nan"),
        ({"recovery.keep_top": 0}, "recovery.keep_top is 0: input should be greater than 0"),
        ({"recovery.layers": "most"}, "recovery.layers"),
        ({"selection.protect": None}, "layers 'None': write indices and inclusive ranges"),
        ({"selection.protect": "x-y"}, "layers 'x-y': write indices and inclusive ranges"),
        (
            {"dtype": "float33"},
            "dtype is 'float33': input should be 'auto', 'float32', 'bfloat16' or 'float16'",
        ),
        ({"seed": -1}, "seed is -1: input should be greater than or equal to 0"),
        ({"importance.metric": "reverse"}, "recovery.method=same-sign-merge reads the gradients that"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(overrides, message):
    refused(message, "gradpruner", **dict(reversed(overrides.items())))


def test_an_unknown_recipe_is_refused():
    refused("gradprunner: no such recipe or file; did you mean 'gradpruner'?", "gradprunner")
    refused("no such recipe or file; the recipes are blockpruner, finercut, finetune", "zzz.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        ("importance: [", "mine.yaml is not YAML: "),
        ("a: b: c", "mine.yaml is not YAML: "),
        ("", "mine.yaml holds no recipe: a mapping with the keys importance, selection, recovery, training"),
        ("- 1", "mine.yaml holds no recipe"),
        ("1: 2", "mine.yaml holds no recipe"),
        (MINIMAL.replace("training: {method: none}", ""), "training.method is missing: choose one of lora"),
        (MINIMAL.replace("{metric: reverse}", ""), "importance.metric is missing"),
        (MINIMAL.replace("{metric: reverse}", "reverse"), "importance is 'reverse': write its settings"),
        (MINIMAL.replace("{metric: reverse}", "{metric: reverse, 1: 2}"), "importance is {"),
        (MINIMAL + "evaluation: 16", "evaluation is 16: write its settings"),
        (MINIMAL + "speed: 1", "speed: no such setting"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(written, text, message):
    refused(message, written(text))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    refused("mine.yaml is not YAML", tmp_path / "mine.yaml")


def test_a_slot_with_settings_of_text_is_refused_with_overrides_too(written):
    path = written(MINIMAL.replace("{metric: reverse}", "reverse"))
    refused("importance is 'reverse'", path, **{"importance.metric": "igia"})
    refused("importance.steps: importance has no settings of its own", path, **{"importance.steps": 5})


@pytest.mark.parametrize("key", ["evaluation", "calibration_samples"])
def test_a_key_with_nothing_behind_it_has_its_defaults(written, key):
    assert load_recipe(written(MINIMAL + f"{key}:")) == load_recipe(written(MINIMAL))
    changed = load_recipe(written(MINIMAL + f"{key}:"), **{f"{key}.batch_size": 3})
    assert getattr(changed, key).batch_size == 3


def test_the_digest_changes_with_its_own_keys_and_no_others():
    recipe = load_recipe("gradpruner")
    digest = recipe.digest("importance", "seed")
    assert len(digest) == 16
    for overrides in (
        {"training.max_steps": 3},
        {"model": "x"},
        {"selection.ratio": 0.1},
        {"importance.steps": 40},
    ):
        assert load_recipe("gradpruner", **overrides).digest("importance", "seed") == digest
    for overrides in ({"importance.steps": 41}, {"seed": 1}, {"importance.norm": "frobenius"}):
        assert load_recipe("gradpruner", **overrides).digest("importance", "seed") != digest
    assert recipe.digest("importance") != digest


def test_two_ways_to_write_a_setting_have_one_digest(written):
    lists = load_recipe(written(MINIMAL.replace("0.5", "0.5, protect: [0, 1, -1]")))
    ranges = load_recipe(written(MINIMAL.replace("0.5", '5e-1, protect: "0-1,-1"')))
    assert lists.digest("selection") == ranges.digest("selection")


def test_the_resolved_recipe_writes_every_default_out():
    values = yaml.safe_load(load_recipe("gradpruner").as_yaml())
    assert values["importance"]["learning_rate"] == 1e-4 and values["importance"]["steps"] == 40
    assert values["recovery"] == {"method": "same-sign-merge", "layers": "beyond-30%", "keep_top": 0.2}
    assert values["evaluation"]["batch_size"] == 16
