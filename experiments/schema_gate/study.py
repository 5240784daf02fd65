"""``python -m experiments.schema_gate.study``: which gate rejects which faulty answer, and which sound ones too.

Every answer is a twin's reference, changed in one way (`experiments.schema_gate.faults`). A gate's verdicts on one
answer decide twice: an answer *fails* if it breaks any check (what coverage sees, and nu = 1), and if it meets less
than 60% of them (the paper's nu for rubrics). The policy judge is the twin's shipped policy, on fewer rows.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dro_lab.gating._decide import portion
from dro_lab.gating.schema import verdicts as schema_verdicts
from dro_lab.judges.protocol import YES, Judge, Question
from dro_lab.judges.quality import met
from dro_lab.record.environment import git_state
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Need, Row, Stat, Task
from experiments.schema_gate.faults import FAULTS, SOUND, Change

FOLDER = Path(__file__).parent
Answered = Sequence[tuple[Row, str]]
Gate = Callable[[Answered], list[list[int]]]
"""Verdicts (1 met, 0 not, -1 unknown) of every check on every answer."""


def by_schema(answered: Answered) -> list[list[int]]:
    """gating=schema."""
    return [list(schema_verdicts(answer, row).values()) for row, answer in answered]


def by_judge(judge: Judge) -> Gate:
    """gating=rubric under a judge."""

    def verdicts(answered: Answered) -> list[list[int]]:
        rubrics = [checks_of(row.columns) for row, _ in answered]
        questions = [
            Question(row=row, answer=answer, check=check)
            for (row, answer), checks in zip(answered, rubrics, strict=True)
            for check in checks
        ]
        found = iter(judge.verdicts(questions))
        return [[met(next(found), check) for check in checks] for checks in rubrics]

    return verdicts


def rejects(verdicts: Sequence[int], nu: float) -> bool:
    """Whether an answer meets less than ``nu`` of its checks; unknown is not met."""
    return sum(verdict == YES for verdict in verdicts) < portion(nu, len(verdicts))


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927)."""
    share, spread = count / total, z * z / total
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / total + spread / total / 4)
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def answers(rows: Sequence[Row], change: Change, *, seed: int) -> list[tuple[Row, str]]:
    """The rows' answers under one change; rows for which it makes no sense are left out."""
    rng = np.random.default_rng(seed)
    made = [(row, change(row, rng)) for row in rows]
    return [(row, answer) for row, answer in made if answer is not None]


def table(rows: Sequence[Row], gates: Sequence[tuple[str, Gate, int]], dataset: str, *, seed: int) -> list[str]:
    """One line a kind of answer, two cells a gate: the share rejected if any check, or 40% of them, is not met."""
    heads = [f"{name}, {form}" for name, _, _ in gates for form in ("any check", "nu 0.6")]
    lines = [f"| answer | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for title, changes in (("fault", FAULTS[dataset]), ("sound", SOUND[dataset])):
        for name, change in changes.items():
            cells = []
            for _, gate, most in gates:
                verdicts = gate(answers(rows[:most], change, seed=seed))
                for nu in (1.0, 0.6):
                    count = sum(rejects(found, nu) for found in verdicts)
                    low, high = wilson(count, len(verdicts))
                    cells.append(f"{count / len(verdicts):.3f} [{low:.3f}, {high:.3f}] of {len(verdicts)}")
            lines.append(f"| {title}: {name} | {' | '.join(cells)} |")
    return lines


def policy_judge(cfg: Any, task: Task) -> Judge:
    """The twin's shipped policy as a judge."""
    from dro_lab.judges.policy import policy
    from dro_lab.models import load_tokenizer, load_weights, policy_spec

    spec = policy_spec(cfg.model, dataset=task.name)
    judge = policy(task, needs=frozenset({Need(Stat.VERDICTS)}))
    judge.attach(
        policy=load_weights(spec).eval(),
        tokenizer=load_tokenizer(spec),
        chat_template_kwargs=spec.chat_template_kwargs,
    )
    return judge


def main() -> None:
    """Write results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500, help="rows a twin for the schema gate and the exact rubric")
    parser.add_argument(
        "--policy-rows", type=int, default=100, help="rows a twin for the policy judge; 0 leaves it out"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER / "results.md")
    given = parser.parse_args()

    from dro_lab.build import load_task
    from dro_lab.data.__main__ import compose
    from dro_lab.judges.exact import exact

    begun, state = time.monotonic(), git_state()
    lines = [
        "# Results",
        "",
        f"`python -m experiments.schema_gate.study --rows {given.rows} --policy-rows {given.policy_rows} "
        f"--seed {given.seed}`, commit {(state['commit'] or 'unknown')[:12]}"
        f"{', with changes' if state['dirty'] else ''}, {datetime.now(UTC).date()}.",
        "",
        "Share of the answers rejected, 95% Wilson interval, n. Faults: the catch rate. Sound: the false rejects.",
    ]
    for dataset in FAULTS:
        cfg = compose([f"dataset={dataset}", f"dataset.sizes.train={given.rows}", f"seed={given.seed}"])
        task = load_task(cfg)
        rows = task.splits["train"]
        gates: list[tuple[str, Gate, int]] = [
            ("schema gate", by_schema, given.rows),
            ("exact rubric", by_judge(exact(task, needs=frozenset({Need(Stat.VERDICTS)}))), given.rows),
        ]
        if given.policy_rows:
            gates.append(("policy judge", by_judge(policy_judge(cfg, task)), given.policy_rows))
        lines += ["", f"## {dataset} ({task.provenance})", "", *table(rows, gates, dataset, seed=given.seed)]
    lines += ["", f"It took {time.monotonic() - begun:.0f} s."]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
