"""What each stage of a run does: it reads the artifacts of the stages before and writes its own."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from depthprune.cost import measured
from depthprune.evaluation.evaluate import evaluate
from depthprune.importance.igia import Igia
from depthprune.model.anatomy import decoder_layers
from depthprune.model.loading import load_model
from depthprune.model.skeleton import checkpoint_dtype
from depthprune.model.surgery import remove_layers
from depthprune.model.traits import pruned_config
from depthprune.model.verify import save_verified
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.inputs import Inputs
from depthprune.pipeline.score import score_model
from depthprune.pipeline.train import Tuning
from depthprune.recipe.recipe import Recipe
from depthprune.recovery.base import Evidence
from depthprune.selection import ByRecovery, KeepAll, Plan
from depthprune.training import NoTraining


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
        partial = f"rounds-{digest}.json"
        with measured() as cost:
            found = score_model(self, partial)
        metric = self.recipe.importance.metric
        if self.state.is_main_process:
            self.folder.write("scores.json", {"metric": metric, **found, **cost})
            (self.folder.own / partial).unlink(missing_ok=True)
        rounds = f" in each of {len(found['rounds'])} rounds" if found["rounds"] else ""
        return f"{metric} over {found['samples']} samples{rounds}"

    def select(self, digest: str) -> str:
        """Chooses the layers that go → plan.json."""
        decides = self.recipe.recovery.decides
        plan = self._decided() if decides else self.inputs.plan(self.folder.read("scores.json"))
        pruned_config(self.inputs.config, plan.removed)  # refuses what the family's config cannot say
        self.folder.write("plan.json", plan.to_json())
        removed = (
            f"removes {len(plan.removed)} of {plan.num_layers} layers: {', '.join(map(str, plan.removed))}"
        )
        return ". ".join([removed, *plan.notes])

    def _decided(self) -> Plan:
        """The plan of a recovery that chooses the layers itself, in the dtype that it will merge in."""
        selection = self.recipe.selection
        assert isinstance(selection, ByRecovery)
        model = self.load(str(self.recipe.model), self.dtype)
        evidence = Evidence(batches=self.inputs.batches)
        return self.recipe.recovery.choose(model, evidence, selection, self.inputs.sizes)

    def prune(self, digest: str) -> str:
        """Repairs and cuts the model → the pruned checkpoint, recovery.json."""
        plan = Plan.from_json(self.folder.read("plan.json"))
        model = self.load(str(self.recipe.model), self.dtype)
        recovery: Any = self.recipe.recovery
        recovery.check(model)  # scoring may have loaded none
        batches = self.inputs.batches if recovery.needs_calibration else []
        report = recovery(model, plan, Evidence(self.folder.gradients, batches))
        self.folder.write("recovery.json", {"method": recovery.method, **report})
        remove_layers(model, plan.removed)
        self.save(model, "prune")
        if not self.recipe.keep_gradients:
            shutil.rmtree(self.folder.gradients, ignore_errors=True)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        changed = ", ".join(map(str, report["changed_layers"]))
        repaired = f", changes layer {changed}" if changed else ""
        return f"leaves {len(plan.kept)} layers, {parameters:,} parameters{repaired}"

    def answers(self, digest: str) -> str:
        """Lets the dense model answer the training prompts → self-data.jsonl."""
        return Tuning(self).answer(digest)

    def train(self, digest: str) -> str:
        """Tunes the pruned model → the tuned checkpoint, metrics.jsonl, training.json."""
        start = self.folder.artifact("prune") if self.prunes else str(self.recipe.model)
        return Tuning(self).fine_tune(start, "train", digest)

    def baseline(self, digest: str) -> str:
        """Tunes the whole model the same way → the baseline checkpoint, metrics.jsonl, training.json."""
        return Tuning(self).fine_tune(str(self.recipe.model), "baseline", digest)

    def evaluate(self, digest: str) -> str:
        """Measures every model of the table → eval.json; a call that was killed goes on with the next row."""
        partial = f"eval-{digest}.json"
        rows = self.folder.read(partial) if (self.folder.own / partial).is_file() else {}
        for name, (path, removed) in self._rows().items():
            if name not in rows:
                rows[name] = self.evaluate_row(path, removed)
                self.folder.write(partial, rows)
        self.folder.write("eval.json", {"rows": rows})
        (self.folder.own / partial).unlink()
        return f"{len(rows)} models on {', '.join(examples.name for examples in self.inputs.evals)}"

    def _rows(self) -> dict[str, tuple[str | Path, tuple[int, ...]]]:
        """The models of the table: a checkpoint, and layers of it to leave out.

        `pruned` is the bare cut; where a recovery changed weights of it, its checkpoint is `repaired`.
        """
        base = str(self.recipe.model)
        rows: dict[str, tuple[str | Path, tuple[int, ...]]] = {"base": (base, ())}
        if self.prunes and self.trains and self.recipe.baseline:
            rows["base+tuned"] = self.folder.artifact("baseline"), ()
        if self.prunes and self.folder.read("recovery.json")["changed_layers"]:
            rows["pruned"] = base, Plan.from_json(self.folder.read("plan.json")).removed
            rows["repaired"] = self.folder.artifact("prune"), ()
        elif self.prunes:
            rows["pruned"] = self.folder.artifact("prune"), ()
        if self.trains:
            rows["pruned+tuned" if self.prunes else "base+tuned"] = self.folder.artifact("train"), ()
        return rows

    def evaluate_row(self, path: str | Path, removed: Sequence[int] = ()) -> dict[str, Any]:
        """One row of eval.json: a model's size and its results on every evaluation dataset."""
        model = self.load(path)
        if removed:
            remove_layers(model, removed)
        options = {"chat_template": self.inputs.chat_template, **self.recipe.evaluation.model_dump()}
        with measured() as cost:
            results = [
                result.to_dict()
                for examples in self.inputs.evals
                for result in evaluate(model, self.inputs.tokenizer, examples, **options)
            ]
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "layers": len(decoder_layers(model)),
            "results": results,
            **cost,
        }

    def load(self, path: str | Path, dtype: torch.dtype | str = "auto") -> Any:
        """A model on this process's device, by default in the dtype that it is stored in."""
        return load_model(path, dtype, self.state.device, self.recipe.trust_remote_code)

    def save(self, model: Any, stage: str) -> None:
        """Writes the checkpoint of a stage, if it passes the gate."""
        checkpoint = self.folder.artifact(stage)
        shutil.rmtree(checkpoint, ignore_errors=True)
        save_verified(model.to(self.dtype), self.inputs.tokenizer, checkpoint)
