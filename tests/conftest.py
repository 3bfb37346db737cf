"""Every test runs on one thread and without a network hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from chromium import CHROMIUM, chromium

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A tab of a headless Chromium, one for all tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page
