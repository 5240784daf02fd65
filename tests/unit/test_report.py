"""The report says what the record says, to a reader who has nothing else, and shows model text as text."""

from __future__ import annotations

import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dro_lab.record import Alarm, Comparison, Estimate, RunRecord
from dro_lab.record.read import load_run
from dro_lab.record.rows import token_rows
from dro_lab.report import content, write_report
from dro_lab.report.__main__ import main
from dro_lab.rewards.avg_logprob import avg_logprob
from dro_lab.rewards.avg_prob import avg_prob
from dro_lab.rewards.r3 import r3
from dro_lab.rewards.seq_prob import seq_prob
from dro_lab.rewards.verifier import verifier
from dro_lab.types import Reward
from tests.record_fixture import PROVENANCE, step_rows, summary, two_references, write_record

EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """The text of a page in reading order, and its tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag == "style"
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    write_record(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(run / "report.html")


def test_start_end_interval_and_three_tokens_stand_above_the_curves(page: Page, run: Path) -> None:
    top = page.text[: page.text.index("How it went")]
    assert "Quality rose from 0.27 to 0.71" in top
    assert "128 held-out prompts (95% interval 0.20 to 0.35)" in top
    assert "it scores 0.71 (0.63 to 0.78)" in top
    assert "wins 74%" in top
    tokens = load_run(run).tokens
    heaviest = tokens["weight"].groupby(tokens["token"].str.strip()).sum().sort_values(ascending=False)
    for rank, token in enumerate(heaviest.index[:3], start=1):
        assert re.search(rf"{rank}\. {heaviest[token] / heaviest.sum():.0%} of the weight.*?\n{token}\b", top, re.S)


def test_the_data_are_named(page: Page) -> None:
    assert "made by a seeded generator in the data set's format; these are not the data set's own texts" in page.text
    assert "default, generator 1" in page.text


def test_the_page_needs_no_network_and_runs_no_code(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "@import" not in page.source
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")


def test_ids_are_unique_and_references_within_the_page_resolve(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 100
    used = {attributes["href"][1:] for _, attributes in page.tags if (attributes.get("href") or "").startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert used
    assert used <= set(ids)


def test_every_figure_has_the_numbers_it_plots(run: Path) -> None:
    pictures = sorted(path.stem for path in (run / "figures").glob("*.png"))
    assert pictures == ["quality", "reasoning_tokens", "reward"]
    assert set(pictures) | {"tokens", "teachers", "seconds"} == {path.stem for path in (run / "figures").glob("*.csv")}
    record = load_run(run)
    quality = pd.read_csv(run / "figures" / "quality.csv")
    assert quality["value"].tolist() == pytest.approx(record.evals["value"].tolist())
    reward = pd.read_csv(run / "figures" / "reward.csv").set_index("step")
    mean = record.rollouts.groupby("step")["reward"].mean()
    assert reward["mean"].tolist() == pytest.approx(mean.tolist())
    assert reward.loc[20, "smooth"] == pytest.approx(mean.loc[18:22].mean())
    seconds = pd.read_csv(run / "figures" / "seconds.csv")
    assert seconds["share"].sum() == pytest.approx(1)


def test_the_page_shows_what_a_reader_needs_to_repeat_the_run(page: Page) -> None:
    for text in ("python -m dro_lab.run", "seed 0, data 7", "torch 2.13.0", "omega: 2.0", "train.json row 17"):
        assert text in page.text
    for part, seconds in (("sampling", "61.0 s (43%)"), ("evaluation", "21.0 s (15%)")):
        assert f"{part} {seconds}" in page.text
    assert "step 12: in 3 of the last 10 steps no rollout closed its reasoning" in page.text


def test_ten_rollouts_are_shown_early_and_late(page: Page) -> None:
    articles = [attributes for tag, attributes in page.tags if tag == "article"]
    assert len(articles) == 10
    assert "Of 1,280 rollouts on 80 prompts, " in page.text
    assert "Shown are 10 of them" in page.text
    assert page.text.index("Early in training") < page.text.index("Late in training")


def test_model_text_is_escaped(tmp_path: Path) -> None:
    rollouts, tokens = step_rows(np.random.default_rng(0), step=0, skill=0.5, prompts=1, group=4)
    hostile = dict.fromkeys(("prompt", "reasoning", "answer", "reference", "reason", "prompt_id"), EVIL)
    with RunRecord(tmp_path / "run") as record:
        record.config(f"key: {EVIL}")
        record.environment(seeds={EVIL: 0}, threads=1, command=["python", EVIL])
        record.rollouts([row | hostile | {"kept": False} for row in rollouts])
        record.tokens([row | {"token": EVIL, "prompt_id": EVIL} for row in tokens])
        estimate = Estimate(metric="quality", value=0.5, low=0.4, high=0.6, n=4)
        record.evaluation([estimate], step=0, split='"><script>')
        record.summary(summary(metric=EVIL, notes=[EVIL], before=estimate, status="failed", error=EVIL))
    page = Page(write_report(tmp_path / "run"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("alert" in (value or "") for _, attributes in page.tags for value in attributes.values())
    assert page.text.count(EVIL) > 20
    assert page.source.count("&lt;script&gt;") > 20


@pytest.mark.parametrize(
    ("changes", "title", "sentence"),
    [
        ({}, "Quality rose from 0.27 to 0.71", "The two intervals do not overlap"),
        ({"after": (0.15, 0.05, 0.19)}, "Quality fell from 0.27 to 0.15", "The two intervals do not overlap"),
        ({"after": (0.34, 0.28, 0.40)}, "Quality rose from 0.27 to 0.34", "prompt by prompt, lies above 50%"),
        (
            {"after": (0.34, 0.28, 0.40), "win_rate": None},
            "Quality 0.27, then 0.34: no clear change",
            "overlap: this run",
        ),
        ({"after": (0.20, 0.14, 0.26)}, "Quality 0.27, then 0.20: no clear change", "does not show that training"),
        ({"after": (0.2701, 0.2, 0.35), "win_rate": None}, "Quality 0.27, then 0.27: no clear change", "overlap"),
        ({"after": (0.5, float("nan"), 0.6)}, "Quality 0.27, then 0.50: no clear change", "cannot be told from luck"),
        ({"steps": 0, "after": None}, "Quality is 0.27", "The policy scores 0.27 on 128 held-out prompts"),
        ({"before": None, "after": None}, "Quality was not measured", "No evaluation of this run gave a number."),
        ({"before": (float("nan"),) * 3, "after": None}, "Quality was not measured", "No evaluation"),
    ],
)
def test_the_headline_says_what_happened(tmp_path: Path, changes: dict, title: str, sentence: str) -> None:
    for key in ("before", "after"):
        if isinstance(changes.get(key), tuple):
            value, low, high = changes[key]
            changes = changes | {key: Estimate(metric="q", value=value, low=low, high=high, n=128)}
    with RunRecord(tmp_path / "run") as record:
        written = record.summary(summary(**changes))
    found = content.headline(written)
    assert found.title == title
    assert any(sentence in said for said in found.sentences)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"status": "interrupted", "steps": 17}, "This run was interrupted at step 17 of 40."),
        ({"status": "failed", "error": "no memory", "steps": 3}, "This run failed at step 3 of 40: no memory"),
        ({"status": "running", "steps": 0}, "This run has not ended, or was killed"),
    ],
)
def test_an_unfinished_run_says_so(tmp_path: Path, changes: dict, text: str) -> None:
    with RunRecord(tmp_path / "run") as record:
        record.summary(summary(after=None, win_rate=None, **changes))
    page = Page(write_report(tmp_path / "run"))
    assert text in page.text
    assert "Rollouts to read" not in page.text
    assert "three tokens" not in page.text


@pytest.mark.parametrize(
    ("steps", "title", "sentence"),
    [
        (
            (0,),
            "Quality was 0.20 before training, and was not measured again",
            "Before training, the policy scored 0.20 on 32 held-out prompts (95% interval 0.10 to 0.30).",
        ),
        (
            (0, 8, 16),
            "Quality was 0.36 at step 16, when it was last measured",
            "It was last measured at step 16: 0.36 on 32 held-out prompts (95% interval 0.26 to 0.46).",
        ),
    ],
)
@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_a_run_cut_short_claims_no_after(tmp_path: Path, steps: tuple, title: str, sentence: str, status: str) -> None:
    """Also a killed one, whose summary is that of its start."""
    ended = {"steps": 17, "before": _estimate(0)} if status != "running" else {"steps": 0, "before": None}
    with RunRecord(tmp_path / "run") as record:
        for step in steps:
            record.evaluation([_estimate(step)], step=step, split="test")
        record.metrics({"loss": 0.0}, step=17)
        error = "no memory" if status == "failed" else None
        record.summary(summary(status=status, error=error, after=None, win_rate=None, objective=None, **ended))
    page = Page(write_report(tmp_path / "run"))
    assert f"\n{title}\n" in page.text
    assert sentence in page.text
    assert "step 17 of 40" in page.text
    assert "17 training steps" not in page.text
    assert "after 17 steps" not in page.text
    assert "it scores" not in page.text


def _estimate(step: int) -> Estimate:
    value = 0.2 + step / 100
    return Estimate(metric="quality", value=value, low=value - 0.1, high=value + 0.1, n=32)


def _tokens(rows: list[tuple]) -> pd.DataFrame:
    columns = ["step", "prompt_id", "position", "token", "weight", "sigma", "truth"]
    return pd.DataFrame(rows, columns=columns).assign(mean_prob=0.5)


def test_the_tokens_that_taught_most_are_those_with_the_most_weight() -> None:
    frame = _tokens(
        [
            (0, "a", 0, "The", 0.0, 0.0, False),
            (0, "a", 1, " sum", 0.1, 0.1, False),
            (0, "a", 2, " 7", 0.9, 0.4, True),
            (5, "a", 0, "7", 0.3, 0.4, True),
            (5, "a", 1, " more", 0.7, 0.4, True),
        ]
    )
    weighted, weighting = content.with_weights(frame)
    assert weighting == "own"
    found = content.teachers(weighted)
    assert [(item.token, item.count) for item in found] == [("7", 2), ("more", 1), ("sum", 1)]
    assert [item.share for item in found] == pytest.approx([0.6, 0.35, 0.05])
    assert (found[0].left, found[0].right) == ("The sum ", "")
    assert content.truth_sentence(weighted).endswith("They are 60% of the tokens and carry 95% of the weight.")


EQUAL = "gives all tokens of the reference the same weight"
NONE = "has no weights for single tokens of the reference: it reads the sampled answer, or the reference as a whole"
OWN = "weighs each token of the reference by how much its probability depends on the reasoning"


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [(r3, OWN), (avg_prob, EQUAL), (avg_logprob, EQUAL), (seq_prob, NONE), (verifier, NONE)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_page_says_how_the_reward_weighs_tokens(tmp_path: Path, reward: Reward, sentence: str) -> None:
    groups, stats, tokenizer = two_references()
    rows = token_rows(groups, stats, reward(groups, stats), tokenizer=tokenizer, prompts=[0, 1], split="test")
    name = reward.__name__
    with RunRecord(tmp_path / "run") as record:
        record.tokens(rows)
        record.summary(summary(reward=name))
    page = Page(write_report(tmp_path / "run"))
    assert [text in page.text for text in (OWN, EQUAL, NONE)] == [text == sentence for text in (OWN, EQUAL, NONE)]
    assert f"The reward {name} {sentence}" in page.text
    assert ("taught" in page.text) == (sentence == OWN)
    assert ("tokens that react most to the reasoning" in page.text) == (sentence != OWN)
    assert ("% of the weight" in page.text) == (sentence == OWN)
    if sentence != OWN:
        # "7" moves with the reasoning and stands once; "the" stands five times and never moves
        assert re.search(r"1\. 100% of the reaction, seen 1 times\n7the the sum 7\n", page.text)
        shown = pd.read_csv(tmp_path / "run" / "figures" / "tokens.csv")
        assert shown.groupby("prompt_id")["reaction"].sum().tolist() == pytest.approx([1, 0])


def test_the_reaction_is_the_share_of_variance_in_a_reference() -> None:
    frame = _tokens([(0, "a", 0, "x", None, 0.1, None), (0, "a", 1, "y", None, 0.3, None)])
    weighted, weighting = content.with_weights(frame)
    assert weighting == "none"
    assert weighted["shown"].tolist() == pytest.approx([0.1, 0.9])
    assert content.truth_sentence(weighted) == ""
    long = _tokens([(0, p, j, "x", 1 / n, 0.1, True) for p, n in (("a", 3), ("b", 7)) for j in range(n)])
    weighted, weighting = content.with_weights(long)
    assert weighting == "equal", "weights differ between references of other lengths, not within one"
    assert content.truth_sentence(weighted, shown="reaction").endswith("carry 100% of the reaction.")


def test_no_token_is_named_where_none_taught(tmp_path: Path) -> None:
    _, tokens = step_rows(np.random.default_rng(0), step=0, skill=0.5, prompts=1, group=1)
    with RunRecord(tmp_path / "run") as record:
        record.tokens([row | {"weight": 0.0, "sigma": 0.0} for row in tokens])
        record.summary(summary())
    page = Page(write_report(tmp_path / "run"))
    assert "None: in no sampled group did the probability of a reference token depend on the reasoning." in page.text
    assert "three tokens" not in page.text


def test_a_heat_map_reads_as_the_reference(run: Path) -> None:
    record = load_run(run)
    maps = content.heat_maps(content.with_weights(record.tokens)[0])
    assert [title.split(",")[0] for title, _ in maps] == ["step 0", "step 20", "step 39"]
    references = set(record.rollouts["reference"])
    for _, tokens in maps:
        assert "".join(token.space + token.text for token in tokens) in references
        assert max(token.heat for token in tokens) == 1
        assert any(token.truth for token in tokens)
        assert not all(token.truth for token in tokens)


def test_rollouts_to_read_span_steps_and_rewards(run: Path) -> None:
    rollouts = load_run(run).rollouts
    early, late = content.pick_rollouts(rollouts)
    assert (len(early), len(late)) == (5, 5)
    assert early["step"].max() < 8
    assert late["step"].min() >= 32
    for part, steps in ((early, range(8)), (late, range(32, 40))):
        rewards = rollouts[rollouts["step"].isin(steps)]["reward"]
        assert part["reward"].iloc[0] == rewards.min()
        assert part["reward"].iloc[-1] == rewards.max()
    few, none = content.pick_rollouts(rollouts[rollouts["step"] == 0].head(3))
    assert (len(few), len(none)) == (3, 0)


def test_the_command_writes_the_page_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "run", steps=3)
    first = write_report(tmp_path / "run").read_text()
    (tmp_path / "run" / "report.html").unlink()
    assert main([str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_text() == first, "the same record gives the same page"
    assert main([str(tmp_path), str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path} holds no summary.json")
    assert captured.out.strip() == str(tmp_path / "run" / "report.html"), "the others are still written"


def test_provenance_of_files_and_hubs_is_named() -> None:
    from dro_lab.report import _origin

    file = {"kind": "file", "location": "a.json", "revision": None, "sha256": "0123456789abcdefff"}
    assert _origin(file) == "a.json, sha256 0123456789abcdef…"
    hub = {"kind": "hub", "location": "owner/name", "revision": "abc", "sha256": None}
    assert _origin(hub) == "owner/name, revision abc"
    assert _origin(asdict(PROVENANCE)) == "default, generator 1"


def test_the_line_under_a_figure_names_the_version_of_the_data() -> None:
    file = {"dataset": "finqa", "kind": "file", "location": "a.json", "revision": None, "sha256": "0123456789abcdefff"}
    assert content.source_line(file) == "finqa (file: a.json, sha256 01234567)"
    hub = {"dataset": "finqa", "kind": "hub", "location": "owner/name", "revision": "abcdef0123456", "sha256": None}
    assert content.source_line(hub) == "finqa (hub: owner/name, revision abcdef01)"
    assert content.source_line({**hub, "revision": None}) == "finqa (hub: owner/name)"
    assert content.source_line(asdict(PROVENANCE)) == "pararev (twin: default)"


def test_before_and_after_name_the_samples_and_show_backtracking_that_is_gone(tmp_path: Path) -> None:
    lines = [("quality", 0.25, 0.5), ("backtracking_share", 0.2, 0.0), ("win_unknown_share", None, 0.0)]
    found = [Comparison(metric=name, before=before, after=after) for name, before, after in lines]
    with RunRecord(tmp_path / "run") as record:
        written = record.summary(summary(comparison=found, samples=16))
    assert content.comparison(written) == [
        ("quality (mean@16)", "0.25", "0.50"),
        ("segments that backtrack", "20%", "0%"),
    ]
    del written["samples"]  # a record of before there was such a key
    assert content.comparison(written)[0][0] == "quality"


def _estimates(**values: float) -> list[Estimate]:
    return [Estimate(metric=name, value=v, low=v - 0.1, high=v + 0.1, n=8) for name, v in values.items()]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """A run with gate, filter, judge, monitors and further parts of the evaluations."""
    folder = tmp_path_factory.mktemp("report") / "full"
    with RunRecord(folder) as record:
        for step in (0, 10):
            change = step / 100
            record.evaluation(_estimates(quality=0.3 + change, reward=0.5), step=step, split="test")
            record.evaluation(_estimates(quality=0.5 + change), step=step, split="test", decoding="greedy")
            record.evaluation(_estimates(quality=0.1 + change, macro_f1=0.2), step=step, split="ood")
        for step in range(1, 11):
            record.metrics(
                {
                    "loss": 0.0,
                    "gate/rejected_share": 1 - step / 10,
                    "gate/failed_share": 0.0,
                    "gate/coverage_rejected_share": 0.2,
                    "gate/yes_share": step / 10,
                    "gate/unknown_share": 0.05,
                    "gate/my_own_count": 3.0,
                    "filter/dropped_share": 0.25,
                    "filter/sigma_bar": 0.2,
                    "filter/tau": 0.1,
                    "filter/refilled_share": 0.5,
                    "rollouts/kept_share": 0.5,
                    "rubric/reference_failed_share": 0.125,
                    "health/starvation": float(step in (5, 6)),
                    "health/truncated": 0.0,
                    "health/worse": 0.0,
                },
                step=step,
            )
        record.summary(
            summary(
                status="stopped",
                steps=10,
                stopped="health.starvation at step 5: too little",
                judge="openai",
                judge_counts={"requests": 1234.0, "unknown_verdicts": 3.0, "spent": 0.25},
                alarms=[
                    Alarm(step=5, message="too little", monitor="starvation", action="stop"),
                    Alarm(step=9, message="quality fell", monitor="worse"),
                ],
            )
        )
    return folder, Page(write_report(folder))


def section(page: Page, title: str) -> str:
    """The text under a heading."""
    return page.text.split(f"\n{title}\n")[1].split("\n\n\n")[0]


def test_gate_and_filter_have_their_rates_at_start_and_end_and_their_curves(full: tuple[Path, Page]) -> None:
    folder, page = full
    gate = section(page, "What the gate did")
    assert "groups rejected85%5%45%" in gate, "first two steps, last two, all ten"
    assert "groups that fail coverage: a check that too few rollouts meet20%20%20%" in gate
    assert "checks that the reference itself fails12%12%12%" in gate
    assert "my own count3.003.003.00" in gate, "a metric that nobody foresaw is shown under its name"
    filtered = section(page, "What the filter did")
    assert "rollouts dropped25%25%25%" in filtered
    assert "groups replaced by sampling again50%50%50%" in filtered
    assert "tau: the lowest sigma_bar that is kept0.100.100.10" in filtered
    plotted = pd.read_csv(folder / "figures/verdicts.csv")
    assert plotted["gate/yes_share"].tolist() == pytest.approx([step / 10 for step in range(1, 11)])
    assert {"gate.csv", "filter.csv", "kept.csv"} <= {path.name for path in (folder / "figures").iterdir()}


def test_a_run_without_gate_and_filter_has_no_such_sections(page: Page, tmp_path: Path) -> None:
    with RunRecord(tmp_path / "run") as record:
        shares = ("gate/rejected_share", "gate/failed_share", "filter/dropped_share", "rollouts/kept_share")
        record.metrics(dict.fromkeys(shares, 0.0), step=1)
        record.summary(summary())
    for text in (page.text, Page(write_report(tmp_path / "run")).text):
        for title in ("What the gate did", "What the filter did", "The judge", "Health", "By split and decoding"):
            assert f"\n{title}\n" not in text


def test_the_judges_counts_are_shown(full: tuple[Path, Page]) -> None:
    judge = section(full[1], "The judge")
    assert "openaiwhole run" in judge
    for line in ("requests1,234", "unknown verdicts3", "spent0.25"):
        assert line in judge


def test_every_monitor_is_listed_with_what_it_said(full: tuple[Path, Page]) -> None:
    text = full[1].text
    assert "A health monitor stopped this run at step 10 of 40: health.starvation at step 5: too little" in text
    health = section(full[1], "Health")
    assert re.search(r"starvationstopped the run\s*at step 5, true in 2 of 10 stepstoo little", health)
    assert re.search(r"worsewarned\s*at step 9quality fell", health)
    assert "Silent: truncated." in health


def test_parts_of_an_evaluation_stand_side_by_side(full: tuple[Path, Page]) -> None:
    parts = section(full[1], "By split and decoding")
    assert "test, sampledtest, greedyood, sampled" in parts
    assert "0.30 → 0.400.30 to 0.500.50 → 0.600.50 to 0.700.10 → 0.200.10 to 0.30" in parts
    assert "macro_f1" not in parts, "one part only has it"


def test_the_headline_rows_are_those_of_the_runs_own_split_and_sampling(full: tuple[Path, Page]) -> None:
    record = load_run(full[0])
    quality = record.evals[record.evals["metric"] == "quality"]
    assert quality["value"].tolist() == [0.3, 0.4]
    assert (len(record.evals), len(record.all_evals)) == (4, 10)
