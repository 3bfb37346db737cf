"""What `depthprune bench` prints."""

from typing import Any

from depthprune.cli.display import print_json, print_line, print_table, size
from depthprune.cli.terminal import one_line

PEAKS = {
    "allocator": "torch's allocator on the device",
    "tensors": "the model's weights and all other tensors that there are at once; libraries come on top",
}


def show_bench(found: dict[str, Any], as_json: bool) -> None:
    """Tables of times, memory and drafts, and how they were measured."""
    if as_json:
        print_json(found)
        return
    if "bench" in found:
        _speed(found["bench"])
        _how(found["bench"])
    if "draft" in found:
        _draft(found["draft"])


def _speed(found: dict[str, Any]) -> None:
    sides = _sides(found)
    for name in sides:
        print_line(f"{name}: {_model(found[name])}")
    compared = ["ratio", "±", "ideal: flops", "bytes", "n"] if "against" in found else []
    print_table(
        ["time", "", *sides, *compared], [_times(row, sides, found["ratio_of"]) for row in found["rows"]]
    )
    print_line("")
    memory = [f"peak: {name}" for name in sides] + (["ratio"] if "against" in found else [])
    rates = [f"tokens/s: {name}" for name in sides]
    print_table(["rates, memory", "", *rates, *memory], [_sizes(row, sides) for row in found["rows"]])


def _sides(found: dict[str, Any]) -> list[str]:
    return [name for name in ("model", "against") if name in found]


def _model(found: dict[str, Any]) -> str:
    return (
        f"{one_line(found['path'])}, {found['layers']} layers, {found['parameters']:,} parameters, "
        f"{found['dtype']}"
    )


def _times(row: dict[str, Any], sides: list[str], ratio_of: str) -> list[str]:
    steps = row["tokens"] / row["shape"][0] if row["what"] == "decode" else 1
    cells = [_shape(row), row["what"]]
    cells += [_time(row[name]["seconds"]["median"] / steps) for name in sides]
    if "ratio" in row:
        ratio, ideal = row["ratio"][ratio_of], row["ideal"]
        cells += [f"{ratio['median']:.3f}", f"{ratio['error']:.3f}"]
        cells += [f"{ideal['flops']:.3f}", f"{ideal['bytes']:.3f}", str(ratio["n"])]
    return cells


def _sizes(row: dict[str, Any], sides: list[str]) -> list[str]:
    cells = [_shape(row), row["what"]]
    cells += [f"{row[name]['tokens_per_second']:,.0f}" for name in sides]
    cells += [size(row[name]["peak_bytes"]) for name in sides]
    return [*cells, f"{row['peak_ratio']:.3f}"] if "peak_ratio" in row else cells


def _shape(row: dict[str, Any]) -> str:
    batch, length = row["shape"]
    return f"{batch} x {length}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _how(found: dict[str, Any]) -> None:
    cpu, accelerator = found["environment"]["cpu"], found["environment"]["accelerator"]
    where = accelerator["name"] if accelerator else f"{cpu['model']}, {cpu['threads']} thread(s)"
    print_line("")
    for row in found["left_out"]:
        print_line(f"left out: {row['what']}: {row['why']}")
    print_line(
        f"{where}, {found['seconds']:.0f} s. Times: medians by the wall clock; prefill is up to the first "
        f"token, decode a token of the {found['new_tokens'] - 1} after it. Memory: {PEAKS[found['peak_of']]}."
    )
    if "against" in found:
        print_line(
            f"Ratios: {found['ratio_of']}, the model over the other, medians over neighbours of A B A B …, ± "
            "a standard error. Ideal: the same ratio of operations, and of bytes that they read and write, "
            "counted as they run."
        )


def _draft(found: dict[str, Any]) -> None:
    print_line(f"draft: {_model(found['draft'])}")
    print_line(f"base: {_model(found['base'])}")
    count = len(found["prompts"]["tokens"])
    rows = [
        ["none", "", _time(found["alone"]["seconds"]["median"]), "", "", ""],
        *[_draft_row(row, found["ratio_of"], count) for row in found["rows"]],
    ]
    print_table(["draft length", "accepted a step", "a text", "speed-up", "±", "same text"], rows)
    print_line(
        f"{count} prompts of {one_line(found['prompts']['source'])}, {found['new_tokens']} new tokens, "
        f"greedy, batch 1, {found['passes_over_prompts']} time(s). Speed-up: {found['ratio_of']} of the base "
        "alone over that with the draft, prompt by prompt."
    )
    for row in found["rows"]:
        if row["differing"]:
            gap = max(place["gap"] for place in row["differing"])
            print_line(
                f"length {row['draft_length']}: {len(row['differing'])} texts are not the base's own; where "
                f"they part, the base's two best logits lie {gap:.2g} apart or less"
            )


def _draft_row(row: dict[str, Any], ratio_of: str, count: int) -> list[str]:
    ratio = row["speed_up"][ratio_of]
    return [
        str(row["draft_length"]),
        f"{row['accepted_per_step']:.2f}",
        _time(row["seconds"]["median"]),
        f"{ratio['median']:.2f}",
        f"{ratio['error']:.2f}",
        f"{count - len(row['differing'])} of {count}",
    ]
