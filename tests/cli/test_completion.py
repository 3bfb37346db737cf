import os
import subprocess
import sys

import pytest

from depthprune.recipe.load import recipe_names


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("depthprune comp", ["compare"]),
        ("depthprune run flat", ["flatten"]),
        ("depthprune run shortened", [name for name in recipe_names() if name.startswith("shortened")]),
        ("depthprune run flatten --until", ["--until"]),
    ],
)
def test_the_shell_completes_verbs_recipes_and_options(line, wanted):
    asked = {"_DEPTHPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    called = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'depthprune'\nfrom depthprune.cli.verbs import main\nmain()",
    ]
    done = subprocess.run(called, env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == wanted
