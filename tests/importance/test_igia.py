import pytest
import torch
from safetensors.torch import load_file
from scoring_run import learning_rates, naive_gradients, naive_matrices, record, rows
from tiny import tiny_model
from transformers import TrainerCallback

from depthprune.errors import UserError
from depthprune.importance.factors import mean_squared_gradient
from depthprune.importance.igia import Igia

LAYERS = 4


def adapters_of(first, names=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")):
    """{path in the base model: (A, B)} from the names of a PeftModel's parameters."""
    found = {}
    for name, weight in first.items():
        if "lora_A" in name:
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
            assert path.rpartition(".")[2] in names
            found[path] = (weight, first[name.replace("lora_A", "lora_B")])
    return found


def layer_sums(values):
    """{path: number} → [L]."""
    sums = torch.zeros(LAYERS, dtype=torch.float64)
    for path, value in values.items():
        sums[int(path.split(".")[2])] += value
    return sums


@pytest.mark.parametrize(
    "settings, changes",
    [
        ({}, {}),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, {}),
        ({"gradient_checkpointing": True}, {}),
        ({}, {"tie_word_embeddings": True}),
    ],
    ids=["plain", "accumulation", "checkpointing", "tied"],
)
def test_scores_and_matrices_equal_those_of_a_hand_written_training_loop(tmp_path, settings, changes):
    recorder, _, first = record(tiny_model(layers=LAYERS, **changes), tmp_path, **settings)
    plain = tiny_model(layers=LAYERS, **changes)
    gradients = naive_gradients(plain, adapters_of(first), learning_rates(20)[:5])
    naive = naive_matrices(gradients)
    assert recorder.scored == set(naive) and len(naive) == 7 * LAYERS
    for path, matrix in naive.items():
        found = mean_squared_gradient(tmp_path / "gradients", path)
        torch.testing.assert_close(found.double(), matrix, rtol=1e-2, atol=1e-4 * float(matrix.max()))
    expected = layer_sums({path: matrix.sum() for path, matrix in naive.items()})
    torch.testing.assert_close(recorder.scores().double(), expected, rtol=1e-4, atol=0)


def test_scores_equal_the_sum_of_the_rebuilt_matrices(tmp_path):
    recorder, _, _ = record(tiny_model(layers=LAYERS), tmp_path, data=rows(30), num_train_epochs=1)
    rebuilt = {
        path: mean_squared_gradient(tmp_path / "gradients", path).double().sum() for path in recorder.scored
    }
    scores = recorder.scores()
    assert scores.dtype == torch.float32 and scores.shape == (LAYERS,) and (scores > 0).all()
    torch.testing.assert_close(scores.double(), layer_sums(rebuilt), rtol=1e-5, atol=0)


def test_frobenius_sums_norms_over_linears_and_steps(tmp_path):
    recorder, _, _ = record(tiny_model(layers=LAYERS), tmp_path, norm="frobenius")
    naive = torch.zeros(LAYERS, dtype=torch.float64)
    for file in sorted((tmp_path / "gradients").iterdir()):
        step = load_file(file)
        for path in recorder.scored:
            product = step[f"{path}.lora_B"].double() @ step[f"{path}.lora_A"].double()
            naive += layer_sums({path: product.norm() / 5})
    torch.testing.assert_close(recorder.scores().double(), naive, rtol=1e-5, atol=0)


def test_bf16_autocast_gives_nearly_the_same_scores(tmp_path):
    exact, _, _ = record(tiny_model(layers=LAYERS), tmp_path / "fp32")
    autocast, _, _ = record(tiny_model(layers=LAYERS), tmp_path / "bf16", bf16=True)
    assert not torch.equal(exact.scores(), autocast.scores())
    torch.testing.assert_close(autocast.scores(), exact.scores(), rtol=0.2, atol=0)


def test_the_first_two_products_are_zero_and_count_in_t(tmp_path):
    recorder, _, _ = record(tiny_model(layers=LAYERS), tmp_path)
    course = torch.stack(recorder.course)
    assert course.shape == (5, LAYERS)
    assert not course[:2].any() and (course[2:] > 0).all()
    torch.testing.assert_close(recorder.scores().double(), course.sum(dim=0) / 5, rtol=1e-6, atol=0)


