"""The training stages of a run: the dense model's answers and predictions, then the tuning."""

import hashlib
import json
from pathlib import Path
from typing import Any

from depthprune.data.tokens import encode_prompts
from depthprune.distributed.processes import first_does, is_first, wait_for_all
from depthprune.distributed.sharded import shards
from depthprune.files import remove
from depthprune.pipeline.fingerprint import model_fingerprint
from depthprune.pipeline.job import Job
from depthprune.training import FineTuning, Start
from depthprune.training.loss_log import LossLog
from depthprune.training.self_data import answered_rows, write_answers
from depthprune.training.teacher import TeacherCache
from depthprune.training.trainer import fine_tune


def answers(job: Job, digest: str) -> str:
    """Lets the dense model answer the training prompts → self-data.jsonl."""
    inputs, folder, settings = job.inputs, job.folder, _settings(job)
    assert inputs.train is not None
    partial = folder.own / f"self-data-{digest}.partial"
    for other in folder.own.glob("self-data-*.partial"):
        if other != partial:  # another recipe's, killed
            other.unlink()
    return write_answers(
        _dense(job),
        inputs.tokenizer,
        inputs.train,
        encode_prompts(inputs.train, inputs.tokenizer, inputs.chat_template),
        settings.self_data,
        inputs.max_length(settings.max_length),
        job.recipe.seed,
        partial,
        folder.artifact("answers"),
    )


def train(job: Job, digest: str) -> str:
    """Tunes the pruned model → the tuned checkpoint, metrics.jsonl, training.json."""
    return _fine_tune(
        job, job.folder.artifact("prune") if job.prunes else str(job.recipe.full), "train", digest
    )


def baseline(job: Job, digest: str) -> str:
    """Tunes the whole model the same way → the baseline checkpoint, metrics.jsonl, training.json."""
    return _fine_tune(job, str(job.recipe.full), "baseline", digest)


def _settings(job: Job) -> FineTuning:
    assert isinstance(job.recipe.training, FineTuning)
    return job.settled(job.recipe.training)


def _fine_tune(job: Job, path: str | Path, stage: str, digest: str) -> str:
    """Tunes the checkpoint in `path` → the stage's own checkpoint, metrics.jsonl, training.json."""
    settings = _settings(job)
    # What shards leave is of no use to whole models, and the other way round.
    scratch = job.folder.own / "trainer" / f"{stage}-{digest}{'-shards' if shards() else ''}"
    rows = _rows(job)
    teacher = _teacher(job, rows) if settings.loss == "distill" else None
    losses = LossLog(job.folder.own / "metrics.jsonl", stage)
    start = Start(path, job.dtype, job.training_device, job.recipe.trust_remote_code)
    tokenizer, seed = job.inputs.tokenizer, job.recipe.seed
    model, trains = fine_tune(start, tokenizer, rows, settings, scratch, seed, [losses], teacher)
    first_does(lambda: _leave(job, stage, model, trains))
    return f"{settings.method} on {len(rows)} rows, {losses.steps} steps"


def _leave(job: Job, stage: str, model: Any, trains: dict[str, Any]) -> None:
    """Writes what the stage has made."""
    job.save(model, stage)
    _record(job, stage, trains)


def _rows(job: Job) -> Any:
    if _settings(job).data == "self":
        return answered_rows(job.folder.artifact("answers"))
    return job.inputs.encoded(_settings(job).max_length)


def _teacher(job: Job, rows: Any) -> TeacherCache:
    """The dense model's predictions on `rows`, all on disk; every process makes its share."""
    settings = _settings(job)
    cache = TeacherCache(job.folder.teacher / _teacher_key(job, rows), rows, settings.distill)
    first_does(lambda: _remove_others(cache.folder))
    missing = first_does(cache.missing)
    # Under FSDP transformers gives the whole model to the first process alone.
    share = missing[job.state.process_index :: job.state.num_processes] if not shards() else missing
    if share and (is_first() or not shards()):
        tokens = settings.per_device_train_batch_size * job.inputs.max_length(settings.max_length)
        cache.fill(_dense(job), job.inputs.tokenizer, share, tokens)
    wait_for_all()
    return cache


def _teacher_key(job: Job, rows: Any) -> str:
    """A hash of all that the teacher's predictions depend on: model, tokens, and how many are kept."""
    settings = _settings(job).distill
    model = [model_fingerprint(str(job.recipe.full)), str(job.dtype)]
    digest = hashlib.sha256(json.dumps([*model, settings.top_k, settings.temperature]).encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _dense(job: Job) -> Any:
    return job.load(str(job.recipe.full))


def _record(job: Job, stage: str, trains: dict[str, Any]) -> None:
    """What the stage trained → training.json."""
    folder, settings = job.folder, _settings(job)
    before = folder.read_if_whole("training.json", {})
    chosen = {"method": settings.method, "loss": settings.loss, "data": settings.data}
    folder.write("training.json", {**before, stage: {**chosen, **trains}})


def _remove_others(cache: Path) -> None:
    """Removes what another recipe's teacher left beside `cache`."""
    for other in cache.parent.glob("*"):
        if other != cache:
            remove(other)
