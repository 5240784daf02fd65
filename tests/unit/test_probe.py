"""`python -m dro_lab.probe`: what it measures, writes, finds not computable, and refuses."""

from __future__ import annotations

import contextlib
import io
import json
import re

import matplotlib.image
import pytest

from dro_lab.probe import rollouts
from dro_lab.probe.__main__ import main
from dro_lab.probe.rollouts import partners
from dro_lab.probe.settings import REWARDS, read
from dro_lab.scoring.reference import ReferenceScorer
from tests.cli_fixture import save_policy

SMALL = ["threads=1", "evaluation.batch_size=32", "probe.bootstrap=50"]


def run(*arguments):
    """(status, what was printed)"""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main([*SMALL, *arguments])
    return status, out.getvalue()


# ------------------------------------------------------------------------------------------------ with a label

OWN = {
    "own": "def reward(groups, stats):\n    return Rewards(outcome_PG=stats.reference_logps_PGR.exp().mean(-1))\n",
    "broken": "def reward(groups, stats):\n    raise KeyError('no such column')\n",
}


@pytest.fixture(scope="module")
def own_rewards(tmp_path_factory):
    """A package of the user's with two rewards, found through hydra.searchpath."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "conf" / "reward").mkdir(parents=True)
    for name, body in OWN.items():
        (folder / f"probe_{name}.py").write_text(f"from dro_lab.types import Rewards\n\n{body}")
        (folder / "conf" / "reward" / f"{name}.yaml").write_text(f"_target_: probe_{name}.reward\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield f"hydra.searchpath=[file://{folder / 'conf'}]"


@pytest.fixture(scope="module")
def made(own_rewards, tmp_path_factory):
    """A probe of the twin with its shipped policy: (folder, what it printed, calls of the scorer)."""
    folder, calls, score = tmp_path_factory.mktemp("made") / "probe", [], ReferenceScorer.score

    def counted(self, model, prompts, *rest, **options):
        calls.append((len(prompts), options["masked"], options["prefixes"]))
        return score(self, model, prompts, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReferenceScorer, "score", counted)
        status, printed = run(
            "dataset=pararev",
            "dataset.sizes={train: 24, validation: 4, test: 4, ood: 4}",
            "reward=r3,avg_prob,verifier,r3_v1,repro,own,broken",
            own_rewards,
            "probe.rows=6",
            "probe.rollouts=8",
            "probe.floor=true",
            "gating=rubric",
            f"probe.out={folder}",
        )
    assert status == 0, printed
    return folder, printed, calls


@pytest.fixture(scope="module")
def found(made):
    return json.loads((made[0] / "probe.json").read_text())


def named(found, name):
    return next(reward for reward in found["rewards"] if reward["name"] == name)


def test_references_are_scored_once_for_all_rewards_and_once_for_the_floor(made):
    _, _, calls = made
    whole = [(masked, prefixes is not None) for prompts, masked, prefixes in calls if prompts == 6]
    assert whole == [(True, True), (True, True)]  # the union of what all rewards ask for
    assert all(prompts == rollouts.COST_ROWS for prompts, _, _ in calls if prompts != 6)  # the cost's timing


def test_r3_ranks_the_twins_rollouts_and_average_probability_does_not(found):
    r3, average = named(found, "r3"), named(found, "avg_prob")
    assert r3["rho"]["value"] > 0.7 > average["rho"]["value"]
    assert r3["rho"]["low"] <= r3["rho"]["value"] <= r3["rho"]["high"]
    assert r3["steps"] < average["steps"]
    assert r3["over_floor"]["value"] > average["over_floor"]["value"] > 0.5
    assert r3["rho_formula"] == pytest.approx(r3["rho"]["value"], abs=0.2)
    assert average["rho_formula"] == pytest.approx(average["rho"]["value"], abs=0.3)
    assert found["advice"]["reward"] == "r3"


def test_the_verifier_is_the_label_and_the_oracle(found):
    verifier = named(found, "verifier")
    assert verifier["is_label"]
    assert verifier["rho"]["value"] == pytest.approx(found["quality"]["oracle"])
    assert verifier["steps"] == pytest.approx(1.0)
    assert verifier["over_floor"] is None  # another query's reference does not change it
    assert found["quality"]["name"] == "facts_right"


def test_a_users_reward_takes_part_and_a_broken_one_says_why(found, made):
    assert named(found, "own")["rho"]["value"] == pytest.approx(named(found, "avg_prob")["rho"]["value"], abs=0.1)
    assert named(found, "own")["reason"] == ""
    broken = named(found, "broken")
    assert broken["reason"] == "KeyError: 'no such column'"
    assert broken["rho"] is None
    assert "broken: not computable here: KeyError: 'no such column'" in made[1]


def test_process_rewards_are_ranked_by_their_outcome_and_it_is_said(found):
    assert "ranked by its outcome alone" in named(found, "repro")["notes"][0]
    assert named(found, "repro")["rho"] == named(found, "verifier")["rho"]


def test_tokens_omegas_gate_filter_and_cost(found):
    tokens = found["tokens"]
    assert tokens["known"]
    assert tokens["sigma_r"] > 3 * tokens["sigma_n"]
    assert tokens["coherence"] > 2
    assert tokens["threshold_precision"] > 0.8
    assert all(0 < place < 1 for place in tokens["positions"])
    omegas = found["omegas"]
    assert [entry["omega"] for entry in omegas] == [0, 0.5, 1, 2, 4, 8, 16]
    effective = [entry["effective_tokens"] for entry in omegas]
    assert effective == sorted(effective, reverse=True)
    two = next(entry for entry in omegas if entry["omega"] == 2)
    assert two["rho"]["value"] == pytest.approx(named(found, "r3")["rho"]["value"])
    assert found["gate"] == "rubric"
    assert 0 <= named(found, "r3")["gate_rejected"] <= 1
    assert found["filter"]["name"] == "r3_variance"
    assert not found["filter"]["configured"]
    assert sum(found["filter"]["kept"]) == 4  # the lowest quarter of six goes: tau lies between the second and third
    cost = found["cost"]
    assert cost["sampling_seconds"] > 0
    assert cost["completion_tokens"] > 10_000
    assert named(found, "r3")["scoring_seconds"] > 0
    assert found["setting"]["commit"]
    assert len(found["queries"]) == 6


def test_the_page_is_whole_and_loads_nothing(made):
    page = (made[0] / "probe.html").read_text()
    assert "Train with r3" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
    assert " style=" not in page  # the page's policy would refuse it
    for name in ("rewards", "omega", "effective_tokens", "sigma_bar", "positions"):
        assert f'id="{name}-' in page
        assert matplotlib.image.imread(made[0] / "figures" / f"{name}.png").std() > 0.02
        assert (made[0] / "figures" / f"{name}.csv").read_text().count("\n") > 3
        assert (made[0] / "figures" / f"{name}.svg").exists()


def test_the_terminal_shows_one_table_and_the_advice(made):
    _, printed, _ = made
    assert printed.count("the rewards, the best first") == 1
    places = [
        printed.index(text) for text in ("sampling 48 rollouts", "scoring  their references", "judging  and ranking")
    ]
    assert places == sorted(places)
    assert max(places) < printed.index("the rewards, the best first")
    for name, said in (("rho", "correlation of group z-scores"), ("no signal", "groups whose rewards are all alike")):
        assert re.search(rf"^{name} +{said}", printed, re.MULTILINE), "the columns are explained"
    assert "90% bootstrap interval over queries" in printed
    assert "Train with r3" in printed
    assert f"page     {made[0] / 'probe.html'}" in printed


# ------------------------------------------------------------------------------------------------ without a label

EVIL = "<script>alert('x')</script> & the result is"


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A random policy on a user's file, whose texts are hostile: (folder, what it printed)."""
    root = tmp_path_factory.mktemp("unlabelled")
    policy = save_policy(root / "policy")
    rows = [{"prompt": f"Add {n} and 1.", "reference": f"{EVIL} {n + 1}.", "id": f"<b>{n}</b>"} for n in range(8)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, printed = run(
        f"model.path={policy}",
        "dataset=jsonl",
        f"dataset.source={root / 'rows.jsonl'}",
        "evaluation.split=train",
        "rollout.max_completion_length=12",
        "reward=r3,avg_prob,rouge,verifier",
        "reward.omega=1",
        "probe.rows=5",
        "probe.rollouts=4",
        f"probe.out={root / 'probe'}",
    )
    assert status == 0, printed
    return root / "probe", printed


def test_without_a_label_rewards_are_held_against_the_floor(unlabelled):
    found = json.loads((unlabelled[0] / "probe.json").read_text())
    assert found["quality"]["name"] == ""
    assert "surface similarity" in found["quality"]["note"]
    assert not found["tokens"]["known"]
    assert "guessed" in found["tokens"]["source"]
    r3 = named(found, "r3")
    assert (r3["omega"], r3["rho"]) == (1.0, None)
    average = named(found, "avg_prob")
    assert average["floor"] > 0
    assert average["over_floor"]["value"] == pytest.approx(average["spread"] / average["floor"], rel=1e-4)
    assert "which verifies nothing" in named(found, "verifier")["reason"]
    assert "verifier: not computable here" in unlabelled[1]


def test_model_and_data_text_on_the_page_is_escaped(unlabelled):
    page = (unlabelled[0] / "probe.html").read_text()
    assert "<script>alert" not in page
    assert page.count("<script>") == 1  # the page's own, and it is empty
    assert "&lt;b&gt;" in page


# ------------------------------------------------------------------------------------------------ parts


def test_partners_have_another_reference_of_like_length():
    found = partners(["aa", "bbbb", "aa", "ccc"], [2, 4, 2, 3])
    assert found == [3, 0, 3, 1]
    assert partners(["a", "a"], [1, 1]) == [None, None]


def test_the_command_line_is_told_apart():
    asked = read(["reward=r3, avg_prob,r3", "reward.omega=4", "probe.rows=8", "dataset=finqa", "probe.omegas=[0,2]"])
    assert asked.rewards == ("r3", "avg_prob")
    assert asked.reward_overrides == ("reward.omega=4",)
    assert asked.overrides == ("dataset=finqa",)
    assert (asked.settings.rows, asked.settings.omegas) == (8, (0, 2))
    assert read([]).rewards == REWARDS


BAD = [
    (["reward="], "the list of rewards is empty"),
    (["reward=r3,,avg_prob"], "no reward between the commas"),
    (["reward=nope,r3"], "nope: no such option"),
    (["reward=r3", "reward.omega=many"], "reward.omega=many: must be a number"),
    (["reward=r3,avg_prob", "reward.nonsense=1"], "reward.nonsense=1: none of the rewards r3, avg_prob has this key"),
    (["probe.rows=0"], "probe.rows=0: must be a whole number of at least 1"),
    (["probe.rollouts=1"], "probe.rollouts=1: must be a whole number of at least 2"),
    (["probe.omegas=[]"], "must be a list of numbers"),
    (["probe.omegas=[-1]"], "probe.omegas=-1"),
    (["probe.label=perhaps"], "probe.label=perhaps: must be one of auto, metric, judge, none"),
    (["probe.floor=maybe"], "probe.floor=maybe"),
    (["probe.nonsense=1"], "unknown key; the probe's keys are probe.rows"),
    (["probe.split=nowhere"], "probe.split=nowhere: dataset=pararev has no usable rows in it; it has train (8)"),
    (["probe.out="], "probe.out=: must be the path"),
    (["steps=3"], "steps=3: cannot be given here"),
    (["--fast"], "--fast: unknown option"),
    (["nonsense=1"], "nonsense"),
    (["judge.api_key=secret"], "a key must not stand in the configuration"),
    (["model.path=/nowhere/at/all"], "no such folder"),
    (["gating=rubric", "judge=none"], "judge=none"),
]


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_bad_input_is_one_message_and_nothing_is_written(tmp_path, capsys, overrides, words):
    sizes = "dataset.sizes={train: 8, validation: 4, test: 2, ood: 2}"
    assert main([*SMALL, sizes, f"outputs={tmp_path}", *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
    assert "secret" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_before_anything_is_sampled(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rollouts, "sampling_trainer", None)
    (tmp_path / "kept.txt").write_text("mine")
    assert main([*SMALL, f"probe.out={tmp_path}"]) == 2
    assert "is there already, and nothing is overwritten" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


def test_an_interrupted_probe_writes_nothing(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dro_lab.probe.command.sample_and_score", interrupt)
    assert main([*SMALL, "dataset.sizes={train: 8, validation: 4, test: 2, ood: 2}", f"outputs={tmp_path}"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help(capsys):
    assert main(["--help"]) == 0
    assert "probe.rollouts=16" in capsys.readouterr().out
