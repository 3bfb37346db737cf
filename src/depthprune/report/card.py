"""The model card: what the checkpoint in the run folder is, for whoever finds it later."""

import re

import yaml

import depthprune
from depthprune.report import story
from depthprune.report.artifacts import Artifacts, is_hub_id, name_of
from depthprune.report.figures import count, plural
from depthprune.report.licence import licence_of
from depthprune.report.table import evaluation_table, table_notes, table_warnings
from depthprune.selection.guard import opinion_sentence

MEASURED = {
    "accuracy": "the choice with the highest log-likelihood per character",
    "exact_match": "of the written answer, each run of white space one space, case counted",
    "rougeL": "of the written answer, F-measure, not stemmed",
    "bert_score": "of the written answer, F1 by the model of evaluation.bert_score, not rescaled",
    "perplexity": "of windows that do not overlap, each token but the first of a window predicted",
    "loss": "cross-entropy a token of the completions, in nats",
}
"""What a metric of the table is, where its name leaves it open."""


def model_card(run: Artifacts) -> str:
    """The content of `README.md`: front matter as the hub reads it, then Markdown."""
    assert run.plan is not None
    licence = licence_of(run.model)
    front = {
        **_base_model(run.model),
        **licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["depthprune", "layer-pruning", story.chooser(run)],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {markdown(name_of(run.model))}, {len(run.plan.kept)} of {run.plan.num_layers} layers",
        markdown(story.summary(run, name_of(run.model))),
        _layers(run),
        _results(run),
        _protocol(run),
        _loading(),
        _making(run),
        _limits(run, licence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _base_model(model: str) -> dict[str, str]:
    """The hub links to it: a folder's name would lead to somebody else's model, or nowhere."""
    return {"base_model": model} if is_hub_id(model) else {}


def markdown(text: str) -> str:
    """`text` where Markdown and HTML would read it as their own, escaped; on one line."""
    escaped = re.sub(r"([\\`*_|\[\]~$])", r"\\\1", " ".join(text.split()))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;")
    # No link that nobody wrote: a colon and a dot as entities are read, and not taken for an address.
    escaped = re.sub(r"(?i)(https?|ftp):", r"\1&#58;", escaped)
    return re.sub(r"(?i)(www)\.", r"\1&#46;", escaped)


def _layers(run: Artifacts) -> str:
    assert run.plan is not None
    lines = [
        "## Layers",
        "",
        f"Removed (indices of the original model): {story.dash_ranges(run.plan.removed)}.",
    ]
    lines.append(f"Kept: {story.dash_ranges(run.plan.kept)}.")
    merged = [f"{gone} into {kept}" for gone, kept in sorted(run.plan.merged_into.items())]
    if merged:
        lines.append(f"Merged before the cut: {', '.join(merged)}.")
    if run.plan.mlp_from:
        said = story.with_other_mlps(run.plan)
        lines.append(f"Cut between layers, {said}: that MLP and the attention between are gone.")
    if run.repaired:
        layers = story.dash_ranges(run.repaired)
        lines.append(f"Repaired by a linear map folded into the down projection: {layers}.")
    notes = run.plan.notes
    if "whole" in run.plan.opinion:
        notes = (opinion_sentence(run.plan.opinion), *notes)
    return "\n".join([*lines, *(f"\n{markdown(note)}" for note in notes)])


def _results(run: Artifacts) -> str:
    if run.evaluation is None:
        return ""
    headings, *rows = [[markdown(str(cell)) for cell in row] for row in evaluation_table(run.evaluation)]
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    notes = table_notes(run.evaluation) + table_warnings(run.evaluation)
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join(["## Results", "", *table, "", *map(markdown, notes)])


def _protocol(run: Artifacts) -> str:
    """How the figures came about, for whoever wants to compare with others'."""
    if run.evaluation is None or run.recipe is None:
        return ""
    metrics = dict.fromkeys(
        result["metric"] for row in run.evaluation["rows"].values() for result in row["results"]
    )
    said = [f"{metric}: {MEASURED[metric]}" for metric in metrics if metric in MEASURED]
    longest = run.recipe["evaluation"]["max_length"]
    said.append(
        "Zero-shot, each prompt as the data have it, with the tokens that the tokenizer adds by itself; "
        + (f"at most {longest} tokens." if longest else "as many tokens as the model's context takes.")
    )
    versions = (run.environment or {}).get("versions", {})
    where = (run.environment or {}).get("accelerator") or {}
    on = f" on {where['name']}" if where.get("name") else ""
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    said.append(f"Measured by depthprune {depthprune.__version__}{on}, {packages or 'versions unknown'}.")
    return "\n".join(["## Protocol", "", *(f"- {markdown(line)}" for line in said)])


def _healing(run: Artifacts) -> str:
    """Steps and tokens of the tuning of what remained. Its time differs after a kill, and is not said."""
    steps = [entry for entry in run.losses if entry["stage"] == "train" and "loss" in entry]
    if not run.tuned or not steps:
        return ""
    tokens = steps[-1].get("num_input_tokens_seen")
    over = f" over {count(tokens)} tokens" if tokens else ""
    return f" Its fine-tuning took {plural(steps[-1]['step'], 'step')}{over}."


def _loading() -> str:
    code = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'model = AutoModelForCausalLM.from_pretrained("PATH_OR_ID")',
        'tokenizer = AutoTokenizer.from_pretrained("PATH_OR_ID")',
    ]
    return "\n".join(["## Loading", "", "```python", *code, "```"])


def _making(run: Artifacts) -> str:
    assert run.recipe is not None
    slots = {"importance": "metric", "selection": "method", "recovery": "method", "training": "method"}
    chosen = ", ".join(f"{slot} `{run.recipe[slot][key]}`" for slot, key in slots.items())
    return (
        f"## How it was made\n\ndepthprune {depthprune.__version__}: {chosen}.{_healing(run)} "
        "The whole recipe, with every default, is `depthprune/recipe.yaml`; the same again:\n\n"
        "```\ndepthprune run depthprune/recipe.yaml --output NEW_FOLDER\n```\n\n"
        "The evidence is in `depthprune/report.html`."
    )


def _limits(run: Artifacts, licence: dict[str, str]) -> str:
    limits = [
        "## Limits",
        "",
        "A shallower model knows less. What the table does not measure may have been lost:",
    ]
    limits.append(
        "facts, other languages, long contexts, safety training. Measure what you need before you rely on it."
    )
    if not run.tuned:
        limits.append("It was not fine-tuned after the cut.")
    named = next((licence[key] for key in ("license_name", "license") if key in licence), None)
    limits.append(
        f"The base model's licence{f' ({markdown(named)})' if named else ''} and limits hold here too."
    )
    return "\n".join(limits)
