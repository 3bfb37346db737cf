"""The pipeline: score → select → prune → train (and the baseline) → evaluate → report, resumable."""

import gc
import hashlib
import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoConfig

from depthprune.errors import UserError
from depthprune.estimate import check_disk
from depthprune.evaluation.evaluate import evaluate
from depthprune.importance.igia import GradientRecorder, Igia
from depthprune.inputs import Inputs, load_inputs
from depthprune.model.loading import load_model
from depthprune.model.skeleton import checkpoint_dtype
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import save_verified
from depthprune.recipe import Recipe
from depthprune.report import write_report
from depthprune.run_folder import RunFolder, fingerprint
from depthprune.selection import KeepAll, Plan
from depthprune.training import Full, Lora, NoTraining, fine_tune, sft_trainer, training_dtype, untouched
from depthprune.training_log import LossLog

log = logging.getLogger("depthprune")

UNTIL = ("score", "select", "prune", "train", "evaluate")


def run(recipe: Recipe, output: str | Path, until: str = "evaluate") -> Path:
    """Runs a recipe into the folder `output`, which becomes the pruned model's own, and returns it.

    Stages whose artifacts stand there with the same recipe and data are skipped, so a run that was killed, or
    that ended at an earlier `until`, goes on. Under `accelerate launch` or `torchrun` every process calls this.

    Raises:
        UserError: whatever is wrong with the recipe, model or data; a folder made by this call goes again.
    """
    if until not in UNTIL:
        raise UserError(f"--until {until}: the stages are {', '.join(UNTIL)}")
    folder = RunFolder(output)
    folder.check()
    inputs = load_inputs(recipe)
    check_disk(inputs, folder.root)
    job = Job(recipe, inputs, folder, PartialState())
    created = folder.create() if job.state.is_main_process else None
    job.state.wait_for_everyone()
    try:
        job.run(until)
    except UserError:
        if created is not None and not folder.read("stages.json"):
            shutil.rmtree(created)
        raise
    return folder.root


def evaluate_model(recipe: Recipe) -> dict[str, Any]:
    """The recipe's model on its evaluation data, in the form of `eval.json`; writes nothing."""
    job = Job(recipe, load_inputs(recipe), RunFolder("."), PartialState())
    return {"rows": {Path(str(recipe.model)).name: job.evaluate_row(str(recipe.model))}}


