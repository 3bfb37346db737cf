import pytest
import torch
from tiny import tiny_model
from tuned import SHORT, TOKENIZER, checkpoint, tune, weights

from depthprune import UserError, verify
from depthprune.model.anatomy import lm_head, tied_embeddings
from depthprune.model.verify import save_verified
from depthprune.recipe.load import load_recipe
from depthprune.training import Partial
from depthprune.training.partial import untie_embeddings

TIED = ["llama", "gpt2", "gemma", "qwen2", "bloom", "falcon", "opt"]


def changed(before, after) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_recipe_is_the_papers_setting():
    settings = load_recipe("reverse-partial").training
    assert settings == Partial()
    assert (settings.last_layers, settings.learning_rate, settings.num_train_epochs) == (3, 1e-5, 2)
    assert (settings.warmup_steps, settings.max_length) == (100, 256)
    assert settings.per_device_train_batch_size * settings.gradient_accumulation_steps == 64


@pytest.mark.parametrize("last_layers", [0, 2, 4])
def test_only_norm_head_and_the_last_layers_change(tmp_path, last_layers):
    start = checkpoint(tmp_path / "model")
    before = weights(start.load(torch.float32))
    model, trains = tune(start, Partial(last_layers=last_layers, **SHORT), tmp_path / "trainer")
    last = [f"model.layers.{i}." for i in range(4 - last_layers, 4)]
    expected = {
        name
        for name in before
        if name in ("model.norm.weight", "lm_head.weight") or name.startswith(tuple(last))
    }
    assert changed(before, weights(model)) == expected == set(trains["tensors"])
    assert trains["trained"] == sum(before[name].numel() for name in expected)
    assert trains["parameters"] == sum(weight.numel() for weight in before.values())
    layers = {0: "", 2: ", layers 2–3", 4: ", layers 0–3"}[last_layers]
    assert trains["what"] == f"model.norm, lm_head{layers}"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_recomputed_activations_give_the_same_gradients(tmp_path):
    """The frozen part hands on inputs that need no gradient, which reentrant checkpointing cannot bear."""
    start = checkpoint(tmp_path / "model")
    plain, _ = tune(start, Partial(last_layers=2, **SHORT), tmp_path / "plain")
    saving = Partial(last_layers=2, gradient_checkpointing=True, **SHORT)
    recomputed, _ = tune(start, saving, tmp_path / "saving")
    assert all(torch.allclose(weights(plain)[name], w) for name, w in weights(recomputed).items())


@pytest.mark.parametrize("tied", ["train", "untie", "freeze"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tied_embeddings(tmp_path, family, tied):
    start = checkpoint(tmp_path / "model", family, tie_word_embeddings=True)
    model = start.load(torch.float32)
    embedding = model.get_input_embeddings().weight.detach().clone()
    settings = Partial(last_layers=1, tied=tied, **SHORT)
    tuned, trains = tune(start, settings, tmp_path / "trainer")
    save_verified(tuned, TOKENIZER, tmp_path / "tuned")
    verify(tmp_path / "tuned")
    reloaded = type(model).from_pretrained(tmp_path / "tuned")
    input_changes = not torch.equal(reloaded.get_input_embeddings().weight, embedding)
    head_changes = not torch.equal(lm_head(reloaded).weight, embedding)
    assert (input_changes, head_changes) == {
        "train": (True, True),
        "untie": (False, True),
        "freeze": (False, False),
    }[tied]
    assert tied_embeddings(reloaded) == reloaded.config.tie_word_embeddings == (tied != "untie")
    assert ("(and with it the head)" in trains["what"]) == (tied == "train")
    assert settings.trained_parameters(model) == trains["trained"]


@pytest.mark.parametrize("family", TIED)
def test_an_untied_model_computes_as_before_and_reloads(tmp_path, family):
    model = tiny_model(family, layers=3, tie_word_embeddings=True)
    assert tied_embeddings(model)
    probe = torch.arange(3, 11)[None]
    before = model(probe).logits
    untie_embeddings(model)
    with torch.no_grad():
        assert torch.equal(model(probe).logits, before)
        model.get_input_embeddings().weight += 0.1  # the head does not follow
    save_verified(model, None, tmp_path / "untied")
    verify(tmp_path / "untied")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox", "mixtral"])
def test_frozen_bfloat16_below_trained_float32_runs_under_autocast(family):
    model = tiny_model(family, layers=3).bfloat16()
    Partial(last_layers=1).choose_trained(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    batch = torch.arange(3, 11)[None]
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(batch, labels=batch).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained)
    assert sum(p.grad is not None for p in trained) > len(trained) // 2


def test_more_layers_than_there_are(tmp_path):
    model = tiny_model(layers=2)
    with pytest.raises(UserError, match=r"training\.last_layers is 3 and 2 layers are left") as refusal:
        Partial().check(model, 2)
    assert "\n" not in str(refusal.value)
    Partial(last_layers=2).check(model, 2)
