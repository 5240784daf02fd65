"""`python -m dro_lab.prefilter`: what it measures, chooses, writes, finds again and refuses."""

from __future__ import annotations

import itertools
import json

import matplotlib.image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.build import build
from dro_lab.data.__main__ import compose
from dro_lab.prefilter import measure
from dro_lab.prefilter.__main__ import _compose, main
from dro_lab.prefilter.choose import choose
from dro_lab.prefilter.file import read
from tests.cli_fixture import run_main, save_policy, small_run

# ------------------------------------------------------------------------------------------------ the choice


def test_the_largest_are_kept_and_a_share_of_the_rest_is_drawn():
    why = choose([0.1, 0.5, 0.3, 0.2, 0.4, 0.0, 0.05, 0.06, 0.07, 0.08], keep_share=0.3, rest_share=0.25, seed=0)
    assert [place for place, reason in enumerate(why) if reason == "top"] == [1, 2, 4]
    assert why.count("rest") == 2  # a quarter of seven, rounded up
    assert why.count(None) == 5


def test_the_published_shares_retain_nineteen_of_a_hundred():
    why = choose([n / 100 for n in range(100)])
    assert (why.count("top"), why.count("rest")) == (10, 9)


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=60), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 9))
def test_no_kept_row_of_the_top_varies_less_than_one_that_is_not(sigmas, keep, rest, seed):
    why = choose(sigmas, keep_share=keep, rest_share=rest, seed=seed)
    top = [sigma for sigma, reason in zip(sigmas, why, strict=True) if reason == "top"]
    others = [sigma for sigma, reason in zip(sigmas, why, strict=True) if reason != "top"]
    assert min(top) >= max(others, default=0)
    assert why == choose(sigmas, keep_share=keep, rest_share=rest, seed=seed)


def test_the_seed_draws_the_rest_and_every_row_can_be_drawn():
    drawn = {place for seed in range(60) for place, why in enumerate(choose([0.0] * 9, seed=seed)) if why == "rest"}
    assert drawn == set(range(1, 9))  # the first of the equal rows is the top


def test_whole_shares_and_none():
    assert choose([0.1, 0.2], keep_share=1.0, rest_share=0.0) == ["top", "top"]
    assert choose([0.1, 0.2, 0.3], keep_share=0.1, rest_share=0.0) == [None, None, "top"]
    assert choose([0.1, 0.2], keep_share=0.1, rest_share=1.0) == ["rest", "top"]


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


def arguments(policy, *overrides):
    given = {override.split("=")[0] for override in overrides}
    base = [
        f"model.path={policy}",
        "dataset=pararev",
        "dataset.sizes={train: 8, validation: 4, test: 2, ood: 2}",
        "threads=1",
        "rollout.max_completion_length=8",
        "evaluation.batch_size=8",
        "rollouts=4",
        "keep_share=0.25",
        "rest_share=0.3",
    ]
    return [*(argument for argument in base if argument.split("=")[0] not in given), *overrides]


@pytest.fixture(scope="module")
def made(policy, tmp_path_factory):
    """A file of the command, made once."""
    file = tmp_path_factory.mktemp("made") / "kept.jsonl"
    assert main(arguments(policy, f"out={file}")) == 0
    return file


@pytest.fixture
def no_sampling(monkeypatch):
    def fail(*_):
        raise AssertionError("sampled again")

    monkeypatch.setattr(measure, "measured", fail)


def test_the_file_says_how_it_was_made_and_lists_every_training_row(made):
    header, rows = read(made, key="out")
    assert header["provenance"]["dataset"] == "pararev"
    assert header["policy"]["files"]["model.safetensors"]
    assert header["settings"]["rollouts"] == 4
    assert header["settings"]["rollout"]["max_completion_length"] == 8
    assert header["settings"]["sigma"]["clip_low"] == 0.05
    assert (header["seed"], header["rows"], header["kept"]) == (0, 8, 4)
    assert {"commit", "dirty", "command", "hash", "sampling_hash", "seconds"} <= set(header)
    assert len({row.id for row in rows}) == 8
    assert [row.why for row in rows].count("top") == 2
    assert [row.why for row in rows].count("rest") == 2
    assert len({row.sigma_bar for row in rows}) > 4
    top = [row.sigma_bar for row in rows if row.why == "top"]
    assert min(top) >= max(row.sigma_bar for row in rows if row.why != "top")
    assert all(row.kept == (row.why is not None) for row in rows)


