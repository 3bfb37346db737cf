"""Small verbs beside runs and models."""

from pathlib import Path
from typing import Annotated

import typer

from depthprune.errors import UserError


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or the folder of a comparison.")],
) -> None:
    """Write the report of a run or a comparison again, from its JSON."""
    from depthprune.cli.display import print_line
    from depthprune.compare.write import REPORT, RESULTS, write_report_of
    from depthprune.files import OWN, read_object
    from depthprune.model.published import STAMPS
    from depthprune.report import write_report

    if (folder / RESULTS).is_file():
        found = read_object(folder / RESULTS)
        if found is None:
            raise UserError(
                f"{folder / RESULTS} is torn: call `depthprune compare` with the same settings again"
            )
        write_report_of(folder, found)
        print_line(f"{folder / REPORT}")
        return
    if not (folder / OWN / STAMPS).is_file():
        raise UserError(f"{folder} is neither a run of depthprune nor a comparison")
    write_report(folder)
    print_line(f"{folder / OWN / 'report.html'}")


def schema() -> None:
    """Print the JSON schema of a recipe, by which an editor completes and checks one."""
    from depthprune.cli.display import print_json
    from depthprune.recipe.schema import recipe_schema

    print_json(recipe_schema())
