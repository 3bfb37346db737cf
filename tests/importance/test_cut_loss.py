import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_batch, tiny_model

from depthprune.importance.cut_loss import cut_losses
from depthprune.model.surgery import remove_layers


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_each_samples_loss_is_that_of_the_model_with_the_layers_removed(family):
    batches = [{**tiny_batch(seed=seed), "labels": torch.full((2, 12), -100)} for seed in (0, 1)]
    model = tiny_model(family)
    found = cut_losses(model, batches, (1, 4))
    cut = remove_layers(tiny_model(family), [1, 4])
    expected = []
    for batch in batches:
        for ids, real in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True):
            with torch.no_grad():
                logits = cut(ids[None, :real]).logits[0, :-1]
            expected.append([float(F.cross_entropy(logits, ids[1:real], reduction="sum")), float(real) - 1])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4)
