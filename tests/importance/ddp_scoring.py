"""One of several processes of a scoring run: `torchrun --nproc_per_node 2 ddp_scoring.py FOLDER`."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from scoring_run import record
from tiny import tiny_model

from depthprune.distributed.processes import join

if __name__ == "__main__":
    torch.set_num_threads(1)
    join()
    folder = Path(sys.argv[1]) / f"rank{os.environ['RANK']}"
    recorder, _, _ = record(tiny_model(layers=4), folder, per_device_train_batch_size=4)
    (folder / "scores.json").write_text(json.dumps(recorder.scores().tolist()))
