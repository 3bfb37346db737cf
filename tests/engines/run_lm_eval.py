"""lm-eval on rows with choices: `run_lm_eval.py MODEL ROWS ANSWER` writes every choice's log-likelihood."""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

model, rows, output = sys.argv[1:]
TASK = f"""
task: rows_with_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: "{{{{choices.index(completion)}}}}"
target_delimiter: ""
metric_list: [{{metric: acc_norm, aggregation: mean, higher_is_better: true}}]
"""
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "rows.yaml").write_text(TASK)
    found = simple_evaluate(
        "hf",
        model_args=f"pretrained={model},dtype=float32,device=cpu",
        tasks=["rows_with_choices"],
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        batch_size=16,
        log_samples=True,
        bootstrap_iters=0,
    )
samples = sorted(found["samples"]["rows_with_choices"], key=lambda sample: sample["doc_id"])
answer = {
    "version": f"lm-eval {version('lm_eval')}",
    "accuracy": found["results"]["rows_with_choices"]["acc_norm,none"],
    "loglikelihoods": [[choice[0] for choice in sample["filtered_resps"]] for sample in samples],
}
Path(output).write_text(json.dumps(answer))
