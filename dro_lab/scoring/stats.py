"""Computes the union of what the step's consumers declared, once.

A later statistic (reasoning prefixes, entropy, verdicts) joins here: a member of `Stat`, its fields in `FIELDS`, one
branch of `collect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from dro_lab.errors import UserError
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import SplitGroups
from dro_lab.types import Need, RolloutGroups, Stat, TokenStats

Judge = Callable[[RolloutGroups], Tensor]
"""``judge(groups) -> quality (P, G)``, float32 in [0, 1]; nan where a rollout cannot be judged."""

FIELDS: Mapping[Stat, frozenset[str]] = {
    Stat.REFERENCE: frozenset(
        {"reference_logps_PGR", "reference_mask_PR", "reference_eos_PR", "reference_ids_PR"},
    ),
    Stat.VERIFIER: frozenset({"verifier_PG"}),
}
"""The fields of `TokenStats` that each statistic fills."""


def check_needs(needs: Iterable[Need], policies: Iterable[str] = ("current",)) -> None:
    """Check before training that every need can be met.

    Raises:
        UserError: a need names a policy that is not at hand, or one statistic is wanted under two policies.
    """
    policies, asked = sorted(policies), dict[Stat, str]()
    for need in sorted(needs, key=lambda need: (need.stat, need.policy)):
        if need.policy not in policies:
            raise UserError(
                f"a component needs {need.stat} under the {need.policy} policy, which this run does not have; "
                f"available: {', '.join(policies)}"
            )
        if asked.setdefault(need.stat, need.policy) != need.policy:
            raise UserError(
                f"{need.stat} is asked for under the {asked[need.stat]} and under the {need.policy} policy; one run "
                "scores it under one. Let all components ask for the same."
            )


def collect(
    needs: Iterable[Need],
    groups: RolloutGroups,
    split: SplitGroups,
    *,
    models: Mapping[str, PreTrainedModel],
    prompt_ids_P: list[list[int]],
    scorer: ReferenceScorer,
    judge: Judge,
) -> TokenStats:
    """The union of ``needs``, each statistic computed once; fields that nobody asked for stay None.

    ``models`` maps a policy's name (``current``) to the unwrapped model.

    Raises:
        UserError: as `check_needs`.
    """
    needs = frozenset(needs)
    check_needs(needs, models)
    fields: dict[str, Tensor] = {}
    for need in needs:
        if need.stat is Stat.REFERENCE:
            scores = scorer.reference_logps(
                models[need.policy],
                prompt_ids_P,
                split.reasoning_ids_PG,
                groups.references_P,
                closings_PG=split.closings_PG,
            )
            fields["reference_logps_PGR"] = scores.logps_PGR
            fields["reference_mask_PR"] = scores.mask_PR
            fields["reference_eos_PR"] = scores.eos_PR
            fields["reference_ids_PR"] = scores.ids_PR
        elif need.stat is Stat.VERIFIER:
            fields["verifier_PG"] = judge(groups)
        else:
            raise NotImplementedError(f"no statistic {need.stat}")
    return TokenStats(**fields)
