"""What each stage of a run does: it reads the artifacts of the stages before and writes its own."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoConfig

from depthprune.cost import measured
from depthprune.evaluation.evaluate import evaluate
from depthprune.importance.igia import GradientRecorder, Igia
from depthprune.inputs import Inputs
from depthprune.model.loading import load_model
from depthprune.model.skeleton import checkpoint_dtype
from depthprune.model.surgery import remove_layers
from depthprune.model.traits import pruned_config
from depthprune.model.verify import save_verified
from depthprune.recipe import Recipe
from depthprune.run_folder import RunFolder
from depthprune.selection import KeepAll, Plan
from depthprune.training import Full, Lora, NoTraining, fine_tune, sft_trainer, training_dtype, untouched
from depthprune.training_log import LossLog


@dataclass
class Job:
    """One run: what it reads, where it writes, and which of several processes this is.

    Each stage is a method that returns one line about what it did.
    """

    inputs: Inputs
    folder: RunFolder
    state: PartialState

    @property
    def recipe(self) -> Recipe:
        return self.inputs.recipe

    @property
    def prunes(self) -> bool:
        return not isinstance(self.recipe.selection, KeepAll)

    @property
    def trains(self) -> bool:
        return not isinstance(self.recipe.training, NoTraining)

    @property
    def dtype(self) -> torch.dtype:
        """Of the checkpoints that this run writes."""
        if self.recipe.dtype != "auto":
            return getattr(torch, self.recipe.dtype)
        return checkpoint_dtype(self.inputs.config)

    def is_collective(self, stage: str) -> bool:
        """Whether every process of a distributed run takes part; the main one does the rest alone."""
        return stage in ("train", "baseline") or (
            stage == "score" and isinstance(self.recipe.importance, Igia)
        )

    def score(self, digest: str) -> str:
        """Scores every layer by the recipe's metric → scores.json."""
        metric: Any = self.recipe.importance
        with measured() as cost:
            found = self._score_in_training(metric) if isinstance(metric, Igia) else self._score(metric)
        if self.state.is_main_process:
            self.folder.write("scores.json", {"metric": metric.metric, **found, **cost, "rounds": []})
        return f"{metric.metric} over {found['samples']} samples"

    def _score(self, metric: Any) -> dict[str, Any]:
        if metric.needs == "nothing":
            return {"scores": metric(self.inputs.skeleton).tolist(), "samples": 0}
        batches = self.inputs.batches()
        scores = metric(self.load(str(self.recipe.model)), batches)
        return {"scores": scores.tolist(), "samples": sum(len(batch["input_ids"]) for batch in batches)}

    def _score_in_training(self, metric: Igia) -> dict[str, Any]:
        model = self.load(str(self.recipe.model), training_dtype(metric, self.dtype))
        recorder = GradientRecorder(metric, self._spool())
        scratch = self.folder.own / "scoring"
        rows = self.inputs.encoded(metric.max_length)
        with untouched(model):
            sft_trainer(
                model, self.inputs.tokenizer, rows, metric, scratch, self.recipe.seed, [recorder]
            ).train()
        shutil.rmtree(scratch, ignore_errors=True)
        batch = metric.per_device_train_batch_size * metric.gradient_accumulation_steps
        return {
            "scores": recorder.scores().tolist(),
            "samples": len(recorder.course) * batch * self.state.num_processes,
            "steps": len(recorder.course),
            "course": [step.tolist() for step in recorder.course],
            "scored": sorted(recorder.scored),
        }

    def _spool(self) -> Path | None:
        if not self.recipe.keep_gradients and not self.recipe.recovery.needs_gradients:
            return None
        if self.state.is_main_process:
            self.folder.fresh(self.folder.gradients)
        return self.folder.gradients

    def select(self, digest: str) -> str:
        """Chooses the layers that go → plan.json."""
        scores = self.folder.read("scores.json")
        plan = self.inputs.plan(scores["scores"], scores["metric"])
        pruned_config(self.inputs.config, plan.removed)  # refuses what the family's config cannot say
        self.folder.write("plan.json", plan.to_json())
        removed = (
            f"removes {len(plan.removed)} of {plan.num_layers} layers: {', '.join(map(str, plan.removed))}"
        )
        return ". ".join([removed, *plan.notes])

    def prune(self, digest: str) -> str:
        """Repairs and cuts the model → the pruned checkpoint, recovery.json."""
        plan = Plan.from_json(self.folder.read("plan.json"))
        model = self.load(str(self.recipe.model), self.dtype)
        recovery: Any = self.recipe.recovery
        report = recovery(model, plan, self.folder.gradients)
        self.folder.write("recovery.json", {"method": recovery.method, **report})
        remove_layers(model, plan.removed)
        self._save(model, "prune")
        if not self.recipe.keep_gradients:
            shutil.rmtree(self.folder.gradients, ignore_errors=True)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return f"leaves {len(plan.kept)} layers, {parameters:,} parameters"

    def train(self, digest: str) -> str:
        """Tunes the pruned model → the tuned checkpoint, metrics.jsonl."""
        start = self.folder.artifact("prune") if self.prunes else str(self.recipe.model)
        return self._fine_tune(start, "train", digest)

    def baseline(self, digest: str) -> str:
        """Tunes the whole model the same way → the baseline checkpoint, metrics.jsonl."""
        return self._fine_tune(str(self.recipe.model), "baseline", digest)

    def _fine_tune(self, start: str | Path, stage: str, digest: str) -> str:
        settings = self.recipe.training
        assert isinstance(settings, Lora | Full)
        scratch = self.folder.own / "trainer" / f"{stage}-{digest}"
        model = self.load(start, training_dtype(settings, self.dtype))
        rows = self.inputs.encoded(settings.max_length)
        losses = LossLog(self.folder.own / "metrics.jsonl", stage)
        fine_tune(model, self.inputs.tokenizer, rows, settings, scratch, self.recipe.seed, [losses])
        if self.state.is_main_process:
            self._save(model, stage)
            shutil.rmtree(scratch.parent, ignore_errors=True)
        return f"{settings.method} on {len(rows)} rows, {losses.steps} steps"

    def evaluate(self, digest: str) -> str:
        """Measures every model of the table → eval.json; a call that was killed goes on with the next row."""
        partial = f"eval-{digest}.json"
        rows = self.folder.read(partial) if (self.folder.own / partial).is_file() else {}
        for name, path in self._rows().items():
            if name not in rows:
                rows[name] = self.evaluate_row(path)
                self.folder.write(partial, rows)
        self.folder.write("eval.json", {"rows": rows})
        (self.folder.own / partial).unlink()
        return f"{len(rows)} models on {', '.join(examples.name for examples in self.inputs.evals)}"

    def _rows(self) -> dict[str, str | Path]:
        tuned = {"base+tuned" if not self.prunes else "pruned+tuned": self.folder.artifact("train")}
        rows: dict[str, str | Path] = {"base": str(self.recipe.model)}
        if self.prunes and self.trains and self.recipe.baseline:
            rows["base+tuned"] = self.folder.artifact("baseline")
        if self.prunes:
            rows["pruned"] = self.folder.artifact("prune")
        return {**rows, **tuned} if self.trains else rows

    def evaluate_row(self, path: str | Path) -> dict[str, Any]:
        """One row of eval.json: a model's size and its results on every evaluation dataset."""
        model = self.load(path)
        options = {"chat_template": self.inputs.chat_template, **self.recipe.evaluation.model_dump()}
        with measured() as cost:
            results = [
                result.to_dict()
                for examples in self.inputs.evals
                for result in evaluate(model, self.inputs.tokenizer, examples, **options)
            ]
        config = AutoConfig.from_pretrained(path, trust_remote_code=self.recipe.trust_remote_code)
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "layers": config.get_text_config(decoder=True).num_hidden_layers,
            "results": results,
            **cost,
        }

    def load(self, path: str | Path, dtype: torch.dtype | str = "auto") -> Any:
        """A model on this process's device, by default in the dtype that it is stored in."""
        return load_model(path, dtype, self.state.device, self.recipe.trust_remote_code)

    def _save(self, model: Any, stage: str) -> None:
        checkpoint = self.folder.artifact(stage)
        shutil.rmtree(checkpoint, ignore_errors=True)
        save_verified(model.to(self.dtype), self.inputs.tokenizer, checkpoint)
