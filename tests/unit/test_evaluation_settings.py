"""The `evaluation` group: what is refused, the names of what is measured, and objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dro_lab.errors import UserError
from dro_lab.evaluation.settings import (
    EvaluationSettings,
    check_objective,
    evaluation_settings,
    full_name,
    names_of,
    parts_of,
    present_splits,
)

DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "conf/evaluation/default.yaml").read_text())


def settings(**changes: Any) -> EvaluationSettings:
    """The defaults with ``changes``."""
    return evaluation_settings({**DEFAULTS, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"also": "ood"}, "evaluation.also=ood: must be a list"),
        ({"also": ["dev"]}, "evaluation.also=dev: must be one of validation, test, train, ood"),
        ({"also": ["validation"]}, "must name each split once, and not evaluation.split=validation"),
        ({"also": ["ood", "ood"]}, "must name each split once"),
        ({"greedy": "yes"}, "evaluation.greedy=yes: must be true or false"),
        ({"extras": "never"}, "evaluation.extras=never: must be one of ends, every"),
        ({"pairs": "some"}, "evaluation.pairs=some: must be one of auto, all, matched"),
        ({"pass_at": 4}, "evaluation.pass_at=4: must be a list"),
        ({"pass_at": [8]}, r"evaluation.pass_at=8: must be a whole number in \[1, 4\]; .*evaluation.samples"),
        ({"pass_at": [0]}, "evaluation.pass_at=0"),
        ({"pass_quality": 1.5}, r"evaluation.pass_quality=1.5: must be a number in \[0, 1\]"),
        ({"corpus_bootstrap": 0}, "evaluation.corpus_bootstrap=0"),
        ({"also": None}, "evaluation.also is not set"),
        ({"certain": 1}, "evaluation.certain=1: must lie strictly between 0 and 1"),
        ({"certain": 0.0}, "evaluation.certain=0.0: must lie strictly between 0 and 1"),
        ({"certain": 1.2}, r"evaluation.certain=1.2: must be a number in \[0, 1\]"),
        ({"certain": "very"}, "evaluation.certain=very: must be a number"),
        ({"certain_points": 0}, "evaluation.certain_points=0: must be a whole number of at least 1"),
        ({"certainty": "always"}, "evaluation.certainty=always: must be auto, true or false; .*scores prefixes"),
        ({"kl": "always"}, "evaluation.kl=always: must be auto, true or false"),
        ({"certainty": 1}, "evaluation.certainty=1: must be auto, true or false"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        settings(**changes)


def test_the_ks_are_powers_of_two_up_to_the_samples_unless_named():
    assert settings(samples=4).pass_at == (1, 2, 4)
    assert settings(samples=6).pass_at == (1, 2, 4)
    assert settings(samples=1).pass_at == (1,)
    assert settings(samples=6, pass_at=[6, 1, 6]).pass_at == (6, 1)


def test_the_plain_name_is_that_of_sampled_answers_on_the_runs_own_split():
    assert full_name("quality", split="test", decoding="sampled", main="test") == "quality"
    assert full_name("quality", split="test", decoding="greedy", main="test") == "quality/greedy"
    assert full_name("quality", split="ood", decoding="sampled", main="test") == "quality/ood"
    assert full_name("quality", split="ood", decoding="greedy", main="test") == "quality/ood/greedy"


def test_the_headline_part_comes_first():
    assert parts_of(settings()) == (
        ("validation", "sampled"),
        ("validation", "greedy"),
        ("ood", "sampled"),
        ("ood", "greedy"),
    )
    assert parts_of(settings(greedy=False, also=[])) == (("validation", "sampled"),)


def test_a_further_split_without_rows_is_left_out_and_said():
    found, notes = present_splits(settings(also=["ood", "test"]), {"validation": [1], "test": [2], "ood": []})
    assert found.also == ("test",)
    assert notes == ("evaluation.also=ood: this data set has no rows there, so it is not evaluated there",)
    assert present_splits(settings(), {"ood": [1]}) == (settings(), ())


@pytest.mark.parametrize(
    "objective",
    [
        "quality",
        "quality/greedy",
        "win_rate/ood/greedy",
        "pass@4",
        "pass@1/ood",
        "macro_f1/ood",
        "reward",
        "segments/ood",
    ],
)
def test_an_objective_is_any_name_that_an_evaluation_measures(objective):
    known = names_of(settings(), ("macro_f1",))
    assert objective in known
    check_objective(objective, steps=1, settings=settings())
    check_objective(objective, steps=1, settings=settings(), figures=("macro_f1",))


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        ("pass@8", {}, "objective=pass@8: must be one of quality, reward, win_rate, .*pass@4"),
        ("reward/greedy", {}, "objective=reward/greedy"),
        ("quality/ood", {"also": []}, "objective=quality/ood"),
        ("quality/greedy", {"greedy": False}, "objective=quality/greedy"),
        ("quality/greed", {}, "METRIC/greedy, METRIC/ood, METRIC/ood/greedy"),
    ],
)
def test_an_objective_that_no_evaluation_has_is_refused_at_once(objective, changes, words):
    with pytest.raises(UserError, match=words):
        check_objective(objective, steps=1, settings=settings(**changes))


@pytest.mark.parametrize("objective", ["certain_at", "certain_share"])
def test_certainty_is_an_objective_only_where_it_is_measured(objective):
    check_objective(objective, steps=1, settings=settings())
    check_objective(objective, steps=1, settings=settings(), figures=(), prefixes=True)
    check_objective(objective, steps=1, settings=settings(certainty=True), figures=(), prefixes=False)
    with pytest.raises(UserError, match=f"objective={objective} with evaluation.certainty=auto, and no component"):
        check_objective(objective, steps=1, settings=settings(), figures=(), prefixes=False)
    with pytest.raises(
        UserError, match=r"evaluation.certainty=false: it is not measured; set evaluation.certainty=true"
    ):
        check_objective(objective, steps=1, settings=settings(certainty=False), prefixes=True)
    with pytest.raises(UserError, match=f"objective={objective}/ood"):
        check_objective(f"{objective}/ood", steps=1, settings=settings(certainty=True))


def test_a_name_that_may_be_the_data_sets_is_refused_once_its_figures_are_known():
    check_objective("macro_f1", steps=1, settings=settings())
    with pytest.raises(UserError, match="objective=macro_f1: must be one of quality"):
        check_objective("macro_f1", steps=1, settings=settings(), figures=())


def test_what_needs_two_policies_or_two_answers_is_refused_without():
    with pytest.raises(UserError, match="objective=win_rate/greedy with steps=0"):
        check_objective("win_rate/greedy", steps=0, settings=settings())
    with pytest.raises(UserError, match=r"evaluation.samples to at least 2"):
        check_objective("reflective_share", steps=1, settings=settings(samples=1))


def test_kl_is_an_objective_only_where_it_is_surely_measured():
    check_objective("kl", steps=1, settings=settings(kl=True), figures=())
    for value in ("auto", False):
        with pytest.raises(UserError, match=r"evaluation.kl=\w+: it may not be measured; set evaluation.kl=true"):
            check_objective("kl", steps=1, settings=settings(kl=value), figures=())
