import pytest
import torch
import torch.nn.functional as F
from tiny import FAMILIES, tiny_batch, tiny_model

from depthprune.model.anatomy import decoder, decoder_layers
from depthprune.model.head import IGNORED, backward_sample_losses, next_tokens, summed_loss, token_logprobs

# Their heads scale or cap the logits; the default of a tiny config may be to leave them.
SCALED = {
    "gemma2": {"final_logit_softcapping": 2.0},
    "granite": {"logits_scaling": 3.0},
    "cohere2": {"logit_scale": 0.5},
}


def test_targets_are_the_next_real_tokens():
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }
    assert next_tokens(batch).tolist() == [[6, 7, 8, IGNORED], [6, IGNORED, IGNORED, IGNORED]]
    batch["labels"] = torch.tensor([[5, IGNORED, 7, 8], [5, IGNORED, 0, 0]])
    assert next_tokens(batch).tolist() == [[IGNORED, 7, 8, IGNORED], [IGNORED] * 4]


@pytest.mark.parametrize("chunk", [1, 5 * 128, 2**24])
@pytest.mark.parametrize("family", [*FAMILIES, "modernbert-decoder"])
def test_the_loss_is_that_of_the_models_own_logits(monkeypatch, family, chunk):
    monkeypatch.setattr("depthprune.model.head._CHUNK_LOGITS", chunk)
    model, batch = tiny_model(family, **SCALED.get(family, {})), tiny_batch(batch_size=3)
    with torch.no_grad():
        output = decoder(model)(**batch, use_cache=False)
        found = summed_loss(model, output, next_tokens(batch))
        logprobs = model(**batch, use_cache=False).logits.double().log_softmax(-1)
    expected = 0.0
    for row, ids in enumerate(batch["input_ids"].tolist()):
        for position in range(int(batch["attention_mask"][row].sum()) - 1):
            expected -= float(logprobs[row, position, ids[position + 1]])
    assert found == pytest.approx(expected, rel=1e-6)
    assert "forward" not in vars(decoder(model))


def test_no_targets_have_no_loss():
    model, batch = tiny_model(layers=2), tiny_batch()
    with torch.no_grad():
        output = decoder(model)(**batch, use_cache=False)
        assert summed_loss(model, output, torch.full_like(batch["input_ids"], IGNORED)) == 0


@pytest.mark.parametrize("rows", [1, 64])
def test_the_logits_of_a_whole_batch_are_never_there(monkeypatch, rows):
    monkeypatch.setattr("depthprune.model.head._CHUNK_LOGITS", 10 * 128)
    model, batch = tiny_model(layers=2), tiny_batch(batch_size=rows)
    sizes = []
    model.lm_head.register_forward_hook(lambda _, args, output: sizes.append(output.numel()))
    with torch.no_grad():
        summed_loss(model, decoder(model)(**batch, use_cache=False), next_tokens(batch))
    assert max(sizes) <= 10 * 128 and sum(sizes) == 128 * (next_tokens(batch) != IGNORED).sum()


@pytest.mark.parametrize("chunk", [1, 5 * 128, 2**24])
@pytest.mark.parametrize("family", [*FAMILIES, "modernbert-decoder"])
@torch.no_grad()
def test_log_probabilities_are_those_of_the_models_own_logits(monkeypatch, family, chunk):
    monkeypatch.setattr("depthprune.model.head._CHUNK_LOGITS", chunk)
    model, batch = tiny_model(family, **SCALED.get(family, {})), tiny_batch(batch_size=3)
    output = decoder(model)(**batch, use_cache=False)
    places = [(0, 3), (2, 9), (1, 0)]
    hidden = output["last_hidden_state"][[row for row, _ in places], [place for _, place in places]]
    asked = [(1, 17), (0, 5), (2, 0), (1, 90)]  # two tokens of one place among them
    rows, targets = (torch.tensor(values) for values in zip(*asked, strict=True))
    found = token_logprobs(model, output, hidden, rows, targets)
    whole = model(**batch, use_cache=False).logits.log_softmax(-1)
    expected = [whole[(*places[row], token)] for row, token in asked]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5 * 128, 2**24])
@pytest.mark.parametrize("family", [*FAMILIES, "modernbert-decoder"])
def test_gradients_are_those_of_the_models_own_loss(monkeypatch, family, chunk):
    monkeypatch.setattr("depthprune.model.head._CHUNK_LOGITS", chunk)
    model, batch = tiny_model(family, **SCALED.get(family, {})), tiny_batch(batch_size=3)
    layers = decoder_layers(model)
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][1, :5] = IGNORED
    targets = next_tokens(batch)

    def gradients(run):
        model.zero_grad()
        run()
        return [weight.grad.clone() for weight in layers.parameters() if weight.grad is not None]

    def naive():
        for row in range(3):  # a padded row alone may meet another kernel
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).logits
            F.cross_entropy(logits[row], targets[row], ignore_index=IGNORED).backward()

    expected, found = gradients(naive), gradients(lambda: backward_sample_losses(model, batch))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_sample_without_a_target_has_no_gradient():
    model, batch = tiny_model(layers=2), tiny_batch()
    batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
    backward_sample_losses(model, batch)
    assert all(not weight.grad.any() for weight in decoder_layers(model).parameters())
