"""IGIA's cost, both sides in one run: Gram matrices against materialised ∇B·∇A, and a step with the recorder.

    python benchmarks/igia.py

1. Seconds: the scores of one layer at half of Llama-3-8B's shape over t = 40 steps, both ways in turn.
   The materialised way depends on the allocator's settings: `make` chooses them for speed, a shell does not.
2. Memory: what each way adds to the process's peak, in a process of its own (Linux only, read from /proc).
3. A LoRA training step with the recorder, spooling to disk, against one without, every other step of one run.
4. Seconds to rebuild F_W of one 14336×4096 weight from its spooled pairs, and to find its top 20 %.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peft
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from depthprune.importance.factors import FactorPair, mean_squared_gradient, write_step
from depthprune.importance.igia import Igia
from depthprune.importance.recorder import GradientRecorder
from depthprune.recovery.strongest import top_fraction
from depthprune.training.trainer import sft_trainer

RANK, STEPS = 8, 40
D, MLP, KV = 2048, 7168, 512
LINEARS = {
    "self_attn.q_proj": (D, D),
    "self_attn.k_proj": (KV, D),
    "self_attn.v_proj": (KV, D),
    "self_attn.o_proj": (D, D),
    "mlp.gate_proj": (MLP, D),
    "mlp.up_proj": (MLP, D),
    "mlp.down_proj": (D, MLP),
}
ROUNDS = 3
MEMORY_LAYERS = 4
TRAINING_STEPS = 32


def random_pairs(layers: int = 1) -> dict[str, FactorPair]:
    """One step's gradients of every linear."""
    return {
        f"model.layers.{i}.{name}": FactorPair(torch.randn(RANK, d_in), torch.randn(d_out, RANK))
        for i in range(layers)
        for name, (d_out, d_in) in LINEARS.items()
    }


def gram_score(pairs: dict[str, FactorPair]) -> float:
    """Σ over the linears of Σ(∇B·∇A)², from r×r Gram matrices."""
    return float(torch.stack([pair.squared_norms().sum() for pair in pairs.values()]).sum())


def add_materialised(pairs: dict[str, FactorPair], matrices: dict[str, torch.Tensor]) -> None:
    """F_W += (∇B·∇A)², each product formed whole."""
    for name, pair in pairs.items():
        matrices[name] += (pair.b @ pair.a) ** 2


def empty_matrices(layers: int = 1) -> dict[str, torch.Tensor]:
    return {
        f"model.layers.{i}.{name}": torch.zeros(shape)
        for i in range(layers)
        for name, shape in LINEARS.items()
    }


def seconds_of_scores() -> list[list[str]]:
    """Both ways in turn over the same t steps, the median of three rounds; checks that they agree."""
    steps = [random_pairs() for _ in range(STEPS)]
    seconds: dict[str, list[float]] = {"materialised": [], "grams": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        by_grams = sum(gram_score(pairs) for pairs in steps)
        seconds["grams"].append(time.perf_counter() - start)
        start = time.perf_counter()
        matrices = empty_matrices()
        for pairs in steps:
            add_materialised(pairs, matrices)
        total = sum(float(matrix.sum(dtype=torch.float64)) for matrix in matrices.values())
        seconds["materialised"].append(time.perf_counter() - start)
    materialised, grams = (statistics.median(seconds[way]) for way in ("materialised", "grams"))
    return [
        ["scores, materialised", f"{materialised:.2f} s", "1×", ""],
        ["scores, Gram matrices", f"{grams:.4f} s", f"{materialised / grams:.0f}× faster", "at least 100×"],
        ["relative difference of the two", f"{abs(by_grams - total) / total:.0e}", "", "at most 1e-5"],
    ]


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def print_peak(way: str) -> None:
    """Runs one way over three steps and prints the bytes it adds to the peak; called in a fresh process."""
    # The matrix library's own buffers are not what is measured.
    small = FactorPair(torch.randn(RANK, 64), torch.randn(64, RANK))
    small.squared_norms()
    (small.b @ small.a).addcmul_(torch.ones(64, 64), torch.ones(64, 64))
    with tempfile.TemporaryDirectory() as folder:
        write_step(Path(folder), 0, {"warm": small})
        steps = [random_pairs(MEMORY_LAYERS) for _ in range(3)]
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = resident("VmRSS")
        matrices = empty_matrices(MEMORY_LAYERS) if way == "materialised" else {}
        for step, pairs in enumerate(steps):
            if way == "materialised":
                add_materialised(pairs, matrices)
            else:
                gram_score(pairs)
                write_step(Path(folder), step, pairs)
        print(resident("VmHWM") - before)


def peak_bytes(way: str) -> int:
    command = [sys.executable, __file__, "--peak", way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_of_scores() -> list[list[str]]:
    """Peaks of both ways beside the bytes of F_W."""
    matrices = MEMORY_LAYERS * 4 * sum(d_out * d_in for d_out, d_in in LINEARS.values())
    factors = MEMORY_LAYERS * 4 * RANK * sum(d_out + d_in for d_out, d_in in LINEARS.values())
    materialised, grams = peak_bytes("materialised"), peak_bytes("grams")

    def row(name: str, size: int, bar: str = "") -> list[str]:
        return [name, f"{size / 2**20:.1f} MiB", f"{size / matrices:.2%}", bar]

    return [
        row(f"F_W of {MEMORY_LAYERS} layers, float32", matrices),
        row("one step's gradients, which training holds anyway", factors),
        row("added by the materialised way", materialised),
        row("added by Gram matrices and spooling", grams, "at most 1 %"),
    ]


def bare_tokenizer() -> PreTrainedTokenizerFast:
    """For rows that are token ids already: a trainer asks for one all the same."""
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {token: i for i, token in enumerate(special.values())}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [])), **special)


