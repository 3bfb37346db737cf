"""What a recipe, a table of names and a refused call do without: libraries that take seconds to import."""

import json
import subprocess
import sys

import pytest
from tiny import tiny_model

SLOW = {"torch", "transformers", "peft", "trl", "accelerate", "datasets", "pandas", "pyarrow"}
SLOW |= {"numpy", "scipy", "sklearn", "matplotlib", "bitsandbytes"}

CALL = """
import json, sys
sys.argv = ["depthprune", *json.loads(sys.argv[1])]
from depthprune.cli.verbs import main
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)))
"""
API = """
import json, sys
import depthprune
from depthprune.recipe.load import recipe_names
for name in recipe_names():
    depthprune.load_recipe(name)
depthprune.select_layers([3.0, 1.0, 2.0, 4.0], 0.5)
depthprune.UserError, depthprune.Plan
print(json.dumps(sorted(sys.modules)))
"""

REFUSED = [
    ["prone"],
    ["run", "gradprunner", "--model", "m"],
    ["run", "gradpruner", "--model", "m", "training.learning_rat=1"],
    ["run", "gradpruner", "--model", "m", "importance.metric=ogia"],
    ["run", "gradpruner", "--model", "m", "--until", "never"],
    ["run", "gradpruner", "--model", "m", "--ratio", "1.5"],
    ["run", "gradpruner", "--model", "m", "--ratio", "0"],
    ["run", "sleb", "--model", "m", "--ratio", "nan"],
    ["run", "random", "--model", "m", "selection.ratio=-0.1"],
    ["run", "replaceme", "--model", "m", "selection.method=iterative"],
    ["score", "sleb", "--model", "m", "calibration_samples.samples=0"],
    ["train", "--model", "m", "--train", "t", "training.method=laro"],
    ["evaluate", "--model", "m"],
    ["evaluate", "--model", "m", "--eval", "e", "--num-fewshot", "2"],
    ["evaluate", "--model", "m", "--tasks", ","],
    ["prune", "--model", "m", "--remove", "5-3", "--output", "o"],
    ["inspect", "m", "--ratio", "1"],
    ["bench", "m", "--shapes", "8"],
    ["bench", "m", "--seconds", "-1"],
    ["bench", "m", "--prompts", "p"],
]


def called(code, *arguments):
    """Runs `code` in a fresh interpreter; its exit code, stderr, and which slow libraries it imported."""
    ended = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True, check=False
    )
    modules = json.loads(ended.stdout.splitlines()[-1])
    return ended.returncode, ended.stderr, SLOW & {name.partition(".")[0] for name in modules}


def test_recipes_are_read_without_a_slow_library():
    assert called(API) == (0, "", set())


def test_tables_of_names_are_printed_without_a_slow_library():
    assert called(CALL, "methods") == (0, "", set())
    assert called(CALL, "methods", "--json")[::2] == (0, set())


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_what_the_arguments_show_is_refused_without_a_slow_library(arguments):
    code, said, slow = called(CALL, *arguments)
    assert (code, slow) == (2, set())
    assert said.startswith("error: ") and len(said.splitlines()) == 1


def test_the_slow_libraries_would_be_seen():
    assert "torch" in called("import torch, json, sys; print(json.dumps(sorted(sys.modules)))")[2]


def test_inspect_reads_plain_files_without_the_model_class(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    code, _, slow = called(CALL, "inspect", str(tmp_path))
    assert code == 0 and slow <= {"numpy"}