@dataclass
class Job:
    """One run: what it reads, where it writes, and which of several processes this is."""

    recipe: Recipe
    inputs: Inputs
    folder: RunFolder
    state: PartialState

    def run(self, until: str) -> None:
        """Every stage up to `until` whose artifact is not there yet."""
        digests = self._digests()
        stages = self._stages(until)
        todo = [stage for stage in stages if not self._is_done(stage, digests)]
        for stage in stages:
            if stage not in todo:
                log.info("%-8s already done", stage)
        self.state.wait_for_everyone()
        for stage in todo:
            self._run_stage(stage, digests[stage])
        if self.state.is_main_process:
            self.folder.write("recipe.yaml", self.recipe.as_yaml())
            write_report(self.folder)

    def _stages(self, until: str) -> list[str]:
        stages = [] if self._keeps_all else ["score", "select", "prune"]
        if self._trains:
            stages += ["train", "baseline"] if self.recipe.baseline and not self._keeps_all else ["train"]
        if self.inputs.evals:
            stages.append("evaluate")
        last = UNTIL.index(until)
        return [s for s in stages if UNTIL.index("train" if s == "baseline" else s) <= last]

    @property
    def _keeps_all(self) -> bool:
        return isinstance(self.recipe.selection, KeepAll)

    @property
    def _trains(self) -> bool:
        return not isinstance(self.recipe.training, NoTraining)

    def _digests(self) -> dict[str, str]:
        """Per stage, a hash of everything its result depends on: recipe keys, model, data, earlier stages."""
        recipe = self.recipe
        data = {
            key: fingerprint(value)
            for key in ("model", "train", "calibration")
            if (value := getattr(recipe, key))
        }
        evals = [fingerprint(source) for source in recipe.eval]
        common = [recipe.digest("seed", "dtype", "chat_template", "trust_remote_code"), data, bool(evals)]
        score = _hash(common, recipe.digest("importance", "calibration_samples"))
        select = _hash(score, recipe.digest("selection", "recovery"))
        train = _hash(select, recipe.digest("training"))
        return {
            "score": score,
            "select": select,
            "prune": select,
            "train": train,
            "baseline": _hash(common, recipe.digest("training")),
            "evaluate": _hash(train, evals, recipe.digest("baseline", "evaluation")),
        }

    def _is_done(self, stage: str, digests: dict[str, str]) -> bool:
        done = self.folder.is_done(stage, digests[stage])
        if stage == "score" and self.recipe.recovery.needs_gradients:
            # The gradients go once the layers are merged; another plan has to record them again.
            return done and (self.folder.is_done("prune", digests["prune"]) or self.folder.gradients.is_dir())
        return done

    def _run_stage(self, stage: str, digest: str) -> None:
        collective = stage in ("train", "baseline") or (
            stage == "score" and isinstance(self.recipe.importance, Igia)
        )
        if collective or self.state.is_main_process:
            log.info("%-8s …", stage)
            with _cost() as cost:
                note = getattr(self, f"_{stage}")(digest)
            if self.state.is_main_process:
                self.folder.finish(stage, digest, cost)
                log.info("%-8s %s (%.1f s)", stage, note, cost["seconds"])
        self.state.wait_for_everyone()
        gc.collect()

    def _load(self, path: str | Path, dtype: torch.dtype | str | None = None) -> Any:
        """A model on this process's device; on a CPU in float32, since bf16 is slow there."""
        if dtype is None:
            dtype = "auto" if self.state.device.type != "cpu" else torch.float32
        return load_model(path, dtype, self.state.device, self.recipe.trust_remote_code)

    def _dtype(self) -> torch.dtype:
        """Of the checkpoints that this run writes."""
        if self.recipe.dtype != "auto":
            return getattr(torch, self.recipe.dtype)
        return checkpoint_dtype(self.inputs.config)

    def _score(self, digest: str) -> str:
        metric: Any = self.recipe.importance
        name = metric.metric
        with _cost() as cost:
            if isinstance(metric, Igia):
                found = self._score_in_training(metric)
            else:
                model = (
                    self._load(str(self.recipe.model)) if metric.needs != "nothing" else self.inputs.skeleton
                )
                batches = self.inputs.batches() if metric.needs == "calibration" else []
                scores = metric(model, batches)
                found = {"scores": scores.tolist(), "samples": sum(len(b["input_ids"]) for b in batches)}
        if self.state.is_main_process:
            self.folder.write("scores.json", {"metric": name, **found, **cost, "rounds": []})
        return f"{name} over {found['samples']} samples"

    def _score_in_training(self, metric: Igia) -> dict[str, Any]:
        spool = None
        if self.recipe.keep_gradients or self.recipe.recovery.needs_gradients:
            spool = self.folder.gradients
            if self.state.is_main_process:
                self.folder.fresh(spool)
        model = self._load(str(self.recipe.model), training_dtype(metric, self._dtype()))
        recorder = GradientRecorder(metric, spool)
        with untouched(model):
            trainer = sft_trainer(
                model,
                self.inputs.tokenizer,
                self.inputs.encoded(metric.max_length),
                metric,
                self.folder.own / "scoring",
                self.recipe.seed,
                [recorder],
            )
            trainer.train()
        shutil.rmtree(self.folder.own / "scoring", ignore_errors=True)
        per_step = (
            metric.per_device_train_batch_size * metric.gradient_accumulation_steps * self.state.num_processes
        )
        return {
            "scores": recorder.scores().tolist(),
            "samples": len(recorder.course) * per_step,
            "steps": len(recorder.course),
            "course": [step.tolist() for step in recorder.course],
            "scored": sorted(recorder.scored),
        }

    def _select(self, digest: str) -> str:
        scores = self.folder.read("scores.json")
        plan = self.inputs.plan(scores["scores"], scores["metric"])
        self.folder.write("plan.json", plan.to_json())
        for note in plan.notes:
            log.warning("%s", note)
        return f"removes {len(plan.removed)} of {plan.num_layers} layers: {', '.join(map(str, plan.removed))}"

    def _prune(self, digest: str) -> str:
        plan = Plan.from_json(self.folder.read("plan.json"))
        model = self._load(str(self.recipe.model), self._dtype())
        recovery: Any = self.recipe.recovery
        self.folder.write(
            "recovery.json", {"method": recovery.method, **recovery(model, plan, self.folder.gradients)}
        )
        remove_layers(model, plan.removed)
        self._save(model, "prune")
        if not self.recipe.keep_gradients:
            shutil.rmtree(self.folder.gradients, ignore_errors=True)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return f"leaves {len(plan.kept)} layers, {parameters:,} parameters"

    def _save(self, model: Any, stage: str) -> None:
        """Through the gate; the run folder itself becomes the newest of pruned and tuned."""
        checkpoint = self.folder.artifact(stage)
        shutil.rmtree(checkpoint, ignore_errors=True)
        save_verified(model.to(self._dtype()), self.inputs.tokenizer, checkpoint)
        if stage != "baseline":
            self.folder.publish(checkpoint)

    def _train(self, digest: str) -> str:
        start = str(self.recipe.model) if self._keeps_all else self.folder.artifact("prune")
        return self._fine_tune(start, "train", digest)

    def _baseline(self, digest: str) -> str:
        return self._fine_tune(str(self.recipe.model), "baseline", digest)

    def _fine_tune(self, start: str | Path, stage: str, digest: str) -> str:
        settings = self.recipe.training
        assert isinstance(settings, Lora | Full)
        trainers = self.folder.own / "trainer"
        scratch = trainers / f"{stage}-{digest}"
        model = self._load(start, training_dtype(settings, self._dtype()))
        dataset = self.inputs.encoded(settings.max_length)
        losses = LossLog(self.folder.own / "metrics.jsonl", stage)
        fine_tune(model, self.inputs.tokenizer, dataset, settings, scratch, self.recipe.seed, [losses])
        if self.state.is_main_process:
            self._save(model, stage)
            shutil.rmtree(trainers, ignore_errors=True)
        return f"{settings.method} on {len(dataset)} rows, {losses.steps} steps"

    def _evaluate(self, digest: str) -> str:
        recipe = self.recipe
        partial = f"eval-{digest}.json"  # rows as they come; a run that was killed goes on with the next
        rows = self.folder.read(partial) if (self.folder.own / partial).is_file() else {}
        for name, path in self._rows().items():
            if name not in rows:
                rows[name] = self.evaluate_row(path)
                self.folder.write(partial, rows)
        self.folder.write("eval.json", {"rows": rows})
        (self.folder.own / partial).unlink()
        return f"{len(rows)} models on {', '.join(e.name for e in self.inputs.evals)}, seed {recipe.seed}"

    def _rows(self) -> dict[str, str | Path]:
        rows: dict[str, str | Path] = {"base": str(self.recipe.model)}
        if self._keeps_all:
            return {**rows, "base+tuned": self.folder.artifact("train")} if self._trains else rows
        if self.recipe.baseline and self._trains:
            rows["base+tuned"] = self.folder.artifact("baseline")
        rows["pruned"] = self.folder.artifact("prune")
        if self._trains:
            rows["pruned+tuned"] = self.folder.artifact("train")
        return rows

    def evaluate_row(self, path: str | Path) -> dict[str, Any]:
        model = self._load(path)
        with _cost() as cost:
            results = [
                measured.to_dict()
                for examples in self.inputs.evals
                for measured in evaluate(
                    model,
                    self.inputs.tokenizer,
                    examples,
                    chat_template=self.inputs.chat_template,
                    **self.recipe.evaluation.model_dump(),
                )
            ]
        layers = AutoConfig.from_pretrained(path, trust_remote_code=self.recipe.trust_remote_code)
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "layers": layers.get_text_config(decoder=True).num_hidden_layers,
            "results": results,
            "seconds": cost["seconds"],
        }


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _cost() -> Iterator[dict[str, Any]]:
    """Fills in `seconds` and `peak_bytes` of the block: of the accelerator, or else of the whole process."""
    cost: dict[str, Any] = {}
    start = time.perf_counter()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield cost
    cost["seconds"] = round(time.perf_counter() - start, 3)
    cost["peak_bytes"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_resident()


def _peak_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
