"""The search over pairs: what it keeps between steps, and what a killed one goes on from."""

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import record_layer_io
from depthprune.model.skip import skipped
from depthprune.recovery.base import Evidence, Taken
from depthprune.recovery.flatten.flatten import Flatten
from depthprune.recovery.flatten.search import Search
from depthprune.selection import ByRecovery, Sizes

BATCHES = [tiny_batch(batch_size=8, seed=seed) for seed in range(8)]
FAMILIES = ("llama", "gemma3_text")


def search_of(model) -> Search:
    return Search(model, Evidence(batches=BATCHES), 0.25, (0.01, 0.1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_tried_before_is_judged_as_if_it_were_fitted_again(family):
    model = tiny_model(family, seed=1)
    search, everything = search_of(model), set(range(len(decoder_layers(model))))
    late = search.best([(3, 4)], {4})
    search.best([(0, 1), (3, 4)], everything)
    search.take(*late)
    assert (0, 1) in search._tried and (3, 4) not in search._tried
    again, layer = search.best([(0, 1)], everything)
    search._tried.clear()
    naive, other = search.best([(0, 1)], everything)
    assert again == naive
    pairs = zip(layer.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(one.equal(two) for one, two in pairs)


def test_what_stands_behind_a_step_is_fitted_again():
    model = tiny_model(seed=1)
    search, everything = search_of(model), set(range(len(decoder_layers(model))))
    search.best([(3, 4)], everything)
    search.take(*search.best([(0, 1)], everything))
    assert (3, 4) not in search._tried


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_choice_goes_on_with_the_next_step(family):
    model = tiny_model(family, seed=1)
    depth = len(decoder_layers(model))
    sizes, selection = Sizes(100, [10] * depth), ByRecovery(num_removed=3, ratio=None)
    recovery, kept = Flatten(rho=(0.01, 0.1), tried=2), []

    def choose(taken: Taken):
        return recovery.choose(model, Evidence(batches=BATCHES, taken=taken), selection, sizes)

    whole = choose(Taken())

    def killed(steps, said):
        kept[:] = list(steps)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose(Taken(keep=killed))
    said = []
    assert choose(Taken(kept, lambda steps, words: said.append(words))) == whole
    assert len(said) == 1


def test_of_fits_through_norms_the_best_is_refined():
    model = tiny_model("gemma3_text", seed=1)
    search = search_of(model)
    search.best([(2, 3)], {3})
    steps = [step for step, _ in search._tried[2, 3]]
    (refined,) = [step for step in steps if step.refined]
    fitted = [step for step in steps if step.how != "cut" and not step.refined]
    assert (refined.how, refined.heads, refined.rho) == min(
        ((step.error, (step.how, step.heads, step.rho)) for step in fitted), key=lambda one: one[0]
    )[1]


def test_a_layer_is_fitted_to_what_the_whole_model_gives_there():
    model = tiny_model("llama", seed=2)
    whole = [record_layer_io(model, batch) for batch in BATCHES]
    search = Search(model, Evidence(batches=BATCHES), 0.25, (0.1,))
    cut = min(
        (one for one in search._candidates(*making_of(search, (1, 2))) if one[0].how == "cut"),
        key=lambda one: one[0].kept,
    )
    search.take(*cut)
    assert (cut[0].kept, cut[0].removed) == (1, 2)
    with skipped(model, [2]):
        now = record_layer_io(model, BATCHES[0])
    for pair, end in (((0, 1), 2), ((1, 3), 3)):
        making, _ = making_of(search, pair)
        state, real = making.pair.fit[0], BATCHES[0]["attention_mask"].bool()
        torch.testing.assert_close(state.after[real], whole[0][end][1][real], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.before[real], now[pair[0]][0][real], rtol=1e-4, atol=1e-5)
    making, removable = making_of(search, (3, 4))
    assert making.pair.drift > 0
    assert search.errors({(3, 4)})[3, 4] < min(made.error for made, _ in search._ways(making, removable))


def making_of(search, pair):
    (making,) = search.makings({pair})
    return making, {*pair}
