"""What plan.json holds of a plan, and what of an older one."""

from depthprune.selection import Plan


def test_a_half_shifted_plan_comes_back_and_others_are_written_as_ever():
    plan = Plan(8, (3, 6, 7), mlp_from={2: 3, 5: 7})
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.to_json()["mlp_from"] == {"2": 3, "5": 7}
    whole = Plan(8, (3,)).to_json()
    assert "mlp_from" not in whole
    assert Plan.from_json(whole).mlp_from == {}
