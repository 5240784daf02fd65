"""What the studies of REPRO compute: the published table from the archive, ratios, and equal values of all the arms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dro_lab.config import check
from dro_lab.data.__main__ import compose
from experiments.repro_vs_outcome import study
from experiments.scoring_cost.arms import Arms
from experiments.scoring_cost.headline import BOUNDS, Bound
from experiments.scoring_cost.model import Shape, random_model
from experiments.scoring_cost.timing import paired

SEEDS = [0, 1, 2, 3, 4]


def test_every_job_composes_and_has_a_folder_of_its_own():
    jobs = study.jobs(Path("outputs/somewhere"), SEEDS)
    assert len({job.folder for job in jobs}) == len(jobs) == 5 * (5 + 4)
    for job in jobs[: len(jobs) // 5]:
        cfg = compose(job.overrides)
        check(cfg)
        assert (cfg.steps, cfg.dataset.name, cfg.tracking._target_.rpartition(".")[2]) == (40, "gsm8k", "NoTracker")


def test_the_published_table_follows_from_the_archived_runs(tmp_path):
    """No number of the page was typed: the archive alone gives all of it."""
    found = study.markdown(tmp_path, SEEDS)
    assert found == (study.HERE / "results.md").read_text()
    assert found.count("\n| + both (REPRO) |") == 2


@pytest.mark.parametrize(
    ("alone", "these", "shown"),
    [
        ([20.0] * 5, [10.0] * 5, "2.00 [2.00, 2.00]"),
        ([math.inf] * 5, [10.0] * 5, "verifier > last [verifier > last, verifier > last]"),
        ([10.0] * 5, [math.inf] * 5, "these > last [these > last, these > last]"),
        ([math.inf] * 5, [math.inf] * 5, "- [-, -]"),
    ],
)
def test_a_ratio_says_who_did_not_arrive(alone, these, shown):
    assert study.ratio(alone, these) == shown


# ------------------------------------------------------------------------------------------------ cost of scoring


def test_bounds_are_held_in_their_own_direction():
    assert Bound("a", "b", 1.6).holds(1.6)
    assert not Bound("a", "b", 1.6).holds(1.61)
    assert Bound("a", "b", 3.8, at_most=False).holds(3.8)
    assert not Bound("a", "b", 3.8, at_most=False).holds(3.79)
    wanted = {("R3", "floor"): 1.15, ("REPRO k=10", "plain"): 1.6, ("REPRO k=20", "plain"): 2.2}
    wanted |= {("per prefix k=10", "REPRO k=10"): 3.8, ("per prefix k=20", "REPRO k=20"): 5.0}
    wanted |= {("released k=10", "REPRO k=10"): 6.5, ("released k=20", "REPRO k=20"): 8.0}
    assert {(bound.numerator, bound.denominator): bound.limit for bound in BOUNDS} == wanted


def test_ratios_are_paired_by_round():
    found = paired([2.0, 40.0, 6.0], [1.0, 20.0, 3.0])  # the second round was slow for both
    assert (found.median, found.low, found.high, found.of_minima) == (2.0, 2.0, 2.0, 2.0)


def test_every_arm_runs_and_the_scorer_is_fed_the_distinct_tokens_alone():
    """Counted at the model's door: what is timed reads as many tokens as the prediction says."""
    torch.set_num_threads(1)
    shape = Shape(prompt=8, reasoning=24, reference=4, rollouts=2)
    model = random_model(shape.vocabulary, "cpu")
    arms = Arms.of(model, shape)
    fed = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(
            (kwargs.get("input_ids") if "input_ids" in kwargs else args[0]).numel()
        ),
        with_kwargs=True,
    )

    def tokens(arm):
        fed.clear()
        arm()
        return sum(fed)

    plain = tokens(arms.plain(2))
    assert plain == 2 * (8 + 24 + 3)  # nothing is predicted from the last token
    assert tokens(arms.released(3, 2)) >= 2 * 5 * (8 + 24 + 4) * 0.9  # k + 2 whole sequences a rollout
    scored = tokens(arms.shared(3))
    branches = 2 * (3 + 1) * 4
    assert 8 + 2 * 24 + branches <= scored <= 8 + 2 * (24 + 1) + branches + 4 + 2 * 3
    assert tokens(arms.per_prefix(3, 1)) > scored
