"""The record of a run: what is written can be read, whatever ended the run."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dro_lab.errors import UserError
from dro_lab.record import SCHEMA_VERSION, Estimate, RunRecord
from dro_lab.record.columns import ANSWERS
from dro_lab.record.environment import git_state, versions
from dro_lab.record.read import load_run
from dro_lab.record.rows import answer_rows, prompt_text, rollout_rows, token_rows, token_spans
from dro_lab.types import Rewards, RolloutGroups, TokenStats
from tests.record_fixture import step_rows, summary, write_record

ROOT = Path(__file__).parents[2]


def test_a_whole_record_is_read_back(tmp_path: Path) -> None:
    written = write_record(tmp_path / "run", steps=11, prompts=2, group=4)
    run = load_run(tmp_path / "run", require_finished=True)
    assert run.summary == written
    assert run.summary["schema_version"] == SCHEMA_VERSION
    assert run.summary["before"] == {"metric": "required facts", "value": 0.27, "low": 0.20, "high": 0.35, "n": 128}
    assert run.summary["seconds"]["total"] == pytest.approx(143.0)
    assert run.summary["refused_rows"] == 1
    assert len(run.rollouts) == 11 * 2 * 4
    assert run.rollouts.groupby("step").size().tolist() == [8] * 11
    assert sorted(run.tokens["step"].unique()) == [0, 5, 10]
    assert list(run.evals["step"]) == [0, 9, 11]
    assert list(run.metrics["step"]) == list(range(11))
    assert run.environment["seeds"] == {"seed": 0, "data": 7}
    assert run.environment["command"] == "python -m dro_lab.run"
    assert run.environment["end"] >= run.environment["start"]
    assert run.config.startswith("seed: 0")
    assert not (tmp_path / "run" / "rollouts").exists(), "the parts are merged"


def test_joined_tokens_give_the_reference(tmp_path: Path) -> None:
    write_record(tmp_path / "run", steps=1)
    run = load_run(tmp_path / "run")
    reference = run.rollouts.drop_duplicates("prompt_id").set_index("prompt_id")["reference"]
    for prompt_id, tokens in run.tokens.groupby("prompt_id"):
        assert "".join(tokens["token"]) == reference[prompt_id]
        assert tokens["weight"].sum() == pytest.approx(1)


def test_non_finite_metrics_are_valid_json_and_come_back(tmp_path: Path) -> None:
    with RunRecord(tmp_path / "run") as record:
        record.metrics({"loss": math.nan, "clip": -math.inf, "reward": 0.5}, step=0)
        record.metrics({"loss": 0.25, "clip": 1.0, "reward": 0.5}, step=1)
        record.summary(summary())
    first = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]
    row = json.loads(first, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert row["loss"] is None
    assert row["nonfinite"] == {"loss": "nan", "clip": "-inf"}
    metrics = load_run(tmp_path / "run").metrics
    assert math.isnan(metrics["loss"][0])
    assert metrics["clip"][0] == -math.inf
    assert metrics["loss"][1] == 0.25
    assert "nonfinite" not in metrics


def test_an_error_in_the_run_leaves_a_readable_record(tmp_path: Path) -> None:
    rollouts, tokens = step_rows(np.random.default_rng(0), step=0, skill=0.5, prompts=1, group=4)

    def run() -> None:
        with RunRecord(tmp_path / "run", flush_every=100) as record:
            record.environment(seeds={"seed": 0}, threads=1)
            record.summary(summary(status="running", after=None))
            record.rollouts(rollouts)
            record.tokens(tokens)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    read = load_run(tmp_path / "run")
    assert read.summary["status"] == "running"
    assert len(read.rollouts) == 4
    assert len(read.tokens) == len(tokens)
    assert read.environment["end"] is not None


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from dro_lab.record import RunRecord
        from tests.record_fixture import step_rows, summary
        import numpy as np
        record = RunRecord(Path({str(tmp_path / "run")!r}), flush_every=4)
        record.summary(summary(status="running", after=None))
        for step in range(7):
            rollouts, tokens = step_rows(np.random.default_rng(0), step=step, skill=0.5, prompts=1, group=2)
            record.rollouts(rollouts); record.tokens(tokens); record.metrics({{"loss": 0.0}}, step=step)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    run = load_run(tmp_path / "run")
    assert sorted(run.rollouts["step"].unique()) == [0, 1, 2, 3]
    assert sorted(run.tokens["step"].unique()) == list(range(7))
    assert list(run.metrics["step"]) == list(range(7))
    with pytest.raises(UserError, match=r"'running' at step 40 of 40, and a finished run is needed"):
        load_run(tmp_path / "run", require_finished=True)


def test_a_row_cut_in_half_by_a_kill_is_left_out(tmp_path: Path) -> None:
    write_record(tmp_path / "run", steps=2)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert list(load_run(tmp_path / "run").metrics["step"]) == [0, 1]
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl line 2 is not valid JSON"):
        load_run(tmp_path / "run")


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    write_record(tmp_path / "run", steps=1)
    with pytest.raises(UserError, match=r"hydra.run.dir=.* already holds a run"):
        RunRecord(tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"hydra.run.dir=.*file/run cannot be written \(Not a directory\)"):
        RunRecord(tmp_path / "file" / "run")


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    rollouts, _ = step_rows(np.random.default_rng(0), step=0, skill=0.5, prompts=1, group=1)
    with RunRecord(tmp_path / "run") as record, pytest.raises(KeyError, match="sigma_bar"):
        record.rollouts([{**rollouts[0], "sigma_bar": 0.1}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, r"schema_version is 1, this dro_lab reads 3"),
        ({"status": "done"}, r"status: 'done' is not one of"),
        ({"seed": "zero"}, r"seed: 'zero' is not of type 'integer'"),
        ({"status": "failed", "error": None}, r"error: None is not of type 'string'"),
        ({"before": {"metric": "q", "value": 0.5}}, r"before: 'low' is a required property|before: .*valid"),
        ({"seconds": {"total": -1.0}}, r"seconds"),
        ({"surprise": 1}, r"'surprise' was unexpected"),
    ],
)
def test_the_summary_schema_rejects(tmp_path: Path, change: dict, message: str) -> None:
    content = write_record(tmp_path / "run", steps=1)
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=message):
        load_run(tmp_path / "run")


def test_a_bad_summary_is_not_written(tmp_path: Path) -> None:
    with RunRecord(tmp_path / "run") as record:
        with pytest.raises(UserError, match="status"):
            record.summary(summary(status="done"))
        with pytest.raises(ValueError, match="unknown parts \\['lunch'\\]"):
            record.summary(summary(seconds={"lunch": 1.0}))
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_value_that_could_not_be_measured_is_null(tmp_path: Path) -> None:
    nothing = Estimate(metric="q", value=math.nan, low=math.nan, high=math.nan, n=0)
    content = write_record(tmp_path / "run", steps=1, after=nothing)
    assert content["after"] == {"metric": "q", "value": None, "low": None, "high": None, "n": 0}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no summary.json, so it is not a run"),
        ({"notes.txt": "hello"}, "holds no summary.json, so it is not a run"),
        ({"summary.json": "{"}, "summary.json is not valid JSON"),
        ({"summary.json": "[]"}, "is not of type 'object'"),
    ],
)
def test_a_foreign_folder_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_run(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        load_run(tmp_path / "missing")


def test_a_damaged_table_is_said(tmp_path: Path) -> None:
    write_record(tmp_path / "run", steps=1)
    (tmp_path / "run" / "rollouts.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"rollouts.parquet cannot be read as parquet"):
        load_run(tmp_path / "run")


def test_the_code_commit_and_versions_are_named(tmp_path: Path) -> None:
    assert versions()["torch"].startswith("2.13.0")
    assert versions()["dro-lab"] is not None
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "code.py").write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "add", "code.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path)["dirty"] is True


class Bytes:
    """A tokenizer of two bytes a token, so that characters are split."""

    def __init__(self, text: str) -> None:
        data = text.encode()
        self.pieces = [data[i : i + 2] for i in range(0, len(data), 2)]

    def decode(self, token_ids: list[int], **options: bool) -> str:
        assert options == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return b"".join(self.pieces[i] if i < len(self.pieces) else b"<eos>" for i in token_ids).decode(
            errors="replace"
        )


@pytest.mark.parametrize("text", ["abcdef", "a€b é", "日本 7 %", " x\ny"])
def test_token_spans_cover_the_reference(text: str) -> None:
    tokenizer = Bytes(text)
    count = len(tokenizer.pieces)
    spans = token_spans([*range(count), count], text, tokenizer=tokenizer)
    assert "".join(piece for piece, _, _ in spans[:-1]) == text
    assert spans[-1] == ("<eos>", None, None)
    for piece, start, end in spans[:-1]:
        assert text[start:end] == piece


def _groups() -> RolloutGroups:
    mask = torch.tensor([[[1, 1, 1, 1], [1, 1, 1, 0]]]).bool()
    reasoning = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]]).bool()
    return RolloutGroups(
        prompts_P=[[{"role": "user", "content": "Why?"}]],
        references_P=["abcd"],
        completions_PG=[["x", "y"]],
        reasonings_PG=[["r0", "r1"]],
        answers_PG=[["a0", "a1"]],
        truncated_PG=torch.tensor([[False, True]]),
        malformed_PG=torch.tensor([[False, False]]),
        completion_ids_PGC=torch.zeros(1, 2, 4, dtype=torch.long),
        completion_mask_PGC=mask,
        reasoning_mask_PGC=reasoning,
        columns_P=[{"id": "row-1", "truth_spans": [[2, 3]]}],
        step=3,
    )


def test_rollout_rows_hold_each_rollout() -> None:
    rewards = Rewards(outcome_PG=torch.tensor([[0.5, math.nan]]), parts={"p": torch.tensor([[1.0, math.nan]])})
    advantages, keep = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    rows = rollout_rows(_groups(), rewards, advantages_PG=advantages, keep_PG=keep, reasons_PG=[["", ""]])
    assert [row["completion_tokens"] for row in rows] == [4, 3]
    assert [row["reasoning_tokens"] for row in rows] == [2, 1]
    assert [row["answer_tokens"] for row in rows] == [2, 2]
    assert [row["kept"] for row in rows] == [True, False]
    assert [json.loads(row["parts"]) for row in rows] == [{"p": 1.0}, {"p": None}]
    assert rows[1]["truncated"] is True
    assert [json.loads(row["verdicts"]) for row in rows] == [[], []]
    assert {row["prompt_id"] for row in rows} == {"row-1"}
    assert prompt_text([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]) == "system: S\n\nuser: U"


def test_verdicts_stand_beside_the_text_of_their_check() -> None:
    rubric = [{"id": "sum", "text": "States the sum?"}, {"id": "hedge", "text": "Hedges?", "expect": "no"}]
    groups = replace(_groups(), columns_P=[{"id": "row-1", "rubric": rubric}])
    rows = rollout_rows(
        groups,
        Rewards(outcome_PG=torch.zeros(1, 2)),
        advantages_PG=torch.zeros(1, 2),
        keep_PG=torch.ones(1, 2, dtype=torch.bool),
        reasons_PG=[["", ""]],
        verdicts_PG=[[{"sum": 1, "hedge": 0}, {"sum": -1, "schema": 1}]],
    )
    assert [json.loads(row["verdicts"]) for row in rows] == [
        [["States the sum?", 1, "yes"], ["Hedges?", 0, "no"]],
        [["States the sum?", -1, "yes"], ["schema", 1, "yes"]],
    ]


def test_answer_rows_hold_each_answer_of_an_evaluation() -> None:
    rows = answer_rows(
        _groups(),
        step=40,
        split="validation",
        decoding="sampled",
        quality_PG=[[1.0, 0.25]],
        win_rate_P=[0.75],
        order_disagreement_P=[0.5],
    )
    assert [row["quality"] for row in rows] == [1.0, 0.25]
    assert [row["sample"] for row in rows] == [0, 1]
    assert {(row["step"], row["split"], row["decoding"], row["row_win_rate"]) for row in rows} == {
        (40, "validation", "sampled", 0.75)
    }
    assert [row["completion_tokens"] for row in rows] == [4, 3]
    base = answer_rows(_groups(), step=0, split="validation", decoding="greedy", quality_PG=[[1.0, 0.25]])
    assert all(math.isnan(row["row_win_rate"]) and math.isnan(row["row_order_disagreement"]) for row in base)
    assert set(base[0]) == set(ANSWERS.names)


def test_token_rows_hold_sigma_weight_and_truth() -> None:
    probs = torch.tensor([[[0.2, 0.5, 0.0], [0.6, 0.5, 0.0]]])
    stats = TokenStats(
        reference_logps_PGR=probs.clamp(min=1e-9).log(),
        reference_mask_PR=torch.tensor([[True, True, False]]),
        reference_ids_PR=torch.tensor([[0, 1, 0]]),
    )
    rewards = Rewards(outcome_PG=torch.zeros(1, 2), token_weights_PR=torch.tensor([[1.0, 0.0, 0.0]]))
    rows = token_rows(_groups(), stats, rewards, tokenizer=Bytes("abcd"), prompts=[0], split="train")
    assert [row["token"] for row in rows] == ["ab", "cd"]
    assert [row["sigma"] for row in rows] == pytest.approx([0.2, 0.0], abs=1e-6)
    assert [row["mean_prob"] for row in rows] == pytest.approx([0.4, 0.5])
    assert [row["weight"] for row in rows] == [1.0, 0.0]
    assert [row["truth"] for row in rows] == [False, True]
    unweighted = token_rows(
        _groups(), stats, Rewards(outcome_PG=torch.zeros(1, 2)), tokenizer=Bytes("abcd"), prompts=[0], split="train"
    )
    assert [row["weight"] for row in unweighted] == [None, None]
    assert token_rows(_groups(), TokenStats(), rewards, tokenizer=Bytes("abcd"), prompts=[0], split="train") == []
