"""The data set's own rule check of the sampled answer: the ceiling that reference-based rewards are held against."""

from __future__ import annotations

from typing import Any

from dro_lab.errors import UserError
from dro_lab.rewards._tokens import finite_mean
from dro_lab.types import Need, Rewards, RolloutGroups, Stat, Task, TokenStats


def verifier(groups: RolloutGroups, stats: TokenStats) -> Rewards:
    """The judged quality of the rollout's own answer.

        r_i = quality(answer_i, row)        in [0, 1]; nan where the row cannot be judged

    An answer that was never reached is the empty answer. The reward reads no probabilities.

    Raises:
        ValueError: nothing was judged (the module's needs() was not honoured).
    """
    if stats.verifier_PG is None:
        raise ValueError("no verdicts: the reward needs Stat.VERIFIER, and the run's judge did not deliver it")
    outcome_PG = stats.verifier_PG.float()
    return Rewards(outcome_PG=outcome_PG, metrics={"unjudged_share": finite_mean(outcome_PG.isnan().float())})


def needs(**_: Any) -> frozenset[Need]:
    """The judge's quality of each answer."""
    return frozenset({Need(Stat.VERIFIER)})


def prepare(task: Task) -> Task:
    """The data set as it is.

    Raises:
        UserError: its metric is surface similarity, the stand-in where no verifier is named.
    """
    if task.metric_name == "reference_overlap":
        raise UserError(
            f"reward=verifier with dataset {task.name} ({task.provenance.kind}): its metric is reference_overlap, "
            "surface similarity to the reference, which verifies nothing; name a verifier (dataset=jsonl: "
            "dataset.metric=my_lab.metrics.right), or choose reward=rouge or reward=r3"
        )
    return task


def check() -> None:
    """There is nothing to check."""