def test_a_picture_lies_beside_it(made):
    picture = matplotlib.image.imread(made.with_suffix(".png"))
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05


def test_the_same_command_again_samples_nothing_and_says_so(policy, made, no_sampling, capsys):
    before = made.read_bytes()
    assert main(arguments(policy, f"out={made}")) == 0
    printed = capsys.readouterr().out
    assert "nothing was sampled" in printed
    assert "kept     4 of 8 rows: effective retention 50.0%" in printed
    assert made.read_bytes() == before


def test_the_measurements_do_not_depend_on_the_run_before(policy, made, tmp_path):
    assert main(arguments(policy, f"out={tmp_path / 'again.jsonl'}")) == 0
    assert read(tmp_path / "again.jsonl", key="out")[1] == read(made, key="out")[1]


def test_other_shares_of_what_was_sampled_need_no_new_samples(policy, made, no_sampling, capsys):
    other = made.with_name("other.jsonl")
    assert main(arguments(policy, f"out={other}", "keep_share=0.5", "rest_share=0")) == 0
    assert "only the shares differ" in capsys.readouterr().out
    rows, first = read(other, key="out")[1], read(made, key="out")[1]
    assert [row.sigma_bar for row in rows] == [row.sigma_bar for row in first]
    assert [row.why for row in rows].count("top") == 4
    assert [row.why for row in rows].count("rest") == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollouts=3", "rollouts 4 there, 3 now"),
        ("keep_share=0.5", "keep_share 0.25 there, 0.5 now"),
        ("rollout.temperature=0.7", "rollout"),
        ("reward.clip_low=0.1", "sigma"),
        ("seed=1", "seed 0 there, 1 now"),
        ("dataset.answer_marker=Answer:", "answer_marker  there, Answer: now"),
        ("dataset.sizes={train: 6, validation: 4, test: 2, ood: 2}", "its data or its policy differ"),
    ],
)
def test_a_file_made_otherwise_is_never_overwritten(policy, made, no_sampling, capsys, override, words):
    before = made.read_bytes()
    assert main(arguments(policy, f"out={made}", override)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: out={made}: holds a prefilter made otherwise")
    assert words in error
    assert made.read_bytes() == before


def test_without_out_the_name_follows_the_content(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "measured", lambda built, settings: iter([[(0.1, 0.0)] * 8]))
    for share in ("keep_share=0.25", "keep_share=0.5"):
        assert main(arguments(policy, f"outputs={tmp_path}", share)) == 0
    files = sorted((tmp_path / "prefilter").glob("*.jsonl"))
    assert len(files) == 2
    assert all(file.name.startswith("pararev_") for file in files)


def test_nothing_is_written_when_sampling_is_interrupted(policy, tmp_path, monkeypatch, capsys):
    def interrupted(built, settings):
        yield [(0.1, 0.0)] * 2
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measured", interrupted)
    assert main(arguments(policy, f"out={tmp_path / 'kept.jsonl'}")) == 130
    assert list(tmp_path.iterdir()) == []
    assert "nothing was written" in capsys.readouterr().err


def test_sigma_bar_is_that_of_the_filter_on_the_same_rollouts(policy, tmp_path):
    """What `measured` yields against the filter's own metric on the batch that it scored."""
    from dro_lab.components import component
    from dro_lab.prefilter.settings import Choice, sampling_settings
    from dro_lab.training.rollouts import RolloutScorer

    overrides = [o for o in arguments(policy) if o.split("=")[0] not in ("rollouts", "keep_share", "rest_share")]
    cfg = compose(["filtering=r3_variance", "tracking=none", "steps=0", "judge=none", *overrides])
    built = build(cfg, {}, tmp_path)
    plain = {key: _plain(cfg[key]) for key in ("algorithm", "filtering", "rollout", "evaluation")} | {"seed": 0}
    settings = sampling_settings(plain, Choice(rollouts=4))
    steps, score = [], RolloutScorer.score
    part = component("filtering", _own(cfg.filtering), name="r3_variance")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutScorer, "score", lambda *a, **k: steps.append(score(*a, **k)) or steps[-1])
        batches = list(measure.measured(built, settings))
    assert [len(batch) for batch in batches] == [2, 2, 2, 2]
    for step, batch in zip(steps, batches, strict=True):
        scored = step.scored
        result, _ = part.remember(scored.groups, scored.stats, scored.sampled, state=None)
        assert result.metrics["sigma_bar"] == pytest.approx(sum(sigma for sigma, _ in batch) / len(batch))
    texts = list(itertools.chain.from_iterable(step.scored.groups.completions_PG[0] for step in steps))
    assert len(set(texts)) > 8  # batches draw differently


