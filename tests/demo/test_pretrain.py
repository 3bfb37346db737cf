"""The shipped model, and the script that reproduces it, for a few steps."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from depthprune.demo import demo_model
from depthprune.demo.pretrain import pretrain, training_text
from depthprune.demo.text import documents


def test_shipped_model_is_small_deep_and_bf16() -> None:
    folder = demo_model()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    assert AutoConfig.from_pretrained(folder).num_hidden_layers >= 12
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118


@pytest.fixture(scope="module")
def shipped() -> tuple[torch.nn.Module, object]:
    model, loading = AutoModelForCausalLM.from_pretrained(
        demo_model(), output_loading_info=True, dtype=torch.float32
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    return model.eval(), AutoTokenizer.from_pretrained(demo_model())


@torch.inference_mode()
def test_shipped_model_has_learned_its_text_and_uses_every_layer(shipped: tuple) -> None:
    model, tokenizer = shipped
    texts = [training_text(document, tokenizer) for document in itertools.islice(documents(99), 32)]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, truncation=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

    def loss() -> float:
        return float(model(**batch, labels=labels).loss)

    whole = loss()
    assert whole < 2.0
    layers = model.model.layers
    without = []
    for i in range(len(layers)):
        model.model.layers = torch.nn.ModuleList(layer for j, layer in enumerate(layers) if j != i)
        without.append(loss())
    model.model.layers = layers
    assert min(without) > whole
    assert max(without) > 1.5 * min(without)


def test_tokenizer_adds_bos_and_splits_a_conversation_at_the_answer(shipped: tuple) -> None:
    _, tokenizer = shipped
    assert tokenizer("a lamp")["input_ids"][0] == tokenizer.bos_token_id
    asked = [{"role": "user", "content": "Who?"}]
    answered = [*asked, {"role": "assistant", "content": "Ada."}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    assert whole.removeprefix(prompt) == "Ada.</s>"
    text = "Überall: 4711 lamps, \n\t“yes”!"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.slow
def test_the_script_makes_a_model_that_loads(tmp_path: Path) -> None:
    pretrain(tmp_path, steps=2, seed=0)
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.vocab_size == len(tokenizer) == 2048
    assert torch.isfinite(model(**tokenizer("The kettle", return_tensors="pt")).logits).all()
    shipped_tokenizer = AutoTokenizer.from_pretrained(demo_model())
    assert tokenizer.get_vocab() == shipped_tokenizer.get_vocab()
    assert tokenizer.chat_template == shipped_tokenizer.chat_template
    made, ours = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, demo_model()))
    assert made == {**ours, "transformers_version": made["transformers_version"]}
