import copy
import logging

import pytest
import torch
from tiny import tiny_model
from tuned import checkpoint, encoded, tune, weights

from depthprune.model.anatomy import decoder
from depthprune.training import Full, Lora, Partial, rows_at_once
from depthprune.training.rows_at_once import choose_rows, kept_bytes

EIGHT = {"max_steps": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
         "learning_rate": 1e-2, "warmup_steps": 0, "logging_steps": 1}  # fmt: skip


@pytest.mark.parametrize("settings", [Full(**EIGHT), Lora(**EIGHT, lora_dropout=0)])
@pytest.mark.parametrize("room", [1_200_000, 1])
def test_fewer_rows_at_once_give_the_same_weights(tmp_path, monkeypatch, caplog, settings, room):
    start = checkpoint(tmp_path / "base")
    rows = encoded(20)  # an epoch's last update has four rows
    whole, before = tune(start, settings, tmp_path / "whole", dataset=rows)
    assert before["rows_at_once"] == 8
    monkeypatch.setattr(rows_at_once, "ROOM", room)
    with caplog.at_level(logging.INFO, "depthprune"):
        lean, trained = tune(start, settings, tmp_path / "lean", dataset=rows)
    assert trained["rows_at_once"] == 1 if room == 1 else 1 < trained["rows_at_once"] < 8
    assert trained["gradient_checkpointing"] == (room == 1)
    assert f"{trained['rows_at_once']} of 8 rows at once" in caplog.text
    moved = weights(start.load(torch.float32))
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(lean)[name], weight, rtol=1e-4, atol=1e-5)
        assert "proj" not in name or not weight.equal(moved[name])


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "qwen3_moe"])
def test_the_bytes_of_long_rows_are_known_from_short_ones(family):
    model = tiny_model(family, max_position_embeddings=512)
    ids = torch.randint(3, 128, (2, 200))
    mask = torch.ones_like(ids)
    mask[1, 150:] = 0
    own = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder(model.train())(input_ids=ids, attention_mask=mask, use_cache=False)
    model.eval()
    found = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own) / 2
    assert kept_bytes(model, 200) == pytest.approx(found, rel=0.1)
    assert not model.training


@pytest.mark.parametrize("tied", [True, False])
def test_a_bfloat16_model_that_trains_its_end_in_float32_is_counted(tied):
    """On an accelerator the frozen part keeps the checkpoint's dtype, and autocast lets the two meet."""
    model = tiny_model("gemma3_text", max_position_embeddings=512, tie_word_embeddings=tied).bfloat16()
    settings = Partial(last_layers=1)
    settings.choose_trained(model)
    everything = kept_bytes(copy.deepcopy(model).float().requires_grad_(True), 200, bf16=True)
    assert 0 < kept_bytes(model, 200, bf16=True) < everything


def test_weights_that_autocast_rounds_are_counted_in_no_row():
    model = tiny_model("llama", max_position_embeddings=512)
    assert kept_bytes(model, 200, bf16=True) < kept_bytes(model, 200)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({"wanted": 8, "row": 1, "lean": 0.5, "room": 8}, (8, False)),
        ({"wanted": 8, "row": 1, "lean": 0.5, "room": 7}, (4, False)),
        ({"wanted": 6, "row": 1, "lean": 0.5, "room": 3.5}, (3, False)),
        ({"wanted": 7, "row": 1, "lean": 0.5, "room": 6}, (1, False)),
        ({"wanted": 8, "row": 9, "lean": 2, "room": 8}, (4, True)),
        ({"wanted": 8, "row": 9, "lean": None, "room": 8}, (1, False)),
        ({"wanted": 8, "row": 3, "lean": None, "room": 8, "anew": True}, (2, True)),
    ],
)
def test_how_many_rows_fit(asked, chosen):
    assert choose_rows(**asked) == chosen


def test_what_is_small_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_at_once, "kept_bytes", None)
    _, trained = tune(checkpoint(tmp_path / "base"), Full(**EIGHT), tmp_path / "trainer")
    assert (trained["rows_at_once"], trained["gradient_checkpointing"]) == (8, False)
