"""What the verbs print: one table each, or the same as JSON."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from depthprune.cli import terminal
from depthprune.errors import plain, plain_values
from depthprune.pipeline.folder import RunFolder
from depthprune.recipe.load import load_recipe, recipe_names
from depthprune.recipe.recipe import SLOTS, Recipe
from depthprune.report.table import eval_table

console = Console()


def show_run(folder: Path, until: str, as_json: bool) -> None:
    """The end of a run: the results where there are some, else the plan, else the scores."""
    artifacts = RunFolder(folder)
    if artifacts.artifact("evaluate").exists() and until == "evaluate":
        show_evaluation(artifacts.read("eval.json"), as_json)
    elif artifacts.artifact("select").exists() and until != "score":
        plan = artifacts.read("plan.json")
        print_json(plan) if as_json else print_line(f"removed {plan['removed']}, kept {plan['kept']}")
    elif artifacts.artifact("score").exists():
        scores = artifacts.read("scores.json")
        print_json(scores) if as_json else _scores(scores)
    if not as_json:
        name = terminal.one_line(str(folder))
        console.print(Text.assemble((name, "bold"), f": the model; report in {name}/depthprune/report.html"))


def show_evaluation(evaluation: dict[str, Any], as_json: bool) -> None:
    """The rows of `eval.json`, with the majority class."""
    if as_json:
        print_json(evaluation)
        return
    console.print(eval_table(plain_values(evaluation)))


def show_estimate(found: dict[str, Any], as_json: bool) -> None:
    """The plan, cost and disk of a run that has not started."""
    if as_json:
        print_json(found)
        return
    left = found["remaining"]
    rows = [
        *([["target", found["target"]]] if "target" in found else []),
        ["layers", f"{found['num_layers']} → {left['layers']}"],
        ["parameters", f"{left['parameters']:,} ({left['parameters_share']:.0%})"],
        ["cost of a token", f"{left['cost_share']:.0%} of the whole model's"],
        *[[f"rows: {name}", f"{count:,}"] for name, count in found["rows"].items() if count],
        *[[f"steps: {name}", f"{count:,}"] for name, count in found["steps"].items()],
        *[[f"memory: {name}", size(count)] for name, count in found["memory"].items()],
        *_recovery_rows(found["recovery"]),
        *[[f"disk: {name}", size(count)] for name, count in found["disk"].items() if count],
        ["disk needed / free", f"{size(found['disk_needed'])} / {size(found['disk_free'])}"],
    ]
    print_table(["dry run", str(found["model"])], rows)


def _recovery_rows(found: dict[str, int]) -> list[list[str]]:
    """What a recovery will take, where it takes much."""
    if not found:
        return []
    return [
        ["recovery: beside the model", size(found["memory"])],
        ["recovery: passes over the calibration samples", f"about {found['passes']}"],
    ]


def show_inspection(found: dict[str, Any], as_json: bool) -> None:
    """A model's layers, and what remains of it at a ratio."""
    if as_json:
        print_json(found)
        return
    left = found["remaining"]
    layers = found["parameters_per_layer"]
    rows = [
        [_span(first, last), f"{layers[first]:,}", str(found["linears_per_layer"][first])]
        for first, last in _runs(list(zip(layers, found["linears_per_layer"], strict=True)))
    ]
    print_table(["layer", "parameters each", "linears"], rows)
    outside = found["parameters"] - sum(layers)
    tied = "tied" if found["tied_embeddings"] else "untied"
    asked = found.get("target", f"At ratio {found['ratio']:g}")
    print_line(
        f"{found['model_type']}, {found['num_layers']} layers, {found['parameters']:,} parameters "
        f"in {found['dtype']}, {outside:,} of them outside the layers (embeddings {tied}).\n"
        f"{asked}: {left['layers']} layers, {left['parameters']:,} parameters "
        f"({left['parameters_share']:.0%}), {size(left['bytes'])}, "
        f"{left['cost_share']:.0%} of the cost of a token."
    )


def show_methods(as_json: bool) -> None:
    """The recipes, slot by slot."""
    found = []
    for name in recipe_names():
        recipe = load_recipe(name)
        cost = (recipe.recovery if recipe.recovery.decides else recipe.importance).cost
        papers = dict.fromkeys([recipe.importance.paper, recipe.recovery.paper])
        found.append(
            {
                "recipe": name,
                "importance": recipe.importance.metric,
                "selection": recipe.selection.method,
                "recovery": recipe.recovery.method,
                "training": recipe.training.method,
                "needs": _needs(recipe),
                "scoring cost": f"{cost} a round" if recipe.selection.method == "iterative" else cost,
                "paper": "; ".join(paper for paper in papers if paper != "–") or "–",
            }
        )
    if as_json:
        methods = {slot: list(known) for slot, (_, known) in SLOTS.items()}
        print_json({"recipes": found, "methods": methods})
        return
    slots = ("importance", "selection", "recovery", "training")
    rows = [
        [
            row["recipe"],
            " → ".join(row[slot] for slot in slots),
            row["needs"],
            row["scoring cost"],
            row["paper"],
        ]
        for row in found
    ]
    print_table(["recipe", "importance → selection → recovery → training", "needs", "scoring", "paper"], rows)
    for slot, (key, methods) in SLOTS.items():
        print_line(f"{slot}.{key}: {', '.join(methods)}")


def _needs(recipe: Recipe) -> str:
    """The data that a recipe asks of the user."""
    wanted = []
    if recipe.reads_calibration:
        wanted.append("calibration")
    if recipe.importance.needs == "training" or recipe.training.method != "none":
        wanted.append("training")
    return ", ".join(wanted) or "nothing"


def _scores(scores: dict[str, Any]) -> None:
    values, rounds = scores["scores"], scores["rounds"]
    order = [layer for found in rounds for layer in found["removed"]]
    if not rounds:
        order = sorted(range(len(values)), key=lambda i: (values[i], -i))
    place = {layer: str(number) for number, layer in enumerate(order, start=1)}
    rows = [[str(i), f"{value:.4g}", place.get(i, "")] for i, value in enumerate(values)]
    print_table(["layer", f"{scores['metric']}{', first round' if rounds else ''}", "goes"], rows)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """The first column on one line each; the others fold."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(_text(column), overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*map(_text, row))
    console.print(table)


def print_line(line: str) -> None:
    """Text of our own or the user's, as it is."""
    console.print(_text(line))


def _text(text: str) -> Text:
    """As it is: what looks like rich's markup is none, nothing is highlighted."""
    return Text(plain(text))


def _runs(values: list[Any]) -> list[tuple[int, int]]:
    """(first, last) of each run of equal neighbours."""
    starts = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    return [(start, end - 1) for start, end in zip(starts, [*starts[1:], len(values)], strict=True)]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def size(count: float) -> str:
    """Of bytes, in powers of a thousand, as disks and memory are sold: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def print_json(content: Any) -> None:
    """For programs: JSON and nothing else."""
    print(terminal.as_json(content))
