"""Real mathematics rows: every one is loaded and prompted, its own reference is right, another row's is wrong."""

import random
import re
from pathlib import Path

import pytest

from dro_lab.data import maths
from dro_lab.data.maths_answers import cleaned
from dro_lab.data.maths_verifier import CHECKER, judged, maths_accuracy
from dro_lab.record.read import load_run
from dro_lab.types import Row, Task
from tests.cli_fixture import run_main

DATA = Path(__file__).parents[3] / "shared/data"
FILES = {
    "gsm8k": (DATA / "gsm8k/train.jsonl", 7473),
    "math": (DATA / "math/math500_test.jsonl", 500),
    "aime24": (DATA / "math/aime24_test.jsonl", 30),
}


@pytest.fixture(scope="module", params=FILES)
def task(request: pytest.FixtureRequest) -> Task:
    return loaded(request.param)


def loaded(name: str) -> Task:
    source, _ = FILES[name]
    if not source.exists():
        pytest.skip(f"no {source}: real rows are not shipped with the project")
    return maths.load(name=name, source=str(source))


def rows_of(task: Task) -> list[Row]:
    return [row for split in task.splits.values() for row in split]


def test_every_row_is_loaded_and_prompted(task: Task) -> None:
    rows = rows_of(task)
    assert len(rows) == FILES[task.name][1]
    assert not task.refused
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert [message["role"] for message in row.prompt] == ["system", "user"]
        assert row.prompt[1]["content"] == row.columns["question"].strip()
        assert row.reference == f"\\boxed{{{row.columns['answer']}}}"


def test_every_reference_is_right_and_so_is_the_bare_answer(task: Task) -> None:
    rows = rows_of(task)
    assert [row.id for row in rows if maths_accuracy(row.reference, row) != 1.0] == []
    assert [row.id for row in rows if maths_accuracy(row.columns["answer"], row) != 1.0] == []
    assert [row.id for row in rows if maths_accuracy(f"So the answer is ${row.columns['answer']}$.", row) != 1.0] == []


def test_the_solutions_final_answer_is_right(task: Task) -> None:
    rows = rows_of(task)
    assert all(row.columns["solution"] for row in rows)
    assert [row.id for row in rows if maths_accuracy(row.columns["solution"], row) != 1.0] == []


def test_another_rows_answer_is_wrong(task: Task) -> None:
    """Whether two answers have one value is asked of nobody here: equal in letters and digits counts as equal."""
    rows = rows_of(task)
    others = rows[:]
    random.Random(0).shuffle(others)
    pairs = [(row, other) for row, other in zip(rows, others, strict=True) if value(row) != value(other)]
    assert len(pairs) > 0.5 * len(rows)
    assert [(row.reference, other.reference) for row, other in pairs if maths_accuracy(other.reference, row)] == []


def value(row: Row) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", row.columns["answer"].removeprefix("x="))


def test_whole_numbers_are_wrong_when_they_are_off_by_one(task: Task) -> None:
    whole = [row for row in rows_of(task) if re.fullmatch(r"-?\d+", row.columns["answer"])]
    assert len(whole) > 29
    assert [row.id for row in whole if maths_accuracy(f"\\boxed{{{int(row.columns['answer']) + 1}}}", row)] == []


def test_math_verify_reads_every_true_answer() -> None:
    """The same expression in other letters does not help here: each is compared with itself as a formula."""
    answers = {cleaned(row.columns["answer"]) for name in ("math", "aime24") for row in rows_of(loaded(name))}
    assert [answer for answer in answers if CHECKER.compare(answer, answer) != "same"] == []


def test_units_and_words_of_math_500_may_be_left_out_or_added() -> None:
    rows = {row.columns["answer"]: row for row in rows_of(loaded("math"))}
    for truth, answer in (
        ("864 \\mbox{ inches}^2", "864"),
        ("15\\mbox{ cm}^2", "15 cm^2"),
        ("5.4 \\text{ cents}", "5.4 cents"),
        ("\\$18.90", "18.9"),
        ("\\$32,\\!348", "32,348"),
        ("10,\\!080", "10080"),
        ("90^\\circ", "90"),
        ("\\frac{270}7\\text{ degrees}", "\\frac{270}{7}"),
        ("137 \\frac{1}{2}", "137.5"),
        ("\\text{(C)}", "C"),
        ("\\text{Evelyn}", "Evelyn"),
        ("x \\in [-2,7]", "[-2, 7]"),
        ("1,-2", "-2, 1"),
        ("3 \\pm 2 \\sqrt{2}", "3 - 2\\sqrt{2}, 3 + 2\\sqrt{2}"),
        ("\\{1\\pm\\sqrt{5},-2\\}", "-2, 1+\\sqrt5, 1-\\sqrt5"),
        ("(2,12) \\cup (12,102)", "(12, 102) \\cup (2, 12)"),
    ):
        assert judged(f"\\boxed{{{answer}}}", rows[truth]).right, truth


@pytest.mark.long
def test_32_real_rows_are_sampled_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main job on GSM8K: each of 32 rows, chosen by the hash of its id, is sampled twice and judged."""
    rows = {row.id: row for row in rows_of(loaded("gsm8k"))}
    monkeypatch.chdir(tmp_path)
    ended = run_main(
        [
            "dataset=gsm8k",
            f"dataset.source={FILES['gsm8k'][0]}",
            "dataset.sizes={train: 32, validation: 4, test: 0}",
            "reward=r3",
            "steps=8",
            "algorithm.num_generations=2",
            "algorithm.per_device_train_batch_size=8",
            "evaluation.prompts=2",
            "evaluation.samples=2",
            "evaluation.every=8",
            "tracking=none",
            "threads=1",
            "hydra.run.dir=run",
            "outputs=outputs",
        ]
    )
    assert ended.code == 0, ended.err
    run = load_run(Path("run"), require_finished=True)
    assert run.rollouts["prompt_id"].nunique() == 32
    assert len(run.rollouts) == 64
    for rollout in run.rollouts.itertuples():
        row = rows[rollout.prompt_id]
        assert rollout.reference == row.reference
        assert rollout.quality == maths_accuracy(rollout.answer, row)
    assert run.summary["metric"] == "accuracy"
    assert "unparsable_share" in ended.out or "unparsable_share" in str(run.summary)
