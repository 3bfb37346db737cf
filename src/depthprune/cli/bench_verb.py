"""The verb that measures speed and memory. Nothing here imports torch before the arguments are parsed."""

from typing import Annotated

import typer

from depthprune.cli.options import ChatTemplate, Json, TrustRemoteCode


def bench(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    against: Annotated[
        str | None, typer.Option(help="Another model, measured in turns with it: mostly the dense one.")
    ] = None,
    draft_for: Annotated[
        str | None, typer.Option(help="Measure MODEL as the draft of this one, mostly its own base.")
    ] = None,
    shapes: Annotated[
        str | None, typer.Option(help="Batch x length, by default 1x64,4x64.", show_default=False)
    ] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens written after each prompt: 8, by a draft's base 32.", show_default=False),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="At most how long, about; it ends when the ratios are known to 1 %.")
    ] = 300.0,
    prompts: Annotated[
        str | None, typer.Option(help="Data for --draft-for; by default the run's own evaluation data.")
    ] = None,
    draft_lengths: Annotated[str, typer.Option(help="Tokens that a draft proposes at a time.")] = "2,4,8",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Measure speed and memory of a model, side by side with another, or as the draft of its base."""
    from depthprune.bench.settings import DRAFT_TOKENS, BenchSettings, parse_lengths, parse_shapes
    from depthprune.errors import UserError
    from depthprune.settings import build

    values = {
        "shapes": None if shapes is None else parse_shapes(shapes),
        "seconds": seconds,
        "draft_lengths": parse_lengths(draft_lengths),
    }
    settings = build(BenchSettings, values | ({} if new_tokens is None else {"new_tokens": new_tokens}))
    longer = settings.model_copy(update={"new_tokens": new_tokens or DRAFT_TOKENS})
    for option, value in (("--prompts", prompts), ("--chat-template", chat_template)):
        if value is not None and draft_for is None:
            raise UserError(f"{option} is for drafts alone: name the base with --draft-for")
    from depthprune.cli import bench_display

    found = {}
    if draft_for is not None:
        from depthprune.bench.draft import bench_draft

        found["draft"] = bench_draft(model, draft_for, prompts, longer, chat_template, trust_remote_code)
    if against is not None or draft_for is None:
        from depthprune.bench.bench import bench as measure

        found["bench"] = measure(model, against, settings, trust_remote_code)
    bench_display.show_bench(found, as_json)
