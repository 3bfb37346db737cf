"""What a run ran on: versions and machine, nothing that names a host or a user."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors")


def environment() -> dict[str, Any]:
    """The content of `environment.json`; memory in bytes, `accelerator` None on a machine without one."""
    import torch

    import depthprune

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "accelerator": _accelerator(),
        "versions": {"depthprune": depthprune.__version__, **{name: version(name) for name in PACKAGES}},
    }


def _cpu_model() -> str:
    """Linux keeps the name in /proc alone; elsewhere `platform` knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerator() -> dict[str, Any] | None:
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return {"name": device.name, "memory_bytes": device.total_memory, "count": torch.cuda.device_count()}
    current = torch.accelerator.current_accelerator(check_available=True)
    return None if current is None else {"name": current.type, "count": torch.accelerator.device_count()}