class LearningRates(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.seen.append(optimizer.param_groups[0]["lr"])


def test_the_run_stops_after_t_steps_with_the_schedule_of_the_full_run(tmp_path):
    rates = LearningRates()
    recorder, trainer, _ = record(tiny_model(layers=LAYERS), tmp_path, callbacks=[rates], steps=6)
    assert trainer.state.global_step == len(recorder.course) == 6
    assert trainer.state.max_steps == 20
    assert rates.seen == pytest.approx(learning_rates(20)[:6])


def test_max_steps_sets_the_schedule(tmp_path):
    rates = LearningRates()
    _, trainer, _ = record(tiny_model(layers=LAYERS), tmp_path, callbacks=[rates], steps=4, max_steps=50)
    assert trainer.state.global_step == 4
    assert rates.seen == pytest.approx(learning_rates(50)[:4])


def test_t_is_cut_to_the_steps_of_the_data_and_said(tmp_path, caplog):
    recorder, _, _ = record(tiny_model(layers=LAYERS), tmp_path, steps=40, num_train_epochs=4)
    assert len(recorder.course) == 4
    assert "scoring ends after 4 steps, all that the data gives (40 asked)" in caplog.text


def test_fewer_than_three_steps_are_refused(tmp_path):
    with pytest.raises(UserError, match="gives 2 scoring steps, igia needs at least 3: add rows") as refusal:
        record(tiny_model(layers=LAYERS), tmp_path, num_train_epochs=2)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="greater than or equal to 3"):
        Igia(steps=2)


def test_a_damaged_weight_is_named(tmp_path):
    model = tiny_model(layers=LAYERS)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 5] = float("nan")
    with pytest.raises(UserError, match=r"^model\.layers\.2\.mlp\.up_proj\.weight holds values that are not"):
        record(model, tmp_path)


def test_gradients_that_overflow_are_refused_with_their_step(tmp_path):
    with pytest.raises(UserError, match=r"not finite at scoring step \d: lower importance.learning_rate"):
        record(tiny_model(layers=LAYERS), tmp_path, learning_rate=1e30)


def test_scores_that_are_all_zero_are_refused(tmp_path):
    model = tiny_model(layers=LAYERS)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # the loss does not depend on the layers
    recorder, _, _ = record(model, tmp_path)
    with pytest.raises(UserError, match="every layer's score is zero"):
        recorder.scores()


def test_the_spool_has_a_file_a_step_with_the_keys_of_the_contract(tmp_path):
    recorder, _, _ = record(tiny_model(layers=LAYERS), tmp_path)
    files = sorted((tmp_path / "gradients").iterdir())
    assert [file.name for file in files] == [f"step-{i:05d}.safetensors" for i in range(5)]
    step = load_file(files[-1])
    base = tiny_model(layers=LAYERS)
    expected = {}
    for path in recorder.scored:
        d_out, d_in = base.get_submodule(path).weight.shape
        expected |= {f"{path}.lora_A": (3, d_in), f"{path}.lora_B": (d_out, 3)}
    assert "model.layers.0.self_attn.q_proj.lora_A" in expected
    assert {name: tuple(tensor.shape) for name, tensor in step.items()} == expected
    assert {tensor.dtype for tensor in step.values()} == {torch.float32}


def test_without_a_spool_the_scores_are_the_same_and_nothing_is_written(tmp_path):
    spooled, _, _ = record(tiny_model(layers=LAYERS), tmp_path / "spooled")
    bare, _, _ = record(tiny_model(layers=LAYERS), tmp_path / "bare", spools=False)
    assert bare.scores().equal(spooled.scores())
    assert not list((tmp_path / "bare" / "gradients").iterdir())


def test_the_defaults_are_those_of_the_authors_scripts():
    igia = Igia()
    assert (igia.steps, igia.num_train_epochs, igia.per_device_train_batch_size) == (40, 1, 4)
    assert (igia.lora_r, igia.lora_alpha, igia.lora_dropout, igia.learning_rate) == (8, 32, 0.05, 1e-4)
    assert (igia.lr_scheduler_type, igia.warmup_steps, igia.weight_decay) == ("cosine", 0.03, 0.1)
    assert (igia.max_length, igia.norm) == (2048, "squared")
