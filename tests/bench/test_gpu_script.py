import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "bench.py"


def test_the_benchmark_for_a_gpu_runs_every_part_at_a_tiny_shape(tmp_path):
    asked = ["--shape", "tiny", "--device", "cpu", "--seconds", "0.01", "--output", str(tmp_path)]
    subprocess.run([sys.executable, str(SCRIPT), *asked], check=True, capture_output=True, timeout=300)
    (written,) = tmp_path.glob("*.json")
    found = json.loads(written.read_text())
    assert (found["not_run"], found["left_out"]) == ([], {})
    speeds = [what for what, *_ in found["rows_of"]["depths"]]
    assert speeds == [f"{n} layers, {what}" for n in (6, 4, 3) for what in ("prefill", "decode", "LoRA step")]
    differences = dict(row[:2] for row in found["rows_of"]["gradient_norms"])
    assert float(differences["largest relative difference"]) < 1e-4
    (places,) = (row for row in found["rows_of"]["without_each_layer"] if "orders" in row[0])
    assert places[1] == "0 of 6"
