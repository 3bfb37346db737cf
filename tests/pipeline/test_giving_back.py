"""Resident memory, as the kernel counts it."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from depthprune.pipeline.memory import give_back


def resident() -> int:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's malloc"
)
def test_what_malloc_keeps_between_tensors_goes_back_to_the_system():
    held = [torch.ones(20 * 2**18) for _ in range(20)]  # 20 MB each: the first few are mapped, the rest kept
    del held
    give_back()
    before = resident()
    held = [torch.ones(20 * 2**18) for _ in range(20)]
    assert resident() - before > 350 * 2**20
    del held
    give_back()
    assert resident() - before < 100 * 2**20
