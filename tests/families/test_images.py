"""Multimodal checkpoints see images through fewer layers as the whole one does with these skipped."""

import pytest
import torch
from check import relative, reload, skipping
from small import ONE_TYPE, small_model

from depthprune.model.checkpoint import prune_files

IMAGE = 120
PATCHES = torch.randn(16, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))
SQUARE = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
GRID = {"image_grid_thw": torch.tensor([[1, 4, 4]])}
QWEN = {
    "image_token_id": IMAGE,
    "video_token_id": 121,
    "vision_start_token_id": 122,
    "vision_end_token_id": 123,
}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "image_size": 28, "patch_size": 14}  # fmt: skip

# The config of a type, its image, and how many tokens stand for it.
SEEING = {
    "gemma3": ({"image_token_index": IMAGE, "mm_tokens_per_image": 4, "vision_config": TOWER},
               {"pixel_values": SQUARE}, 4),
    "llava": ({"image_token_index": IMAGE, "image_seq_length": 4,
               "vision_config": {"model_type": "clip_vision_model", **TOWER}}, {"pixel_values": SQUARE}, 4),
    "qwen2_5_vl": (QWEN, {"pixel_values": PATCHES, **GRID}, 4),
    "qwen3_vl": (QWEN, {"pixel_values": PATCHES.repeat(1, 2)[:, : 3 * 2 * 16 * 16], **GRID}, 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEEING)
def test_images_are_seen_as_before(kind, tmp_path, monkeypatch):
    changes, image, count = SEEING[kind]
    monkeypatch.setitem(ONE_TYPE, kind, changes)
    whole = small_model(kind)
    whole.save_pretrained(tmp_path / "whole")
    ids = torch.tensor([[3, 4, 122, *[IMAGE] * count, 123, 5, 6, 7]])
    seen = {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).int(), "use_cache": False}
    for layers in ([2], [3, 5]):
        prune_files(tmp_path / "whole", layers, tmp_path / f"without-{layers[0]}")
        pruned = reload(tmp_path / f"without-{layers[0]}")
        with torch.no_grad():
            expected = skipping(whole, layers)(**seen, **image).logits
            assert relative(pruned(**seen, **image).logits, expected) < 1e-5
            blank = {**image, "pixel_values": torch.zeros_like(image["pixel_values"])}
            assert relative(pruned(**seen, **blank).logits, expected) > 1e-3
