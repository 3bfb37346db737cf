"""Two layers flattened into one, family by family."""

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import DOWN_PROJECTIONS, decoder_layers
from depthprune.model.hooks import record_layer_io
from depthprune.model.parts import ATTENTION_OUTPUTS
from depthprune.recovery.activations import mean_loss
from depthprune.recovery.base import Evidence
from depthprune.recovery.flatten.making import Making
from depthprune.recovery.flatten.pair import Pair
from depthprune.recovery.flatten.search import Search
from depthprune.recovery.flatten.stream import Stream

# Both layers' heads in one attention, which neither QK-norms nor unlike kinds of layer forbid.
MIXED = (
    "llama",
    "mistral",
    "gemma",
    "phi3",
    "opt",
    "gpt2",
    "bloom",
    "starcoder2",
    "granite",
    "phi",
    "gpt_neox",
)
ONE_LAYERS_HEADS = ("qwen2", "qwen3", "smollm3", "cohere2")
THROUGH_NORMS = ("gemma2", "gemma3_text", "glm4", "olmo2", "olmo3", "exaone4")
REFUSED = {
    "mixtral": "mixture",
    "gpt_oss": "mixture",
    "falcon": "has a bias",
    "stablelm": "has a bias",
}
BATCHES = [tiny_batch(batch_size=16, seed=seed) for seed in range(12)]


def making(model, a: int = 2, b: int = 3) -> Making:
    ends = {i: i for i in range(len(decoder_layers(model)))}
    ((_, fit),) = Stream(model, BATCHES[:9]).pairs(ends, {(a, b)})
    ((_, held_out),) = Stream(model, BATCHES[9:]).pairs(ends, {(a, b)})
    return Making(Pair(model, (a, b), fit, held_out), (1e-3, 1e-2, 1e-1))


def silent(model, i: int) -> None:
    """Makes layer i the identity."""
    layer = decoder_layers(model)[i]
    with torch.no_grad():
        for name in (*ATTENTION_OUTPUTS, *DOWN_PROJECTIONS, *(f"mlp.{end}" for end in DOWN_PROJECTIONS)):
            try:
                module = layer.get_submodule(name)
            except AttributeError:
                continue
            for parameter in module.parameters():
                parameter.zero_()


def stream(model, layer: int, batch):
    return record_layer_io(model, batch)[layer][1][batch["attention_mask"].bool()]


@pytest.mark.parametrize("gain", [0.3, 0.0], ids=["a-gain", "a-gain-of-nothing"])
def test_rows_of_the_layer_whose_norms_stay_keep_their_size(gain):
    model = tiny_model("llama", seed=1)
    silent(model, 3)
    first = decoder_layers(model)[2]
    with torch.no_grad():
        for norm in (first.input_layernorm, first.post_attention_layernorm):
            norm.weight.copy_(0.5 + torch.rand(norm.weight.shape))
            norm.weight[0] = gain
    ways = making(model)
    layer = ways.flatten(ways.pair.origins[0], ((1e-8,), (1e-8,))).layer
    for norm, reads in (("input_layernorm", "self_attn.q_proj"), ("post_attention_layernorm", "mlp.up_proj")):
        before, after = (one.get_submodule(norm).weight for one in (first, layer))
        assert torch.equal(after[1:], before[1:]) and after[0] == (gain or 1.0)
        weight, wanted = (one.get_submodule(reads).weight for one in (layer, first))
        apart = (weight[:, None, 1:] - wanted[None, :, 1:]).abs().amax(dim=-1)
        assert apart.min(dim=1).values.max() < 1e-6  # units may stand in another order
        assert bool((weight[:, 0] == 0).all()) == (gain == 0)


