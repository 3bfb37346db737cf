"""What the process asks of OpenMP and malloc, before torch is imported: the user's own settings win."""

import ctypes
import os
import sys

KEPT = 2**30
"""malloc gives back at once what is as large as this, and what is free beyond this at its end."""
# Of glibc's malloc.h. By default a tensor above 32 MB is given back when it is freed, and the pages of the
# next one are made and cleared anew.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def settle() -> None:
    """Threads that wait sleep, and malloc keeps free memory for the next tensor, within bounds."""
    # Threads that spin while they wait take the cores from whoever works on what they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT)
        libc.mallopt(_M_MMAP_THRESHOLD, KEPT)
        # That counts for this process; the environment for those that it starts.
        os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(KEPT), "MALLOC_MMAP_THRESHOLD_": str(KEPT)}