class EveryOtherStep(GradientRecorder):
    """Records at odd steps only, and keeps the seconds of both kinds of step."""

    def __init__(self, settings: Igia, spool: Path) -> None:
        super().__init__(settings, spool)
        self.seconds: dict[bool, list[float]] = {False: [], True: []}

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        if state.global_step % 2:
            super().on_pre_optimizer_step(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        recorded = state.global_step % 2 == 0  # counted up since the gradients were read
        self.seconds[recorded].append(time.perf_counter() - self.started)


def seconds_of_training_steps() -> list[list[str]]:
    """LoRA on a Llama of 12 layers, d 512, batches of 4 × 256 tokens."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=12,
            num_attention_heads=8,
            num_key_value_heads=8,
        )
    )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 8192, (4 * TRAINING_STEPS, 256), generator=generator).tolist()
    settings = Igia(steps=TRAINING_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        recorder = EveryOtherStep(settings, Path(folder))
        dataset = Dataset.from_list([{"input_ids": row} for row in rows])
        sft_trainer(
            model, bare_tokenizer(), dataset, settings, Path(folder) / "trainer", 0, [recorder]
        ).train()
    without, recorded = (statistics.median(recorder.seconds[kind][2:]) for kind in (False, True))
    return [
        ["LoRA step", f"{without:.3f} s", "1×", ""],
        [
            "LoRA step with the recorder and its spool",
            f"{recorded:.3f} s",
            f"{recorded / without:.3f}×",
            "at most 1.05×",
        ],
    ]


def seconds_of_rebuilding(shape: tuple[int, int] = (14336, 4096)) -> list[list[str]]:
    """F_W from disk and its strongest fifth, beside a full sort."""
    with tempfile.TemporaryDirectory() as folder:
        for step in range(STEPS):
            pair = FactorPair(torch.randn(RANK, shape[1]), torch.randn(shape[0], RANK))
            write_step(Path(folder), step, {"up_proj": pair})
        start = time.perf_counter()
        matrix = mean_squared_gradient(Path(folder), "up_proj")
        rebuilt = time.perf_counter() - start
    assert matrix is not None
    start = time.perf_counter()
    top_fraction(matrix, 0.2)
    selected = time.perf_counter() - start
    start = time.perf_counter()
    matrix.flatten().argsort()
    ordered = time.perf_counter() - start
    return [
        [f"F_W of a {shape[0]}×{shape[1]} weight from {STEPS} spooled steps", f"{rebuilt:.1f} s", "", ""],
        ["its top 20 % by selection", f"{selected:.1f} s", "", ""],
        ["the same by a full sort", f"{ordered:.1f} s", "", ""],
    ]


def main() -> None:
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, "
        f"trl {trl.__version__}; {torch.get_num_threads()} thread(s), "
        f"MALLOC_MMAP_MAX_ {os.environ.get('MALLOC_MMAP_MAX_', 'not set')}; "
        f"d {D}, MLP {MLP}, kv {KV}, r {RANK}, t {STEPS}, one layer unless said otherwise\n"
    )
    print("| | | | to hold |\n|---|---|---|---|")
    for measure in (seconds_of_scores, memory_of_scores, seconds_of_training_steps, seconds_of_rebuilding):
        for row in measure():
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_peak(sys.argv[2])
    else:
        main()
