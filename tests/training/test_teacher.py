import pytest
import torch
from tiny import tiny_model
from tuned import TOKENIZER, Killed, encoded

from depthprune.model.anatomy import decoder_layers
from depthprune.model.head import logits_of
from depthprune.training import Distillation, teacher
from depthprune.training.learned import learned_states, learned_tokens
from depthprune.training.teacher import TeacherCache


def model(family="llama"):
    return tiny_model(family, layers=2, vocab_size=len(TOKENIZER))


@torch.no_grad()
def naive(model, row, k, temperature):
    """(ids, log-probabilities, that of all others) of each learned token of one row, from the full logits."""
    logits = model(torch.tensor([row["input_ids"]])).logits[0].double() / temperature
    mask = row.get("completion_mask", [1] * len(row["input_ids"]))
    behind = [t - 1 for t in range(1, len(mask)) if mask[t]]
    top = logits[behind].log_softmax(-1).topk(k)
    return top.indices, top.values, (1 - top.values.exp().sum(-1, keepdim=True)).log()


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gemma2", "cohere2", "opt", "falcon", "granite", "bloom"]
)
def test_the_head_on_learned_tokens_alone_gives_their_logits(family):
    dense = model(family)
    ids = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, :4] = labels[1, 6:] = -100
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    with torch.no_grad():
        _, decoded, hidden, targets = learned_states(dense, batch)
        found = logits_of(dense, decoded, hidden)
        whole = dense(input_ids=ids, attention_mask=mask).logits
    expected = [(row, t) for row in range(2) for t in range(1, 9) if labels[row, t] != -100]
    assert torch.allclose(found, torch.stack([whole[row, t - 1] for row, t in expected]), atol=1e-5)
    assert targets.tolist() == [int(ids[row, t]) for row, t in expected]
    with torch.no_grad():
        assert dense(input_ids=ids).logits.shape == whole.shape


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_predictions_of_any_rows_in_any_order_are_those_of_each_alone(
    tmp_path, monkeypatch, masked, temperature
):
    monkeypatch.setattr(teacher, "BLOCK", 5)
    rows = encoded(17) if masked else encoded(17).remove_columns("completion_mask")
    dense = model()
    cache = TeacherCache(tmp_path / "teacher", rows, Distillation(top_k=4, temperature=temperature))
    cache.fill(dense, TOKENIZER, cache.missing(), 40)
    assert len(list(cache.folder.iterdir())) == 4
    asked = [16, 3, 4, 5, 0, 11]
    ids, logprobs = cache.predictions(asked)
    assert len(ids) == sum(learned_tokens(rows[i]) for i in asked)
    expected = [naive(dense, rows[i], 4, temperature) for i in asked]
    assert torch.equal(ids, torch.cat([top for top, _, _ in expected]))
    values = torch.cat([torch.cat([kept, others], -1) for _, kept, others in expected])
    assert torch.allclose(logprobs.double(), values, atol=1e-4)


def test_filling_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "BLOCK", 4)
    rows, dense = encoded(16), model()
    whole = TeacherCache(tmp_path / "whole", rows, Distillation(top_k=3))
    whole.fill(dense, TOKENIZER, whole.missing(), 10_000)

    killed = TeacherCache(tmp_path / "killed", rows, Distillation(top_k=3))
    passes = []

    def count(module, args, kwargs, output):
        passes.append(len(output))
        if len(passes) == 3:
            raise Killed

    hook = decoder_layers(dense)[0].register_forward_hook(count, with_kwargs=True)
    with pytest.raises(Killed):
        killed.fill(dense, TOKENIZER, killed.missing(), 10_000)
    assert killed.missing() == [8, 12]
    (killed.folder / "00000008.partial").write_bytes(b"torn")
    killed.fill(dense, TOKENIZER, killed.missing(), 10_000)
    hook.remove()
    assert passes == [4] * 5
    assert killed.missing() == []
    every = range(16)
    pairs = zip(killed.predictions(every), whole.predictions(every), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("chunk", [1, 7])
def test_the_logits_of_a_few_tokens_are_there_at_a_time(tmp_path, monkeypatch, chunk):
    rows, dense = encoded(9), model("gemma2")
    whole = TeacherCache(tmp_path / "whole", rows, Distillation(top_k=4))
    whole.fill(dense, TOKENIZER, whole.missing(), 10_000)
    monkeypatch.setattr("depthprune.model.head._CHUNK_LOGITS", chunk * len(TOKENIZER))
    sizes = []
    hook = dense.lm_head.register_forward_hook(lambda _, args, output: sizes.append(output.shape[1]))
    few = TeacherCache(tmp_path / "few", rows, Distillation(top_k=4))
    few.fill(dense, TOKENIZER, few.missing(), 10_000)
    hook.remove()
    assert max(sizes) == chunk
    for one, other in zip(whole.predictions(range(9)), few.predictions(range(9)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
