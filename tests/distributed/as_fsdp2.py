"""`depthprune` under FSDP2 on a CPU, where accelerate would make DDP of it in silence.

Started as a launcher starts the module, with what `accelerate launch` sets for FSDP2. Appends to the file
that DEPTHPRUNE_SHARDED names how many of the weights that train are shards, and of how many.
"""

import os
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from depthprune.cli.verbs import main
from depthprune.training import trainer

as_accelerate_has_it = AcceleratorState.__init__


def sharding(self: AcceleratorState, *args: Any, **options: Any) -> None:
    as_accelerate_has_it(self, *args, **options)
    if options.get("_from_accelerator"):
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = options["fsdp_plugin"]


class Witness(TrainerCallback):
    """Writes how many of the weights that train are shards, and of how many."""

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        if state.global_step == 1:
            trained = [weight for weight in found["model"].parameters() if weight.requires_grad]
            shards = sum(isinstance(weight, DTensor) for weight in trained)
            with Path(os.environ["DEPTHPRUNE_SHARDED"]).open("a") as file:
                file.write(f"{shards} {len(trained)}\n")


def told(*args: Any, **options: Any) -> Any:
    made = as_trained(*args, **options)
    made.add_callback(Witness())
    return made


AcceleratorState.__init__ = sharding  # type: ignore[method-assign]
as_trained = trainer.sft_trainer
trainer.sft_trainer = told

if __name__ == "__main__":
    main()
