"""Computes the union of what the step's consumers declared, once.

A later statistic (reasoning prefixes, entropy, verdicts) joins here: a member of `Stat`, its fields in `FIELDS`, one
branch of `collect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from dro_lab.errors import UserError
from dro_lab.scoring.head import WithoutAdapter
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import SplitGroups
from dro_lab.types import Need, PrefixPlan, RolloutGroups, Stat, TokenStats

Quality = Callable[[RolloutGroups], Tensor]
"""``quality(groups) -> (P, G)``, float32 in [0, 1]; nan where a rollout cannot be judged."""

Verdicts = Callable[[RolloutGroups], tuple[Tensor, Tensor]]
"""``verdicts(groups) -> (verdicts_PGV int8, checks_mask_PV bool)``."""

FIELDS: Mapping[Stat, frozenset[str]] = {
    Stat.REFERENCE: frozenset(
        {"reference_logps_PGR", "reference_mask_PR", "reference_eos_PR", "reference_ids_PR"},
    ),
    Stat.MASKED: frozenset({"masked_logps_PGR"}),
    Stat.RANKS: frozenset({"reference_ranks_PGR"}),
    Stat.PREFIXES: frozenset(
        {
            "prefix_logps_PGKR",
            "prefix_mask_PGK",
            "prefix_ends_PGK",
            "prefix_entropies_PGK",
            "no_reasoning_logps_PR",
            "reference_mask_PR",
            "reference_eos_PR",
            "reference_ids_PR",
        }
    ),
    Stat.VERIFIER: frozenset({"verifier_PG"}),
    Stat.VERDICTS: frozenset({"verdicts_PGV", "checks_mask_PV"}),
}
"""The fields of `TokenStats` that each statistic fills."""


SCORES = {
    "reference_logps_PGR": "logps_PGR",
    "reference_mask_PR": "mask_PR",
    "reference_eos_PR": "eos_PR",
    "reference_ids_PR": "ids_PR",
    "reference_ranks_PGR": "ranks_PGR",
}
"""What the scorer calls a field, where it has another name."""


def scored_with(stat: Stat) -> Stat:
    """The statistic that ``stat`` must share its policy with: all of the reference's tokens are scored under one."""
    return Stat.REFERENCE if stat in (Stat.RANKS, Stat.MASKED, Stat.PREFIXES) else stat


def check_needs(needs: Iterable[Need], policies: Iterable[str] = ("current",)) -> None:
    """Check before training that every need can be met.

    Raises:
        UserError: a need names a policy that is not at hand, or one statistic is wanted under two policies, or two
            components want the reference scored after different prefixes.
    """
    needs, policies, asked = list(needs), sorted(policies), dict[Stat, str]()
    plans = sorted({repr(need.plan) for need in needs if need.stat is Stat.PREFIXES})
    if len(plans) > 1:
        raise UserError(
            f"the reference is asked for after different prefixes ({'; '.join(plans)}); one run scores one set. "
            "Let all components ask for the same k, segment_on, score_at and close_prefix."
        )
    for need in sorted(needs, key=lambda need: (need.stat, need.policy)):
        if need.policy not in policies:
            raise UserError(
                f"a component needs {need.stat} under the {need.policy} policy, which this run does not have; "
                f"available: {', '.join(policies)}"
            )
        group = scored_with(need.stat)
        if asked.setdefault(group, need.policy) != need.policy:
            raise UserError(
                f"{need.stat} is asked for under the {asked[group]} and under the {need.policy} policy; one run "
                "scores it under one. Let all components ask for the same."
            )


def collect(
    needs: Iterable[Need],
    groups: RolloutGroups,
    split: SplitGroups,
    *,
    models: Mapping[str, PreTrainedModel | WithoutAdapter],
    prompt_ids_P: list[list[int]],
    scorer: ReferenceScorer,
    quality: Quality,
    verdicts: Verdicts,
) -> TokenStats:
    """The union of ``needs``, each statistic computed once; fields that nobody asked for stay None.

    ``models`` maps a policy's name (``current``, ``reference``, ``lagged``) to the unwrapped model.

    Raises:
        UserError: as `check_needs`.
    """
    needs = frozenset(needs)
    check_needs(needs, models)
    fields: dict[str, Tensor] = {}
    policy_of = {need.stat: need.policy for need in needs}
    # one policy scores all that has to do with the reference (`check_needs`), and one call reads every text once
    asked = {stat: policy for stat, policy in policy_of.items() if scored_with(stat) is Stat.REFERENCE}
    if asked:
        scores = scorer.score(
            models[next(iter(asked.values()))],
            prompt_ids_P,
            split.reasoning_ids_PG,
            groups.references_P,
            closings_PG=split.closings_PG,
            starts_PG=split.reasoning_starts_PG,
            modes_P=split.modes_P,
            masked=Stat.MASKED in asked,
            ranks=Stat.RANKS in asked,
            prefixes=next((need.plan or PrefixPlan() for need in needs if need.stat is Stat.PREFIXES), None),
        )
        for name in set().union(*(FIELDS[stat] for stat in asked)):
            fields[name] = getattr(scores, SCORES.get(name, name))
    if Stat.VERIFIER in policy_of:
        fields["verifier_PG"] = quality(groups)
    if Stat.VERDICTS in policy_of:
        fields["verdicts_PGV"], fields["checks_mask_PV"] = verdicts(groups)
    return TokenStats(**fields)
