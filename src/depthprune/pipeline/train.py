"""The training stages of a run: the dense model's answers and predictions, then the tuning."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthprune.data.tokens import encode_prompts
from depthprune.pipeline.folder import fingerprint
from depthprune.training import FineTuning, Start, fine_tune
from depthprune.training.base import frozen_dtype
from depthprune.training.loss_log import LossLog
from depthprune.training.self_data import answered_rows, write_answers
from depthprune.training.teacher import TeacherCache

if TYPE_CHECKING:
    from depthprune.pipeline.job import Job


class Tuning:
    """What the stages answers, train and baseline of a job do."""

    def __init__(self, job: "Job") -> None:
        assert isinstance(job.recipe.training, FineTuning)
        self.job = job
        self.settings: FineTuning = job.recipe.training

    def answer(self, digest: str) -> str:
        """Lets the dense model answer the training prompts → self-data.jsonl."""
        inputs, folder = self.job.inputs, self.job.folder
        assert inputs.train is not None
        partial = folder.own / f"self-data-{digest}.partial"
        for other in folder.own.glob("self-data-*.partial"):
            if other != partial:  # another recipe's, killed
                other.unlink()
        return write_answers(
            self._dense(),
            inputs.tokenizer,
            inputs.train,
            encode_prompts(inputs.train, inputs.tokenizer, inputs.chat_template),
            self.settings.self_data,
            inputs.max_length(self.settings.max_length),
            self.job.recipe.seed,
            partial,
            folder.artifact("answers"),
        )

    def fine_tune(self, path: str | Path, stage: str, digest: str) -> str:
        """Tunes the checkpoint in `path` → the stage's own checkpoint, metrics.jsonl, training.json."""
        job, settings = self.job, self.settings
        scratch = job.folder.own / "trainer" / f"{stage}-{digest}"
        rows = self._rows()
        teacher = self._teacher(rows) if settings.loss == "distill" else None
        losses = LossLog(job.folder.own / "metrics.jsonl", stage)
        start = Start(path, job.dtype, job.state.device, job.recipe.trust_remote_code)
        tokenizer, seed = job.inputs.tokenizer, job.recipe.seed
        model, trains = fine_tune(start, tokenizer, rows, settings, scratch, seed, [losses], teacher)
        if job.state.is_main_process:
            job.save(model, stage)
            self._record(stage, trains)
            shutil.rmtree(scratch.parent, ignore_errors=True)
        return f"{settings.method} on {len(rows)} rows, {losses.steps} steps"

    def _rows(self) -> Any:
        if self.settings.data == "self":
            return answered_rows(self.job.folder.artifact("answers"))
        return self.job.inputs.encoded(self.settings.max_length)

    def _teacher(self, rows: Any) -> TeacherCache:
        """The dense model's predictions on `rows`, all on disk; every process makes its share."""
        job, settings = self.job, self.settings
        cache = TeacherCache(job.folder.teacher / self._key(rows), rows, settings.distill)
        _remove_others(cache.folder)
        share = cache.missing()[job.state.process_index :: job.state.num_processes]
        job.state.wait_for_everyone()  # all have seen what is missing before any of it is written
        if share:
            tokens = settings.per_device_train_batch_size * job.inputs.max_length(settings.max_length)
            cache.fill(self._dense(), job.inputs.tokenizer, share, tokens)
        job.state.wait_for_everyone()
        return cache

    def _key(self, rows: Any) -> str:
        """A hash of all that the teacher's predictions depend on: model, tokens, and how many are kept."""
        settings = self.settings.distill
        model = [fingerprint(str(self.job.recipe.model)), str(self.job.dtype)]
        digest = hashlib.sha256(json.dumps([*model, settings.top_k, settings.temperature]).encode())
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def _dense(self) -> Any:
        return self.job.load(str(self.job.recipe.model), frozen_dtype(self.job.dtype))

    def _record(self, stage: str, trains: dict[str, Any]) -> None:
        """What the stage trained → training.json."""
        folder = self.job.folder
        before = folder.read("training.json") if (folder.own / "training.json").is_file() else {}
        chosen = {"method": self.settings.method, "loss": self.settings.loss, "data": self.settings.data}
        folder.write("training.json", {**before, stage: {**chosen, **trains}})


def _remove_others(cache: Path) -> None:
    """Removes what another recipe's teacher left beside `cache`."""
    for other in cache.parent.glob("*"):
        if other != cache:
            shutil.rmtree(other, ignore_errors=True)
