"""The verbs on a model folder itself. None imports torch before its arguments are parsed."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from depthprune.cli import terminal
from depthprune.cli.options import (
    Json,
    Output,
    Ratio,
    TargetLatency,
    TargetMemory,
    TargetParameters,
    TrustRemoteCode,
    target_of,
)


def prune(
    model: Annotated[Path, typer.Option(help="Model folder.")],
    remove: Annotated[str, typer.Option(help="The layers that go: 18-30, or 1,3,5-7.")],
    output: Output,
    mlp_from: Annotated[
        str, typer.Option(help="Kept layers that take a removed one's MLP in place of their own: 4:5,8:10.")
    ] = "",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Remove layers from a checkpoint's files: no model is loaded, the result is a standard one."""
    from depthprune.selection.plan import parse_layers, parse_mlp_from

    layers, mlps = parse_layers(remove), parse_mlp_from(mlp_from)  # before anything slow is imported
    from depthprune.model.checkpoint import prune_files

    prune_files(model, layers, output, trust_remote_code, mlps)
    name = terminal.one_line(str(output))
    typer.echo(f"{name}: written; `depthprune verify {name}` loads it and checks that it works")


def export(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    output: Output,
    format: Annotated[Literal["nemotron-nas"], typer.Option(help="The form to write.")] = "nemotron-nas",
) -> None:
    """Write a model in a form for engines that leave out attentions and MLPs which are zeros."""
    from depthprune.export.nemotron_nas import export as write

    done = write(model, output)
    typer.echo(f"{terminal.one_line(str(output))}: written as {format}; {', '.join(done)}")


def push(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    repo: Annotated[str, typer.Option(help="The model repository: owner/name. Made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private one.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Put a finished run on the Hugging Face hub: model, card and evidence, once `verify` has passed it."""
    from depthprune.export.hub import push as upload

    address = upload(folder, repo, private, trust_remote_code)
    typer.echo(f"{terminal.one_line(str(folder))}: pushed, {terminal.one_line(address)}")


def verify(
    folder: Annotated[Path, typer.Argument(help="Model or run folder.")],
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Check that a model folder is whole: it reloads, its cache is right, it generates."""
    from depthprune.model.verify import verify as check

    check(folder, trust_remote_code)
    name = terminal.one_line(str(folder))
    typer.echo(f"{name}: whole; it loads, its cached and uncached logits agree, and it generates")


def inspect(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    ratio: Ratio = None,
    target_parameters: TargetParameters = None,
    target_memory: TargetMemory = None,
    target_latency: TargetLatency = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Show a model's layers and parameters, and what its size and speed would be at a ratio (0.25)."""
    target = target_of(ratio, parameters=target_parameters, memory=target_memory, latency=target_latency)
    ratio = 0.25 if ratio is None else ratio
    from depthprune.selection import OneShot
    from depthprune.settings import build

    build(OneShot, {"ratio": ratio})  # refused before anything slow is imported
    from depthprune.cli import display
    from depthprune.pipeline.inspection_of_files import inspect_files

    found = inspect_files(model, ratio, target)
    if found is None:
        from depthprune.pipeline.inspection import inspect_model

        found = inspect_model(model, ratio, trust_remote_code, target)
    display.show_inspection(found, as_json)
