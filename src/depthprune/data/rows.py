"""Reading and checking every row of a dataset."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from depthprune.data.files import Record
from depthprune.data.shapes import Kind, Row, Shape, shape_of
from depthprune.errors import UserError

__all__ = ["Checked", "Kind", "check_rows"]


@dataclass
class Checked:
    """The rows of a dataset, with exactly the columns of their kind.

    places: where each row stands, of chats alone: what their template refuses is found later.
    notes: how the rows were read and what of them is not used, a line each.
    """

    kind: Kind = "text"
    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_rows(records: Iterable[Record]) -> Checked:
    """Reads every row as the first one decides.

    Chats become `prompt` (the messages before the answer), `completion` (the answer's) and, where there are
    any, `tools` and `chat_template_kwargs`. Blank texts are passed over: corpora on the hub hold many.
    Raises `UserError` for the first row that is not as it should be.
    """
    checked = Checked()
    shape: Shape | None = None
    unused: dict[str, None] = {}
    cut = 0
    for where, row in records:
        if shape is None:
            shape = shape_of(where, row)
            checked.kind = shape.kind
        if shape.kind == "text" and _is_blank(row.get(shape.columns[0])):
            continue
        read = shape.read(where, row)
        if checked.rows and ("choices" in read) != ("choices" in checked.rows[0]):
            raise UserError(
                f"{where}: `choices` must stand in every row or in none, and other rows differ from this"
            )
        if shape.kind == "messages":
            checked.places.append(where)
            cut += read.pop("cut") > 0
        checked.rows.append(read)
        unused |= {name: None for name in row if name not in shape.columns and row[name] not in (None, "")}
    if shape is not None:
        checked.notes = _notes(shape, list(unused), cut)
    return checked


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _notes(shape: Shape, unused: list[str], cut: int) -> list[str]:
    notes = [shape.note] if shape.note else []
    if cut:
        notes.append(f"{cut} rows go on after the last assistant turn: what comes after it is not used")
    if unused:
        shown = ", ".join(f"`{name}`" for name in unused[:10])
        notes.append(f"columns not used: {shown}{' …' if len(unused) > 10 else ''}")
    return notes
