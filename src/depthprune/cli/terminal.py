"""What a terminal is given: nothing that it would obey, and nothing that its encoding cannot say."""

import codecs
import io
import json
import logging
import os
import sys
import warnings
from typing import Any

from depthprune.errors import OBEYED, plain

_IN_ASCII = {"–": "-", "→": "->", "±": "+/-", "…": "...", "×": "x", "↑": "^", "↓": "v", "─": "-"}

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",  # of a network that is not there the call says enough at its end
}


def one_line(text: str) -> str:
    """As `plain`, with line ends written out, too."""
    return plain(text).replace("\n", "\\n")


def as_json(content: Any) -> str:
    """Indented JSON, every letter as itself where stdout can say it."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    text = OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(content, indent=2)
    return text


def prepare() -> None:
    """From now on a letter that stdout or stderr has no code for is written out; it ends no run."""
    codecs.register_error("depthprune", _written_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="depthprune")


def _written_out(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(
        _IN_ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in missing
    ), error.end


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def quiet() -> None:
    """Our own lines go to stderr; the libraries' warnings only where a user asks for them with -W."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(message)s"))
    logger = logging.getLogger("depthprune")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    if os.environ.get("RANK", "0") != "0":  # one of several processes of a launcher: the first one speaks
        logger.setLevel(logging.ERROR)
        sys.stdout = open(os.devnull, "w", errors="replace")  # noqa: PTH123, SIM115 (open until the process ends)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it, whatever is trained
        logging.getLogger("accelerate.big_modeling").setLevel(
            logging.ERROR
        )  # of device_map, which was asked for
    # Read by the libraries when they are imported; a user's own settings win.
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
