"""The environment names the machine's parts and versions, and neither host nor user."""

import getpass
import json
import platform
from datetime import datetime

import torch
import transformers

from depthprune.report import environment


def test_it_says_what_ran() -> None:
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["transformers"] == transformers.__version__
    assert found["cpu"]["model"] and found["cpu"]["threads"] == torch.get_num_threads()
    assert (found["accelerator"] is None) == (not torch.accelerator.is_available())
    assert datetime.fromisoformat(found["date"]).tzinfo is not None


def test_it_names_neither_host_nor_user() -> None:
    text = json.dumps(environment())
    assert platform.node() not in text
    assert f"/{getpass.getuser()}" not in text
