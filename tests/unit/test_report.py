"""The report says what the record says, to a reader who has nothing else, and shows model text as text."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dro_lab.record import Estimate, RunRecord
from dro_lab.record.read import load_run
from dro_lab.report import content, write_report
from dro_lab.report.__main__ import main
from tests.record_fixture import PROVENANCE, step_rows, summary, write_record
from tests.report_fixture import Page

EVIL = '<script>alert("x")</script>'


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


def test_a_run_without_gate_and_filter_has_no_such_sections(page: Page, tmp_path: Path) -> None:
    with RunRecord(tmp_path / "run") as record:
        shares = ("gate/rejected_share", "gate/failed_share", "filter/dropped_share", "rollouts/kept_share")
        record.metrics(dict.fromkeys(shares, 0.0), step=1)
        record.summary(summary())
    for text in (page.text, Page(write_report(tmp_path / "run")).text):
        for title in ("What the gate did", "What the filter did", "The judge", "Health", "By split and decoding"):
            assert f"\n{title}\n" not in text
