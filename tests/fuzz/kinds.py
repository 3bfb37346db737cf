"""What is fuzzed: nearly valid input of each kind, and the call that is to take or refuse it in one line."""

import csv
import gzip
import io
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from fuzz.documents import as_json, changed, garbled, values
from fuzz.valid import CHATS, DTYPES, FRAGMENTS, KNOWN_KEYS, ROWS, TENSORS
from hypothesis import assume
from hypothesis import strategies as st
from runs import llama
from safetensors import safe_open
from tiny_tokenizer import CHAT_TEMPLATE, tiny_tokenizer
from transformers import CONFIG_MAPPING

from depthprune.data.chat import load_chat_template, render_chats
from depthprune.data.examples import load_examples
from depthprune.data.tokens import encode
from depthprune.model.checkpoint import prune_files
from depthprune.model.config_file import CONFIG
from depthprune.model.shard_writing import pieces_of, write_shards
from depthprune.model.shards import INDEX, SINGLE, read_shard
from depthprune.recipe.load import load_recipe, recipe_names


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        cases: what is given.
        lay_out: writes a case into a folder, beside what `prepare` has put there.
        act: what may raise UserError and nothing else; it writes below `out` in the folder alone.
    """

    cases: "st.SearchStrategy[Any]"
    lay_out: Callable[[Path, Any], None]
    act: Callable[[Path], None]


def prepare(place: Path) -> None:
    """A small model in three files, and rows of chats."""
    tokenizer = tiny_tokenizer()
    llama(tokenizer).save_pretrained(place / "model", max_shard_size="60KB")
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    (place / "config.json").write_bytes((place / "model" / CONFIG).read_bytes())
    (place / "index.json").write_bytes((place / "model" / INDEX).read_bytes())


def reset(place: Path) -> None:
    """Puts back what a case has changed."""
    (place / "model" / CONFIG).write_bytes((place / "config.json").read_bytes())
    (place / "model" / INDEX).write_bytes((place / "index.json").read_bytes())
    shutil.rmtree(place / "out", ignore_errors=True)


# Headers: what is read is what safetensors reads, and can be written again.

places_or_dtypes = values | st.sampled_from(DTYPES) | st.lists(st.integers(-1, 30), max_size=3)


@st.composite
def headers(draw: Any) -> bytes:
    encoded = draw(as_json(changed(TENSORS, places_or_dtypes) | st.just(TENSORS)))
    length = draw(st.sampled_from([len(encoded)] * 8 + [0, 7, 10**8, 2**63, 2**64 - 1]))
    return struct.pack("<Q", length) + encoded + bytes(draw(st.sampled_from([21] * 8 + [0, 20, 22, 40])))


def write_header(place: Path, case: bytes) -> None:
    (place / "header").mkdir(exist_ok=True)
    (place / "header" / SINGLE).write_bytes(case)


def rewrite(place: Path) -> None:
    shard = read_shard(place / "header" / SINGLE)
    (place / "out").mkdir()
    write_shards(pieces_of([shard], lambda name: name), place / "out", largest=20)
    written = {name for path in (place / "out").glob("*.safetensors") for name in _names(path)}
    assert written == set(_names(place / "header" / SINGLE)), "other tensors were written than read"


def _names(path: Path) -> list[str]:
    with safe_open(path, "np") as file:
        return list(file.keys())


# Model folders: an index, a config.


def prune(place: Path) -> None:
    try:
        prune_files(place / "model", [1], place / "out")
    except BaseException:
        assert not (place / "out").exists(), "a refusal left something in the output"
        raise


@st.composite
def configs(draw: Any, valid: dict[str, Any]) -> Any:
    found = draw(changed(valid) | st.just(dict(valid)))
    if isinstance(found, dict):
        if draw(st.booleans()):
            found[draw(st.sampled_from(KNOWN_KEYS))] = draw(values)
        if draw(st.integers(0, 3)) == 3:
            found["model_type"] = draw(st.sampled_from(sorted(CONFIG_MAPPING.keys())))
    return found


# Recipes.


def recipes() -> "st.SearchStrategy[bytes]":
    texts = [load_recipe(name).as_yaml() for name in recipe_names()]
    documents = [yaml.safe_load(text) for text in texts]
    dumped = st.sampled_from(documents).flatmap(changed).map(_dump)
    return garbled(dumped | st.sampled_from(texts).map(str.encode))


def _dump(document: Any) -> bytes:
    return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")


def reload_recipe(place: Path) -> None:
    recipe = load_recipe(place / "recipe.yaml")
    again = place / "out"
    again.write_text(recipe.as_yaml(), encoding="utf-8")
    text = load_recipe(again).as_yaml()
    again.unlink()
    assert text == recipe.as_yaml(), "a recipe as it was resolved reads otherwise"


# Datasets.


@st.composite
def datasets(draw: Any) -> tuple[str, bytes]:
    rows = draw(st.sampled_from(ROWS).flatmap(changed))
    form = draw(st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "txt", "jsonl.gz"]))
    if not isinstance(rows, list) or form in ("json", "txt"):
        content = json.dumps(rows).encode()
    elif form in ("jsonl", "jsonl.gz"):
        content = "\n".join(map(json.dumps, rows)).encode()
    elif form == "parquet":
        content = _parquet(rows)
    else:
        content = _table(rows, "," if form == "csv" else "\t")
    content = draw(garbled(st.just(content)))
    return form, gzip.compress(content) if form.endswith(".gz") else content


def _parquet(rows: list[Any]) -> bytes:
    kept = [row for row in rows if isinstance(row, dict)]
    out = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(kept), out)
    except Exception:  # such rows are in no parquet file
        assume(False)
    return out.getvalue()


def _table(rows: list[Any], between: str) -> bytes:
    out = io.StringIO()
    kept = [row for row in rows if isinstance(row, dict)]
    names = list(dict.fromkeys(name for row in kept for name in row))
    writer = csv.writer(out, delimiter=between)
    writer.writerow(names)
    for row in kept:
        writer.writerow([value if isinstance(value := row.get(n), str) else json.dumps(value) for n in names])
    return out.getvalue().encode("utf-8", "surrogatepass")


def write_rows(place: Path, case: tuple[str, bytes]) -> None:
    shutil.rmtree(place / "data", ignore_errors=True)
    (place / "data").mkdir()
    (place / "data" / f"rows.{case[0]}").write_bytes(case[1])


def read_rows(place: Path) -> None:
    (path,) = (place / "data").iterdir()
    examples, tokenizer = load_examples(path), tiny_tokenizer()
    if examples.kind == "messages":
        render_chats(examples, tokenizer, None)
    encode(examples, tokenizer, 64, None)


# Chat templates.

templates = garbled(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(lambda parts: "".join(parts).encode())
    | st.just(CHAT_TEMPLATE.encode())
)


def render(place: Path) -> None:
    template = load_chat_template(place / "template.jinja")
    render_chats(load_examples(place / "chats.jsonl"), tiny_tokenizer(), template)


def _file(name: str) -> Callable[[Path, bytes], None]:
    return lambda place, case: (place / name).write_bytes(case) and None


def kinds(place: Path) -> dict[str, Kind]:
    """All of them by name, for a folder that is prepared."""
    index, config = (json.loads((place / name).read_text()) for name in ("index.json", "config.json"))
    return {
        "headers": Kind(headers(), write_header, rewrite),
        "indexes": Kind(as_json(changed(index)), _file(f"model/{INDEX}"), prune),
        "configs": Kind(as_json(configs(config)), _file(f"model/{CONFIG}"), prune),
        "recipes": Kind(recipes(), _file("recipe.yaml"), reload_recipe),
        "datasets": Kind(datasets(), write_rows, read_rows),
        "templates": Kind(templates, _file("template.jinja"), render),
    }
