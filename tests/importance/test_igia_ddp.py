import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scoring_run import record
from tiny import tiny_model

SCRIPT = Path(__file__).parent / "ddp_scoring.py"


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    # --standalone takes a free port; both processes train on the same four rows, two each.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [*command, str(SCRIPT), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    first, second = (json.loads((tmp_path / f"rank{i}/scores.json").read_text()) for i in range(2))
    assert first == second

    alone, _, _ = record(tiny_model(layers=4), tmp_path / "alone", per_device_train_batch_size=4)
    torch.testing.assert_close(torch.tensor(first), alone.scores(), rtol=1e-3, atol=0)

    written = sorted((tmp_path / "rank0/gradients").iterdir())
    assert len(written) == 5 and not list((tmp_path / "rank1/gradients").iterdir())
    for name, tensor in load_file(written[-1]).items():
        expected = load_file(tmp_path / "alone/gradients" / written[-1].name)[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))
