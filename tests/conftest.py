"""Every test runs on one thread and without a network hub."""

import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from chromium import CHROMIUM, chromium

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def as_quiet_as_before():
    """A verb called in a test sends the package's log to a stderr that is gone after it."""
    logger = logging.getLogger("depthprune")
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A tab of a headless Chromium, one for all tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page
