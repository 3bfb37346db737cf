import copy

import torch
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.bench.counting import Counter
from depthprune.bench.interleave import interleaved
from depthprune.bench.training_step import stepper
from depthprune.training import Full, Lora

STEP = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}


def model_and_rows():
    tokenizer = tiny_tokenizer()
    rows = torch.randint(3, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    return tiny_model(vocab_size=len(tokenizer)), tokenizer, rows


def test_a_full_step_is_adamw_on_the_clipped_gradient_of_the_loss():
    model, tokenizer, rows = model_and_rows()
    naive = copy.deepcopy(model)
    with stepper(model, tokenizer, Full(learning_rate=1e-3, weight_decay=0.0, **STEP), 12) as steps:
        interleaved({"it": steps.work(rows, "step")}, 1)
    optimizer = torch.optim.AdamW(naive.parameters(), lr=1e-3, weight_decay=0.0)
    for ids in (torch.arange(8)[None], rows):  # the one that makes the moments, then ours
        mean = naive(input_ids=ids, labels=ids).loss
        (mean * (ids.shape[1] - 1) / ids.shape[1]).backward()  # the Trainer divides by all tokens
        torch.nn.utils.clip_grad_norm_(naive.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for (name, one), other in zip(model.named_parameters(), naive.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


def test_a_lora_step_leaves_the_model_as_it_was():
    model, tokenizer, rows = model_and_rows()
    model.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    with stepper(model, tokenizer, Lora(**STEP), 12) as steps:
        trained = [p for p in steps.model.parameters() if p.requires_grad]
        adapters = [p.clone() for p in trained]
        interleaved({"it": steps.work(rows, "step")}, 1)
        assert any(not torch.equal(one, other) for one, other in zip(trained, adapters, strict=True))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_mixture_can_be_stepped():
    tokenizer = tiny_tokenizer()
    model = tiny_model("mixtral", layers=2, vocab_size=len(tokenizer))
    for settings in (Lora(**STEP), Full(**STEP)):
        before = copy.deepcopy(model.state_dict())
        settings.choose_trained(model)
        with stepper(model, tokenizer, settings, 8) as steps:
            interleaved({"it": steps.work(torch.arange(8)[None], "step")}, 1)
        changed = [name for name, weight in model.state_dict().items() if not weight.equal(before[name])]
        assert bool(changed) == isinstance(settings, Full)


def test_what_lies_in_memory_between_steps_is_weights_and_two_moments():
    model, tokenizer, rows = model_and_rows()
    with stepper(model, tokenizer, Full(**STEP), 12) as steps:
        held, weights = steps.held_bytes(), 4 * sum(p.numel() for p in model.parameters())
        assert 3 * weights <= held <= 3.01 * weights
        counter = Counter(held)
        steps.work(rows, "step")(counter)
        assert counter.found["step"].peak_bytes >= 4 * weights  # and the gradients
