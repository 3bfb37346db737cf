from depthprune.selection.close_calls import close_calls


def scores(*values, rounds=()):
    return {"scores": list(values), "rounds": list(rounds)}


def test_a_clear_choice_is_not_spoken_of():
    assert close_calls(scores(1.0, 2.0, 3.0), [0]) == []


def test_a_choice_within_rounding_names_both_layers():
    (said,) = close_calls(scores(3.0, 1.0, 1.003, 2.0), [1])
    assert "layers 1 and 2" in said


def test_protected_layers_were_no_choice():
    assert close_calls(scores(0.999, 1.0, 2.0), [1]) == []


def test_every_round_is_looked_at():
    rounds = [
        {"removed": [2], "scores": [5.0, 3.0, 1.0, 2.0]},
        {"removed": [3], "scores": [5.0, 2.001, None, 2.0]},
    ]
    (said,) = close_calls(scores(5.0, 3.0, 1.0, 2.0, rounds=rounds), [2, 3])
    assert "layers 3 and 1" in said


def test_blocks_are_compared_with_blocks():
    close = {**scores(1.0, 2.0), "windows": {"2": [0.5, 0.9, 0.5005]}}
    assert "block" in close_calls(close, [0, 1])[0]
    assert close_calls({**close, "windows": {"2": [0.5, 0.9]}}, [0, 1]) == []
    assert close_calls({**close, "windows": {"2": [0.5]}}, [0, 1]) == []
