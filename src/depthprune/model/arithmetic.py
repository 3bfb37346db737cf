"""bfloat16 or float32 on a CPU: which is the faster one is not known before it has been tried.

Processors with AMX or AVX-512's bfloat16 multiply bfloat16 several times faster than float32, others several
times slower, and small layers gain nothing anywhere.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from depthprune.model.anatomy import unwrap
from depthprune.model.traits import pruned_config

log = logging.getLogger("depthprune")

Precision = Literal["float32", "bfloat16"]
Word = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

SMALLEST = 2**25
"""Parameters below which float32 is taken untried: the run is over before rounding has paid."""
WORTH_ROUNDING = 0.8
"""bfloat16 is taken where it needs at most this share of float32's time."""
SHARE_OF_MEMORY = 0.5
"""Of the free memory, that weights widened to float32 may take."""
BATCH, LENGTH, PASSES = 2, 128, 3


@dataclass(frozen=True)
class Arithmetic:
    """How a run multiplies, and why so: the part `arithmetic` of `environment.json`.

    Attributes:
        dtype: `float32`: weights are widened where they are not float32 already, and training has no
            autocast. `bfloat16`: weights compute in the dtype that they are stored in, and training runs
            under bfloat16 autocast. None: on an accelerator, whose way is the latter where it can.
        seconds: of a decoder layer's forward and backward pass, where it was tried.
        word: the recipe's.
        model: the fingerprint of the model that it was chosen for.
    """

    dtype: Precision | None
    why: str
    seconds: dict[str, float] = field(default_factory=dict)
    word: str = "auto"
    model: str = ""

    def weights(self, own: torch.dtype | str = "auto") -> torch.dtype | str:
        """The dtype to load weights in that are only run; `own` where nothing speaks for another."""
        if self.dtype == "float32":
            return torch.float32
        return torch.bfloat16 if self.word == "bfloat16" else own

    @property
    def autocasts(self) -> bool:
        """Whether training, whose weights are float32 anyway, runs under bfloat16 autocast."""
        return self.dtype == "bfloat16" and (self.word == "bfloat16" or bool(self.seconds))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def choose_arithmetic(
    config: PretrainedConfig, parameters: int, word: Word = "auto", trust_remote_code: bool = False
) -> Arithmetic:
    """The user's word, or else what a decoder layer with random weights of the model's shape shows."""
    if word != "auto":
        return Arithmetic(word, "as the recipe says", word=word)
    if torch.accelerator.is_available():
        return Arithmetic(None, "the accelerator's own")
    if parameters < SMALLEST:
        return Arithmetic("float32", f"{parameters:,} parameters are too few to gain by bfloat16")
    if 4 * parameters > SHARE_OF_MEMORY * free_memory():
        return Arithmetic("bfloat16", f"{parameters:,} parameters in float32 would not fit the memory")
    try:
        seconds = layer_seconds(one_layer(config, trust_remote_code))
    except Exception as problem:  # a family that this cannot build or call: no reason to end a run
        log.debug("arithmetic not measured", exc_info=problem)
        return Arithmetic("float32", f"a layer could not be tried ({type(problem).__name__})")
    faster = seconds["bfloat16"] <= WORTH_ROUNDING * seconds["float32"]
    ratio = f"{seconds['bfloat16'] / seconds['float32']:.2g}"
    return Arithmetic(
        "bfloat16" if faster else "float32", f"bfloat16 takes {ratio} times as long as float32 here", seconds
    )


def one_layer(config: PretrainedConfig, trust_remote_code: bool = False) -> nn.Module:
    """A model of the config's last layer alone, with random weights and next to no vocabulary."""
    depth = config.get_text_config(decoder=True).num_hidden_layers
    small = copy.deepcopy(pruned_config(config, range(depth - 1), trust_remote_code))
    for part in (small, small.get_text_config(decoder=True)):
        part.vocab_size, part.pad_token_id = 8, None
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(small, trust_remote_code=trust_remote_code)
    return model.float().eval()


def layer_seconds(model: nn.Module) -> dict[str, float]:
    """Seconds of a forward and backward pass of the model's layers, weights in float32, the best of three.

    In bfloat16 under autocast, as in training. Where one matrix product shows that the processor only
    imitates bfloat16, which takes many times as long, the seconds are those of the product.
    """
    hidden = unwrap(model).config.get_text_config(decoder=True).hidden_size
    inputs = torch.randn(BATCH, LENGTH, hidden, generator=torch.Generator().manual_seed(0))
    product: dict[str, float] = {p: _best(partial(_product, inputs, p)) for p in PRECISIONS}
    if product["bfloat16"] > 2 * product["float32"]:
        return product
    return {p: _best(partial(_layer_pass, model, inputs, p)) for p in PRECISIONS}


def _best(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return round(min(seconds), 6)


def _product(inputs: Tensor, precision: Precision) -> Tensor:
    rows = inputs[0].to(getattr(torch, precision))
    return rows @ rows.mT @ rows


def _layer_pass(model: Any, inputs: Tensor, precision: Precision) -> None:
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        output = model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    output.float().square().mean().backward()
    model.zero_grad()


def free_memory() -> float:
    """Bytes that this machine could give a process; without a limit where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return float("inf")
    return 1024.0 * int(meminfo.read_text().split("MemAvailable:")[1].split()[0])
