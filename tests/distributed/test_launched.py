"""What a user meets who starts several processes: one line, once, and one end."""

from launching import call, lab, together

from depthprune.distributed.rows import EvenSampler, WithBlanks


def test_rows_that_processes_cannot_share_are_refused_once(tmp_path):
    settings = {"importance.per_device_train_batch_size": 3}
    ended = together(call(lab(tmp_path), "gradpruner", "out", settings))
    said = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode and len(said) == 1 and "importance takes 3 rows" in said[0]
    assert ended.stderr.count("exitcode  : 2") == 2 and "exitcode  : 1" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_blanks_stand_behind_the_rows_and_are_not_learned():
    rows = WithBlanks([{"input_ids": [5, 6, 7], "name": "first"}, {"input_ids": [8], "name": "second"}])
    order = EvenSampler([1, 0], 4)
    assert list(order) == [1, 0, 2, 2] and len(order) == 4
    assert [rows[place] for place in order][2:] == [None, None]
