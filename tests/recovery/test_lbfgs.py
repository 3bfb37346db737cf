import torch

from depthprune.recovery.lbfgs import minimise


def rosenbrock(x):
    y = x.clone().requires_grad_()
    value = ((1 - y[:-1]).square() + 100 * (y[1:] - y[:-1].square()).square()).sum()
    value.backward()
    return float(value.detach()), y.grad


def test_a_curved_valley_is_followed_to_its_end():
    start = torch.tensor([-1.2, 1.0, -0.5, 0.8], dtype=torch.float64)
    torch.testing.assert_close(minimise(rosenbrock, [start], 500, 1e-12), torch.ones(4, dtype=torch.float64))


def test_the_better_start_is_taken_and_nothing_above_it_returned():
    far, near = torch.full((3,), 5.0, dtype=torch.float64), torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    values = [rosenbrock(minimise(rosenbrock, [far, near], steps, 0.0))[0] for steps in range(6)]
    assert values[0] == rosenbrock(near)[0]
    assert values == sorted(values, reverse=True)


def test_a_minimum_is_left_as_it_is():
    ones = torch.ones(3, dtype=torch.float64)
    assert torch.equal(minimise(rosenbrock, [ones], 10, 1e-5), ones)


def test_where_the_function_is_not_defined_the_step_is_shortened():
    def objective(x):
        y = x.clone().requires_grad_()
        value = (y - y.log() - 1).sum()
        value.backward()
        return float(value.detach()), y.grad

    found = minimise(objective, [torch.tensor([0.01, 30.0], dtype=torch.float64)], 200, 1e-14)
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-5)
