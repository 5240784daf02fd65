"""The page of several runs: its verdict, its levels over seeds, its differences, and what it refuses."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from dro_lab.errors import UserError
from dro_lab.record import Alarm, Estimate
from dro_lab.record.read import load_run
from dro_lab.report import comparison, prose, write_comparison
from dro_lab.report.__main__ import main
from dro_lab.report.comparison_figures import looks
from tests.analysis_fixture import write_run
from tests.report_fixture import HOSTILE, Page, write_compared


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "runs"
    for seed, r3, rival in ((0, 0.70, 0.50), (1, 0.74, 0.52), (2, 0.78, 0.60)):
        write_compared(folder / f"r3_{seed}", reward="r3", seed=seed, after=r3)
        alarms = [Alarm(step=3, message="too short", monitor="reasoning_collapse")] if seed == 1 else []
        write_compared(folder / f"avg_{seed}", reward="avg_prob", seed=seed, after=rival, alarms=alarms)
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Page:
    return Page(write_comparison([runs]))


def test_the_verdict_is_the_paired_difference_over_seeds(page: Page) -> None:
    assert "\nr3 ends highest: r3 0.74, avg_prob 0.54\n" in page.text
    pairs = [0.70 - 0.50, 0.74 - 0.52, 0.78 - 0.60]
    low, high = stats.t.interval(0.9, 2, loc=0.2, scale=stats.sem(pairs))
    assert f"the difference is +0.20 (90% interval {low:+.2f} to {high:+.2f})" in page.text
    low, high = stats.t.interval(0.9, 2, loc=0.74, scale=stats.sem([0.70, 0.74, 0.78]))
    assert f"r3 ends at 0.74 (mean of seeds 0, 1, 2; 90% interval over seeds {low:.2f} to {high:.2f})" in page.text


def test_a_line_a_setting_with_its_seeds_costs_and_alarms(page: Page) -> None:
    table = page.text.split("\nBy setting\n")[1].split("intervals:")[0]
    best, other = table.index("r3"), table.index("avg_prob")
    assert best < other, "best first"
    assert "0, 1, 2" in table
    assert "51216,00012" in table.replace("\n", ""), "rollouts, tokens and seconds of 8 steps"


def test_steps_to_target_and_win_rates_are_those_of_the_analyses(runs: Path, page: Page) -> None:
    from analysis import steps_to_target, win_rate

    target = page.text.split("\nWhat it takes to get as far as avg_prob\n")[1].split("\nWin rates\n")[0]
    drawn = steps_to_target.draw(
        [runs], target="baseline:avg_prob", x="steps,rollouts,tokens,seconds", window=1, resamples=2000
    )
    (said,) = [line.strip("*") for line in drawn.page.splitlines() if line.startswith("**")]
    assert said.startswith("To quality 0.54, r3 takes ")
    assert said in target
    wins = page.text.split("\nWin rates\n")[1].split("\nEverything measured at the end\n")[0]
    frame = win_rate.draw([runs], resamples=2000).frame
    (pair,) = frame[(frame["label"] == "r3") & (frame["against"] == "avg_prob")].to_dict("records")
    assert f"r3 against avg_prob{pair['value']:.2f} [{pair['low']:.2f}, {pair['high']:.2f}]" in wins


def test_a_page_of_an_analysis_is_read_as_paragraphs_and_tables() -> None:
    page = "# Title\n\nWhere it comes from.\n\nTwo\nlines of `code`.\n\n**It wins.**\n\n"
    page += "| a | b \\| c |\n|---|---:|\n| 1 | 2 |\n"
    assert prose.blocks(page) == [
        prose.Block(text="Two lines of code."),
        prose.Block(text="It wins.", strong=True),
        prose.Block(rows=[["a", "b | c"], ["1", "2"]]),
    ]


def test_what_an_analysis_refuses_is_said(tmp_path: Path) -> None:
    for seed, reward in enumerate(("r3", "avg_prob")):
        write_run(tmp_path / reward, [(0, 0.3), (8, 0.5)], reward=reward, seed=seed, cost=False)
    page = Page(write_comparison([tmp_path]))
    assert re.search(r"Win rates\s+Not known of these runs: .* has no answers.parquet", page.text)
    assert "Quality over training step" in page.source
    assert "Quality over tokens sampled" not in page.source


def test_curves_stand_over_steps_and_over_every_cost(runs: Path, page: Page) -> None:
    figures = runs / "comparison_figures"
    names = [f"quality_{x}" for x in ("steps", "rollouts", "tokens", "seconds")]
    assert {path.stem for path in figures.glob("*.csv")} == set(names) == {path.stem for path in figures.glob("*.png")}
    quality = pd.read_csv(figures / "quality_rollouts.csv")
    r3 = quality[quality["label"] == "r3"]
    assert r3["x"].tolist() == [0, 4 * 64, 8 * 64]
    assert r3["value"].tolist() == pytest.approx([0.3, 0.52, 0.74])
    assert set(quality["seeds"]) == {3}
    assert page.source.count('<svg role="img"') + page.source.count('role="img" aria-label="Quality over') >= 4


def test_only_what_differs_is_listed(page: Page) -> None:
    section = page.text.split("\nWhat differs between the configurations\n")[1].split("\nAlarms\n")[0]
    assert "reward.omega2.0–" in section.replace("\n", "")
    assert "names.rewardr3avg_prob" in section.replace("\n", "")
    assert "seed0, 1, 20, 1, 2" in section.replace("\n", "")
    for same in ("reflective_sigma", "max_steps", "torch version"):
        assert same not in section


def test_alarms_are_named_by_run(page: Page) -> None:
    section = page.text.split("\nAlarms\n")[1].split("\nThe runs side by side\n")[0]
    assert "avg_prob, seed 1step 3, reasoning_collapse: too short" in section.replace("\n", "")
    assert "No alarm: r3, seed 0; r3, seed 1; r3, seed 2; avg_prob, seed 0; avg_prob, seed 2." in section


def test_the_runs_stand_side_by_side_for_the_same_queries(page: Page) -> None:
    sides = page.data["sides"]
    assert sides["runs"] == [f"{label}, seed {seed}" for label in ("r3", "avg_prob") for seed in (0, 1, 2)]
    assert sides["chosen"] == [0, 3], "the first run of each setting"
    answers = sides["answers"]
    assert (answers["count"], answers["all"]) == (144, 144)
    said = [answers["strings"][i] for i in answers["columns"]["answer"]]
    assert [
        run for run, text in zip(answers["columns"]["run"], said, strict=True) if text == "avg_prob says 2 at 8"
    ] == [
        3,
        3,
        4,
        4,
        5,
        5,
    ]
    assert {query["query"] for query in sides["heat"][0]["queries"]} >= {"train-0", "validation-0"}
    assert "All 384 rollouts of the runs are here." in page.text


def test_the_page_names_no_folder_of_the_machine_and_is_the_same_twice(runs: Path, page: Page) -> None:
    assert str(runs) not in page.source
    assert "r3_0" in page.text
    assert write_comparison([runs]).read_text(encoding="utf-8") == page.source


def _verdict(folder: Path, values: dict[str, list[float]]) -> comparison.Verdict:
    groups = {}
    for reward, ends in values.items():
        groups[reward] = {}
        for seed, end in enumerate(ends):
            after = Estimate(metric="q", value=end, low=end - 0.05, high=end + 0.05, n=32)
            at = folder / f"{reward}{seed}"
            groups[reward][seed] = load_run(write_run(at, [(0, 0.3), (8, 0.5)], reward=reward, seed=seed, after=after))
    groups = comparison.best_first(groups)
    return comparison.verdict(comparison.lines(groups, confidence=0.9), groups, metric="facts", confidence=0.9)


@pytest.mark.parametrize(
    ("values", "title", "sentence"),
    [
        ({"a": [0.5], "b": [0.7]}, "b 0.70, a 0.50, one seed alone", "How much another seed would change is not known"),
        ({"a": [0.68], "b": [0.7]}, "No clear winner: b 0.70, a 0.68", "The two intervals overlap"),
        ({"a": [0.5, 0.9], "b": [0.6, 0.9]}, "No clear winner: b 0.75, a 0.70", "do not show that one is better"),
        ({"a": [0.5, 0.6]}, "a ends at 0.55", "mean of seeds 0, 1"),
        ({"a": [0.5, 0.6], "b": [math.nan, 0.9]}, "a ends at 0.55", "mean of seeds 0, 1"),
        ({"a": [math.nan]}, "Quality was not measured", "No run ended with a number."),
        ({"a": [0.1, 0.12], "b": [0.5, 0.51], "c": [0.2, 0.2]}, "b ends highest: b 0.51, c 0.20", "flattered by being"),
    ],
)
def test_the_verdict_claims_no_more_than_the_seeds_show(
    tmp_path: Path, values: dict[str, list[float]], title: str, sentence: str
) -> None:
    found = _verdict(tmp_path, values)
    assert found.title == title
    assert any(sentence in said for said in found.sentences)


def test_seeds_that_share_a_number_have_its_interval_over_prompts() -> None:
    row = {"value": 0.4, "low": 0.3, "high": 0.5}
    shared = comparison.level([row, row], confidence=0.9)
    assert (shared.value, shared.low, shared.high, shared.seeds) == (0.4, 0.3, 0.5, 2)
    apart = comparison.level([row, {**row, "value": 0.6}], confidence=0.9)
    assert (apart.low, apart.high) == (0.0, 1.0), "two seeds say little, and a share lies between 0 and 1"
    assert comparison.level([row, None], confidence=0.9) == comparison.NOTHING


def test_settings_beyond_the_colours_have_dashes() -> None:
    found = looks([f"setting {n}" for n in range(20)])
    assert len({(look.colour, look.dash) for look in found}) == 20


def test_what_policies_wrote_is_data_and_nothing_else(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_compared(tmp_path / str(seed), seed=seed, alarms=[Alarm(step=1, message=HOSTILE[0], monitor=HOSTILE[1])])
        frame = pd.read_parquet(tmp_path / str(seed) / "answers.parquet")
        frame.assign(answer=HOSTILE[2], prompt=HOSTILE[5]).to_parquet(tmp_path / str(seed) / "answers.parquet")
    page = Page(write_comparison([tmp_path]))
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["script", "script"]
    assert HOSTILE[2] in page.data["sides"]["answers"]["strings"]
    assert page.text.count(HOSTILE[0]) == 2


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"metric": "overlap"}, ["metric is", "required facts", "overlap"]),
        ({"split": "test"}, ["evaluation split is", "validation", "test"]),
        ({"curve": [(0, 0.3), (6, 0.5)]}, ["evaluation steps"]),
        ({"provenance": "file"}, ["data source is", "kind file"]),
    ],
)
def test_runs_that_mean_other_things_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict, said: list[str]
) -> None:
    from tests.analysis_fixture import TWIN

    curve = other.pop("curve", [(0, 0.3), (8, 0.5)])
    if "provenance" in other:
        other["provenance"] = type(TWIN)(dataset="pararev", kind="file", location="rows.jsonl", sha256="0" * 64)
    first = write_run(tmp_path / "first", [(0, 0.3), (8, 0.5)])
    second = write_run(tmp_path / "second", curve, seed=1, **other)
    assert main([str(first), str(second)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    for text in (str(first), str(second), *said):
        assert text in captured.err
    assert _pages(tmp_path) == []


def test_unfinished_and_empty_places_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = write_run(tmp_path / "done", [(0, 0.3), (8, 0.5)])
    cut = write_run(tmp_path / "cut", [(0, 0.3), (8, 0.5)], seed=1, status="interrupted")
    again = write_run(tmp_path / "again", [(0, 0.3), (8, 0.5)], seed=2)
    (tmp_path / "empty").mkdir()
    twin = write_run(tmp_path / "twin", [(0, 0.3), (8, 0.5)])
    for places, text in (
        ([done, cut], "finished runs are needed"),
        ([done, tmp_path / "empty"], f"{tmp_path / 'empty'}: there is no run below it"),
        ([done, twin], "one run is not two samples"),
        ([tmp_path / "nowhere", done], "is not a folder"),
        ([tmp_path / "empty"], "there is no run below it"),
    ):
        assert main([str(place) for place in places]) == 2
        assert text in capsys.readouterr().err
    with pytest.raises(UserError, match="is one run, and a comparison takes at least two"):
        write_comparison([done])
    for out, text in ((tmp_path, "is a folder"), (tmp_path / "none" / "page.html", "there is no folder")):
        with pytest.raises(UserError, match=text):
            write_comparison([done, again], path=out)
    assert _pages(tmp_path) == []


def _pages(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".html", ".png", ".svg", ".csv", ".tmp")]


def test_the_command_writes_where_it_is_told(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main([str(runs / "r3_0"), str(runs / "avg_0"), "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert "r3 0.70, avg_prob 0.50, one seed alone" in Page(out).text
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "page_figures"}
    assert main([str(runs / "r3_0"), "-o", str(tmp_path / "one.html")]) == 0
    assert Page(tmp_path / "one.html").data.keys() == {"heat", "rollouts", "answers"}
