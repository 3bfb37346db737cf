import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import record_layer_io
from depthprune.model.skip import skipped
from depthprune.model.surgery import remove_layers
from depthprune.recovery.stretch import check_stretches, fold, gap_factors, log_norms, stretched

REMOVED = (1, 2, 4)
FACTORS = {1: 1.7, 4: 0.6}
PRE_NORM = ["llama", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "falcon", "phi", "opt", "granite"]
MIXTURES = ["mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "deepseek_v3"]


def large(family):
    """Activations so far above the norms' eps that it hardly counts, in float64 but for mixtures."""
    model = tiny_model(family)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(100)
    return model if family in MIXTURES else model.double()


def logits(model, batch):
    with torch.no_grad():
        return model(**batch, use_cache=False).logits[batch["attention_mask"].bool()]


@pytest.mark.parametrize("family", [*PRE_NORM, *MIXTURES])
def test_folding_is_multiplying_the_stream_at_the_gaps(family):
    model, batch = large(family), tiny_batch()
    check_stretches(model)
    with skipped(model, REMOVED), stretched(model, FACTORS):
        expected = logits(model, batch)
    with skipped(model, REMOVED):
        assert not torch.allclose(expected, logits(model, batch), rtol=1e-2)
    changed = fold(model, FACTORS, REMOVED)
    assert changed == [3, 5]
    found = logits(remove_layers(model, REMOVED), batch)
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_what_eps_does_is_bounded_by_eps_over_the_mean_square():
    """norm(x) and norm(αx) differ by at most |1 − α⁻²| eps / 2 mean(x²), relatively."""
    model, batch, factor = tiny_model("llama").double(), tiny_batch(), 1.7
    norm = model.model.norm
    norm.variance_epsilon = 1e-2  # so that the norm's own float32 does not count
    x = next(iter(record_layer_io(model, batch)))[1]
    bound = abs(1 - factor**-2) * norm.variance_epsilon / (2 * x.square().mean(-1))
    apart = (norm(factor * x) - norm(x)).norm(dim=-1) / norm(factor * x).norm(dim=-1)
    assert (apart <= bound * 1.001).all()


@pytest.mark.parametrize("family", ["olmo2", "exaone4"])
def test_a_layer_that_reads_the_stream_itself_is_refused(family):
    with pytest.raises(UserError, match="cannot be stretched"):
        check_stretches(tiny_model(family))


def test_a_gaps_factor_is_the_geometric_mean_of_the_ratios_of_norms():
    model, batches = tiny_model(), [tiny_batch(seed=seed) for seed in (0, 1)]
    norms = log_norms(model, batches)
    factors = gap_factors(norms, (1, 2, 5))
    assert list(factors) == [1]  # behind the last layer nothing reads the length
    ratios = []
    for batch in batches:
        states = record_layer_io(model, batch)
        real = batch["attention_mask"].bool()
        ratios.append((states[2][1].norm(dim=-1) / states[1][0].norm(dim=-1))[real])
    assert factors[1] == pytest.approx(float(torch.cat(ratios).log().mean().exp()), rel=1e-5)
    one, other = gap_factors(norms, (1,)), gap_factors(norms, (2,))
    assert one[1] * other[2] == pytest.approx(gap_factors(norms, (1, 2))[1])


def test_the_stream_is_stretched_for_a_while_and_no_weight_changes():
    model, batch = tiny_model(), tiny_batch()
    before, weights = logits(model, batch), [p.clone() for p in model.parameters()]
    with skipped(model, [2]), stretched(model, {2: 3.0}):
        states = record_layer_io(model, batch)
    assert torch.equal(states[2][1], 3.0 * states[2][0])
    assert torch.equal(logits(model, batch), before)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))
    assert len(decoder_layers(model)) == 6
