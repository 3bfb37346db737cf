"""The settings of the process, seen from inside: what glibc maps, and what OpenMP will read."""

import os
import subprocess
import sys

import pytest

SHOWN = """
import ctypes, os, sys
from depthprune.cli.process import settle
settle()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]
libc.mallinfo2.restype = Info
mapped = libc.mallinfo2().hblks
kept = [libc.malloc(64 * 2**20), libc.malloc(2**31)]
print(os.environ["OMP_WAIT_POLICY"], libc.mallinfo2().hblks - mapped, "torch" in sys.modules)
"""


def shown(**variables):
    free = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "OMP_"))}
    ended = subprocess.run(
        [sys.executable, "-c", SHOWN], env={**free, **variables}, capture_output=True, text=True, check=False
    )
    if "mallinfo2" in ended.stderr:
        pytest.skip("no glibc of 2.33 or newer")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_large_tensors_stay_and_the_largest_are_given_back_at_once():
    assert shown() == ["passive", "1", "False"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_the_users_own_settings_win():
    assert shown(OMP_WAIT_POLICY="active", MALLOC_TOP_PAD_="131072") == ["active", "2", "False"]
