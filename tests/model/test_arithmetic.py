import pytest
import torch
from tiny import FAMILIES, tiny_config

from depthprune.model import arithmetic
from depthprune.model.anatomy import decoder_layers
from depthprune.model.arithmetic import Arithmetic, choose_arithmetic, layer_seconds, one_layer

BIG = 10**9


def test_small_models_compute_in_float32_and_nothing_is_tried():
    found = choose_arithmetic(tiny_config(), 10**6)
    assert (found.dtype, found.seconds) == ("float32", {})


@pytest.mark.parametrize("word", ["float32", "bfloat16"])
def test_the_users_word_stands_above_any_trial(word):
    found = choose_arithmetic(tiny_config(), BIG, word)
    assert (found.dtype, found.word, found.seconds) == (word, word, {})


def test_the_choice_follows_the_seconds():
    found = choose_arithmetic(tiny_config(), 2 * arithmetic.SMALLEST)
    ratio = found.seconds["bfloat16"] / found.seconds["float32"]
    assert found.dtype == ("bfloat16" if ratio <= arithmetic.WORTH_ROUNDING else "float32")


def test_what_would_not_fit_in_float32_stays_as_it_is_stored():
    found = choose_arithmetic(tiny_config(), int(arithmetic.free_memory()))
    assert (found.dtype, found.seconds) == ("bfloat16", {})


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_layer_of_every_family_can_be_tried(family):
    model = one_layer(tiny_config(family))
    whole = tiny_config(family)
    assert len(decoder_layers(model)) == 1
    assert model.config.get_text_config().hidden_size == whole.get_text_config().hidden_size
    assert set(layer_seconds(model)) == {"float32", "bfloat16"}


def test_trying_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    layer_seconds(one_layer(tiny_config()))
    assert torch.equal(torch.rand(4), expected)


def test_weights_are_widened_for_float32_alone():
    assert Arithmetic("float32", "").weights(torch.bfloat16) == torch.float32
    assert Arithmetic("bfloat16", "").weights(torch.float16) == torch.float16
    assert Arithmetic("bfloat16", "", word="bfloat16").weights(torch.float32) == torch.bfloat16
    assert Arithmetic(None, "an accelerator").weights() == "auto"