def _plain(node):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def _own(node):
    from dro_lab.build import without_refill

    return without_refill(node)


# ------------------------------------------------------------------------------------------------ training on it


def test_a_run_trains_on_the_kept_rows_alone_and_says_so(policy, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = run_main(
        small_run(
            policy,
            ["filtering=static", f"filtering.file={made}", "rollout.max_completion_length=8", "reward=avg_prob"],
        )
    )
    assert ended.code == 0, ended.text
    assert "filtering=static trains on 4 of 8 rows (50.0%)" in ended.out
    import pandas as pd

    kept = {row.id for row in read(made, key="out")[1] if row.kept}
    trained = set(pd.read_parquet(tmp_path / "run" / "rollouts.parquet")["prompt_id"])
    assert trained
    assert trained <= kept
    notes = json.loads((tmp_path / "run" / "summary.json").read_text())["notes"]
    assert any("filtering=static trains on 4 of 8 rows" in note for note in notes)


# ------------------------------------------------------------------------------------------------ bad input

BAD = [
    (["rollouts=1"], "rollouts=1: must be a whole number of at least 2"),
    (["rollouts=many"], "rollouts=many: must be a whole number"),
    (["keep_share=0"], "keep_share=0: must be a share above 0 and at most 1"),
    (["keep_share=10%"], "keep_share=10%: must be a share"),
    (["rest_share=1.5"], "rest_share=1.5: must be a number in [0, 1]"),
    (["out="], "out=: must be the path"),
    (["filtering=static"], "filtering=static: cannot be given here"),
    (["gating=rubric"], "gating=rubric: cannot be given here, the prefilter asks for no verdicts"),
    (["steps=3"], "steps=3: cannot be given here"),
    (["--force"], "--force: unknown option"),
    (["reward.clip_low=0.9"], "reward.clip_low=0.9 with reward.clip_high=0.85"),
    (["dataset=nowhere"], "nowhere"),
    (["nonsense=1"], "nonsense"),
    (["model.path=/nowhere/at/all"], "model.path=/nowhere/at/all: no such folder"),
]


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_bad_input_is_one_message_and_no_file(policy, tmp_path, capsys, overrides, words):
    given = arguments(policy, f"outputs={tmp_path}")
    given = [argument for argument in given if argument.split("=")[0] != overrides[0].split("=")[0]] + overrides
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["dro_pararev", "dro_rar_medicine", "dro_contract_nli", "dro_finqa"])
def test_a_paper_preset_is_prefiltered_without_the_rubrics_that_its_run_will_gate_by(name):
    cfg = _compose([f"+experiments={name}"])
    parts = [cfg[group]._target_.rsplit(".", 1)[-1] for group in ("gating", "filtering", "judge")]
    assert parts == ["none", "r3_variance", "none"]
    assert cfg.rollout.max_completion_length >= 8000


def test_help(capsys):
    assert main(["--help"]) == 0
    assert "filtering=static filtering.file=FILE" in capsys.readouterr().out