@pytest.mark.parametrize("family", MIXED)
@pytest.mark.parametrize("second", [True, False], ids=["second", "first"])
def test_a_layer_beside_one_that_does_nothing_is_reproduced(family, second):
    model = tiny_model(family, seed=1)
    silent(model, 3 if second else 2)
    wanted = stream(model, 3, BATCHES[0])
    ways = making(model)
    found = ways.flatten(ways.pair.origins[0], ((1e-8,), (1e-8,)))
    assert found.error < 1e-8
    decoder_layers(model)[2] = found.layer
    torch.testing.assert_close(stream(model, 2, BATCHES[0]), wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", [*MIXED, *ONE_LAYERS_HEADS])
def test_one_layer_fitted_to_two_is_nearer_than_either(family):
    model = tiny_model(family, seed=1)
    ways = making(model)
    pair = ways.pair
    assert pair.origins == (("both",) if family in MIXED else ("first", "second"))
    for heads in pair.origins:
        found = ways.flatten(heads)
        assert found.error < min(ways.cut(0).error, ways.cut(1).error)
        assert sum(found.channels) == len(pair.channels)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "falcon", "gemma3_text"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_map_of_what_one_writes_is_nearer_than_its_cut(family, place):
    ways = making(tiny_model(family, seed=1))
    mapped, cut = ways.map(place), ways.cut(place)
    assert mapped.error < cut.error
    changed = [
        name
        for (name, one), (_, other) in zip(
            mapped.layer.named_parameters(), cut.layer.named_parameters(), strict=True
        )
        if not torch.equal(one, other)
    ]
    norms = ["post_feedforward_layernorm.weight"] if family == "gemma3_text" else []
    branch = ways.pair.parts.mlp.writes
    assert changed in ([f"{branch}.weight", *norms], [f"{branch}.weight", f"{branch}.bias"])


@torch.no_grad()
def test_the_map_is_the_dense_solve():
    model, rho = tiny_model("llama", seed=1), 0.03
    layer, found = decoder_layers(model)[2], {}
    layer.self_attn.register_forward_hook(lambda _, __, out: found.update(attention=out[0]))
    layer.mlp.register_forward_hook(lambda _, __, out: found.update(mlp=out))
    gram = cross = 0.0
    for batch in BATCHES[:9]:
        layers, real = record_layer_io(model, batch), batch["attention_mask"].bool()
        behind = layers[2][0] + found["attention"]
        y, wanted, missing = (
            states[real].double() for states in (found["mlp"], layers[3][1], layers[3][1] - behind)
        )
        weighted = y / wanted.square().sum(dim=1, keepdim=True)
        gram, cross = gram + weighted.mT @ y, cross + weighted.mT @ missing
    penalty = rho * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    change = torch.linalg.solve(gram + penalty, cross + penalty)
    made = making(model).map(0, (rho,)).layer.mlp.down_proj.weight.double()
    wanted = change.mT @ layer.mlp.down_proj.weight.double()
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", THROUGH_NORMS)
def test_a_norm_after_the_sublayers_is_fitted_through(family):
    model = tiny_model(family, seed=1)
    ways = making(model)
    found = min(ways.flatten(heads).error for heads in ways.pair.origins)
    assert found < min(ways.cut(0).error, ways.cut(1).error)


@pytest.mark.parametrize("family", ["gemma3_text", "olmo2"])
def test_no_gain_makes_up_for_weights_of_nothing(family):
    model = tiny_model(family, seed=1)
    first, second = (decoder_layers(model)[i] for i in (2, 3))
    norms = ("post_attention_layernorm", "post_feedforward_layernorm")
    nothing = -1.0 if family == "gemma3_text" else 0.0  # Gemma holds a gain less 1
    with torch.no_grad():
        for name in norms:
            first.get_submodule(name).weight[:2] = nothing + torch.tensor([0.0, 1e-7])
            second.get_submodule(name).weight[:2] = nothing + 3.0
    ways = making(model)
    made = ways.flatten("first")
    assert made.error < min(ways.cut(0).error, ways.cut(1).error)
    before = gradients(model, 2)
    decoder_layers(model)[2] = made.layer
    for name in norms:
        assert (made.layer.get_submodule(name).weight - nothing).abs().max() < 30 * 3.0
    for name, gradient in gradients(model, 2).items():
        assert gradient < 100 * max(before.values()), name


def gradients(model, i: int) -> dict[str, float]:
    """The norm of the loss's gradient by each matrix of layer i."""
    layer = decoder_layers(model)[i].requires_grad_()
    inputs = BATCHES[0]["input_ids"]
    model(input_ids=inputs, labels=inputs).loss.backward()
    found = {
        name: float(parameter.grad.norm())
        for name, parameter in layer.named_parameters()
        if parameter.dim() > 1 and parameter.grad is not None
    }
    model.zero_grad()
    return found


@pytest.mark.parametrize("family", REFUSED)
def test_what_one_layer_cannot_say_is_refused(family):
    with pytest.raises(UserError, match=REFUSED[family]):
        making(tiny_model(family)).flatten("both")


@pytest.mark.parametrize("family", ["falcon", "stablelm"])
def test_where_two_cannot_be_mixed_one_is_refitted(family):
    model = tiny_model(family, seed=1)
    search = Search(model, Evidence(batches=BATCHES), 0.25, (0.1,))
    errors = search.errors(search.neighbours(set(range(6))))
    assert all(error < float("inf") for error in errors.values())
    step, _ = search.best([min(errors, key=errors.__getitem__)], set(range(6)))
    assert step.how in ("map", "refit", "cut")


def test_models_in_which_no_layers_can_be_one_are_refused_with_the_reason():
    search = Search(tiny_model("mixtral"), Evidence(batches=BATCHES), 0.25, (0.1,))
    assert set(search.errors(search.neighbours(set(range(6)))).values()) == {float("inf")}
    assert "its MLP is a mixture of experts" in str(search.refusal())


def test_the_loss_of_a_candidate_is_that_of_the_model_with_it():
    model = tiny_model(seed=1)
    search = Search(model, Evidence(batches=BATCHES), 0.25, (0.1,))
    step, layer = search.best([(2, 3)], {3})
    search.take(step, layer)
    assert step.loss == pytest.approx(mean_loss(model, search.held_out, [3]), rel=1e-5)
    search.undo()
    assert search.loss == pytest.approx(mean_loss(model, search.held_out)) and not search.removed
