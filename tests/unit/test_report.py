"""The report says what the record says, to a reader who has nothing else, and shows model text as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_lab.record import Estimate, RunRecord
from dro_lab.record.read import load_run
from dro_lab.report import content, write_report
from dro_lab.report.__main__ import main
from dro_lab.report.figures import Curve, step_curves
from dro_lab.report.heat import heat
from dro_lab.report.page import embedded
from dro_lab.report.single import _origin
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


def ticks(curve: Curve) -> list[list[str]]:
    """The labels of a figure's ticks: those of x, those of y."""
    return [
        re.findall(r"<text[^>]*>([^<]*)</text>", part)
        for part in re.findall(
            r'id="[^"]*matplotlib.axis_\d"(.*?)(?=id="[^"]*matplotlib.axis_|id="[^"]*patch_\d)', curve.svg, re.S
        )
    ]


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_a_step_is_a_whole_number_however_early_a_run_ended(steps: int, tmp_path: Path) -> None:
    metrics = pd.DataFrame({"step": range(1, steps + 1), "tau": 0.3})
    curve = step_curves(metrics, {"tau": "tau"}, name="filter", title="Tau", source="twin", folder=tmp_path)
    assert curve is not None
    across, up = ticks(curve)
    shown = [label for label in across if label not in ("training step", "twin")]
    assert shown
    assert all(re.fullmatch(r"−?\d+", label) for label in shown), shown
    assert len(set(up)) == len(up)
    assert all(len(label) <= 5 for label in up), "digits behind a rounding error"


def test_the_data_are_named(page: Page) -> None:
    assert "made by a seeded generator in the data set's format; these are not the data set's own texts" in page.text
    assert "default, generator 1" in page.text


def test_the_page_needs_no_network_and_runs_its_own_script_alone(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"link", "img", "iframe", "object", "form", "base"}
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "@import" not in page.source
    for _, attributes in page.tags:
        assert not {"src", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert [script.get("type") for script in scripts] == ["application/json"] * len(page.data) + [None]


def test_the_policy_admits_the_one_style_and_the_one_script_of_the_page(page: Page) -> None:
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    for directive, pattern in (("style-src", r"<style>(.*?)</style>"), ("script-src", r"<script>(.*?)</script>")):
        (inline,) = re.findall(pattern, page.source, re.S)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert directives[directive] == f"'sha256-{digest}'"
    assert "innerHTML" not in page.script
    assert "eval(" not in page.script


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


def test_all_rollouts_are_there_to_browse(page: Page, run: Path) -> None:
    rollouts = load_run(run).rollouts
    assert "Of 1,280 rollouts on 80 prompts, " in page.text
    assert "All 1,280 rollouts of rollouts.parquet are here." in page.text
    for name in ("answer", "reasoning", "prompt", "reference", "prompt_id"):
        assert page.column("rollouts", name) == rollouts[name].tolist()
    assert page.column("rollouts", "reward") == pytest.approx(rollouts["reward"].tolist(), abs=1e-3)
    assert page.column("rollouts", "kept") == ["yes" if kept else "no" for kept in rollouts["kept"]]
    parts = [[["r3", json.loads(text)["r3"]]] for text in rollouts["parts"]]
    assert [part[0][1] for part in page.column("rollouts", "parts")] == pytest.approx(
        [p[0][1] for p in parts], abs=1e-3
    )


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
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "script"] == [
        "data-heat",
        "data-rollouts",
        None,
    ]
    assert not any("alert" in (value or "") for _, attributes in page.tags for value in attributes.values())
    assert page.text.count(EVIL) > 5
    assert page.source.count("&lt;script&gt;") > 5
    assert EVIL not in page.source
    assert set(page.column("rollouts", "answer")) == {EVIL}
    assert page.data["heat"]["queries"][0]["query"] == EVIL


@settings(deadline=None)
@given(st.text() | st.sampled_from(["</script>", "<!--<script>", "]]>", "\u2028\u2029", "&lt;"]))
def test_embedded_data_say_what_they_said_and_end_no_element(text: str) -> None:
    written = str(embedded({"key": text}))
    assert json.loads(written) == {"key": text}
    assert not set(written) & set("<>&\u2028\u2029")


def test_a_heat_map_reads_as_the_reference(run: Path, page: Page) -> None:
    record = load_run(run)
    data = page.data["heat"]
    assert data["all"] == len(data["queries"])
    references = set(record.rollouts["reference"])
    for query in data["queries"]:
        assert "".join(query["tokens"]) in references
        assert sum(query["weight"]) == pytest.approx(1, abs=0.01)
        assert set(query["truth"]) == {0, 1}
        assert {len(query[name]) for name in ("tokens", "sigma", "weight", "prob", "truth")} == {len(query["tokens"])}


def test_heat_maps_are_spread_over_the_run_and_counted(run: Path) -> None:
    tokens = load_run(run).tokens
    few = heat(tokens, queries=3)
    assert few is not None
    assert [query["step"] for query in few["queries"]] == [0, 20, 39]
    assert few["all"] == len(tokens[["step", "prompt_id"]].drop_duplicates()) > 3
    assert heat(tokens.iloc[:0]) is None


def test_the_command_writes_the_page_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "run", steps=3)
    first = write_report(tmp_path / "run").read_text()
    (tmp_path / "run" / "report.html").unlink()
    assert main([str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_text() == first, "the same record gives the same page"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "summary.json").write_text("{")
    assert main(["--each", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path / 'broken' / 'summary.json'} is not valid JSON")
    assert captured.out.strip() == str(tmp_path / "run" / "report.html"), "the others are still written"
    assert main(["--each", str(tmp_path), "-o", "page.html"]) == 2
    assert capsys.readouterr().err.startswith("error: -o page.html: with --each")


def test_provenance_of_files_and_hubs_is_named() -> None:
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
