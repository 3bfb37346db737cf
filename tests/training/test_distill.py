import math

import pytest
import torch
import torch.nn.functional as F
from tuned import SHORT, TOKENIZER, KillAt, Killed, Log, checkpoint, encoded, tune, weights

from depthprune.model.surgery import remove_layers
from depthprune.training import Distillation, Full, Lora, Partial, QLora
from depthprune.training.distill import divergence
from depthprune.training.teacher import TeacherCache, lumped

V = 11
DEFAULT = Distillation()


def random_logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(7, V, generator=torch.Generator().manual_seed(seed)) * scale


def full_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return (p * (p / q).log()).sum().item()


def cached(teacher: torch.Tensor, k: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    ids = teacher.topk(k).indices
    return ids, lumped(teacher / temperature, ids).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_with_every_token_kept_it_is_the_divergence_of_the_full_logits(temperature):
    student, teacher = random_logits(0), random_logits(1)
    found = divergence(student, *cached(teacher, V, temperature), temperature)
    assert found.item() == pytest.approx(full_divergence(student, teacher, temperature), rel=1e-5)


@pytest.mark.parametrize("k", [1, 4, V - 1])
def test_the_other_tokens_are_one_outcome(k):
    student, teacher = random_logits(0).requires_grad_(), random_logits(1)
    ids, logprobs = cached(teacher, k, 1.0)
    found = divergence(student, ids, logprobs, 1.0)
    expected = 0.0
    for row in range(len(teacher)):
        p, q = teacher[row].double().softmax(-1), student[row].detach().double().softmax(-1)
        kept = p.argsort(descending=True)[:k].tolist()
        outcomes = [(p[i].item(), q[i].item()) for i in kept]
        outcomes.append((1 - sum(one for one, _ in outcomes), 1 - sum(other for _, other in outcomes)))
        expected += sum(one * math.log(one / other) for one, other in outcomes)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert found.item() <= full_divergence(student.detach(), teacher, 1.0) + 1e-5
    found.backward()
    assert student.grad.isfinite().all()


def test_it_is_zero_with_a_zero_gradient_where_the_student_is_the_teacher():
    student = random_logits(1, scale=40.0).requires_grad_()  # nothing is left for the other tokens
    loss = divergence(student, *cached(student.detach(), 3, 1.0), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert student.grad.abs().max() < 1e-5


@pytest.fixture
def taught(tmp_path):
    """(a pruned checkpoint, `make(settings)`: its dense model's predictions on the training rows)."""
    dense = checkpoint(tmp_path / "dense").load(torch.float32)

    def make(settings=DEFAULT, rows=None):
        folder = tmp_path / f"teacher-{settings.top_k}-{settings.temperature}"
        cache = TeacherCache(folder, rows if rows is not None else encoded(), settings)
        cache.fill(dense, TOKENIZER, cache.missing(), 256)
        return cache

    student = checkpoint(tmp_path / "pruned")
    remove_layers(student.load(torch.float32), [2, 3]).save_pretrained(student.path)
    return student, make


def naive_parts(student, dense, rows, temperature):
    """(Σ CE, Σ KL, tokens) over the full logits of each row by itself."""
    ce = kl = 0.0
    tokens = 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            q, p = student(ids).logits[0], dense(ids).logits[0]
        mask = row.get("completion_mask", [1] * len(row["input_ids"]))
        for t in range(1, len(mask)):
            if mask[t]:
                ce += F.cross_entropy(q[t - 1], ids[0, t]).item()
                kl += full_divergence(q[t - 1], p[t - 1], temperature)
                tokens += 1
    return ce, kl, tokens


@pytest.mark.parametrize(("masked", "chunk"), [(True, 10_000), (False, 10_000), (True, 1), (False, 5)])
def test_the_loss_is_the_documented_sum_on_the_tokens_that_ce_learns(
    tmp_path, taught, monkeypatch, masked, chunk
):
    monkeypatch.setattr("depthprune.model.head._CHUNK_LOGITS", chunk * len(TOKENIZER))
    start, make = taught
    rows = encoded(16)
    if not masked:
        rows = rows.remove_columns("completion_mask")
    distillation = Distillation(top_k=10_000, temperature=2.0, weight=0.3)
    one_step = {**SHORT, "max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    log = Log()
    settings = Full(loss="distill", distill=distillation, **one_step)
    tune(start, settings, tmp_path / "t", [log], dataset=rows, teacher=make(distillation, rows))
    dense = checkpoint(tmp_path / "dense").load(torch.float32)
    ce, kl, tokens = naive_parts(start.load(torch.float32), dense, rows, 2.0)
    line = log.lines[0]
    assert line["ce"] == pytest.approx(ce / tokens, rel=1e-5)
    assert line["kl"] == pytest.approx(kl / tokens, rel=1e-4)
    assert line["loss"] == pytest.approx((0.7 * ce + 0.3 * 4 * kl) / tokens, rel=1e-4)
    plain = Log()
    tune(start, Full(**one_step), tmp_path / "plain", [plain], dataset=rows)
    assert plain.lines[0]["loss"] == pytest.approx(line["ce"], rel=1e-5)


def test_micro_batches_do_not_change_the_result(tmp_path, taught):
    start, make = taught
    tuned = []
    for batch, accumulation in ((1, 8), (2, 4), (4, 2), (8, 1)):
        changes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        settings = Full(loss="distill", **{**SHORT, **changes, "learning_rate": 1e-3, "max_steps": 2})
        tuned.append(weights(tune(start, settings, tmp_path / str(batch), teacher=make())[0]))
    before = weights(start.load(torch.float32))
    for other in tuned[1:]:
        for name, weight in tuned[0].items():
            moved = (weight - before[name]).abs().max()
            assert (other[name] - weight).abs().max() < 0.02 * moved + 1e-6, name


def test_logits_of_a_few_tokens_at_a_time_give_the_same_gradients(tmp_path, taught, monkeypatch):
    start, make = taught
    tuned = []
    for chunk in (10_000, 3):
        monkeypatch.setattr("depthprune.model.head._CHUNK_LOGITS", chunk * len(TOKENIZER))
        settings = Full(loss="distill", **{**SHORT, "learning_rate": 1e-3, "max_steps": 2})
        tuned.append(weights(tune(start, settings, tmp_path / str(chunk), teacher=make())[0]))
    before = weights(start.load(torch.float32))
    for name, weight in tuned[0].items():
        moved = (weight - before[name]).abs().max()
        assert (tuned[1][name] - weight).abs().max() < 0.02 * moved + 1e-6, name


@pytest.mark.parametrize("method", [Lora, Full, Partial, QLora])
def test_every_method_follows_the_teacher_and_resumes(tmp_path, taught, method):
    start, make = taught
    options = {"last_layers": 1} if method is Partial else {}
    every_row = {**SHORT, "per_device_train_batch_size": 32, "learning_rate": 2e-3}
    settings = method(loss="distill", distill={"weight": 1.0}, **every_row, **options)
    teacher = make(settings.distill)
    log = Log()
    whole, _ = tune(start, settings, tmp_path / "whole", [log], teacher=teacher)
    divergences = [line["kl"] for line in log.lines if "kl" in line]
    assert len(divergences) == 4
    assert divergences[-1] < 0.98 * divergences[0]
    with pytest.raises(Killed):
        tune(start, settings, tmp_path / "killed", [KillAt(3)], teacher=teacher)
    resumed, _ = tune(start, settings, tmp_path / "killed", teacher=teacher)
    assert all(torch.equal(weights(whole)[name], weight) for name, weight in weights(resumed).items())
