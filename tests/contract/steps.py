"""Steps to call components on, and their transformations: permuted, padded, cut, emptied.

Field names carry their axes (``completion_ids_PGC``), so one rule transforms every dataclass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dro_lab.scoring.stats import FIELDS
from dro_lab.types import Need, Rewards, RolloutGroups, TokenStats
from tests.tiny_step import groups_of, stats_of

P, G, LENGTHS = 3, 5, (12, 4, 7)


@dataclass(frozen=True)
class Step:
    """Everything that any component takes."""

    groups: RolloutGroups
    stats: Any  # TokenStats, or a stand-in that watches what is read
    rewards: Rewards
    keep_PG: Tensor
    loss_mask_PGC: Tensor


def a_step(seed: int = 0, rollouts: int = G) -> Step:
    """A lively step: references of different lengths, one token a group that never varies, distinct rollouts."""
    draw = torch.Generator().manual_seed(seed)
    probabilities = []
    for length in LENGTHS:
        group = 0.02 + 0.96 * torch.rand(rollouts, length + 1, generator=draw, dtype=torch.float64)
        group[:, 1] = 0.3
        probabilities.append(group.tolist())
    quality = torch.rand(P, rollouts, generator=draw).tolist()
    groups = structured(groups_of(P, rollouts))
    keep_PG = torch.ones(P, rollouts, dtype=torch.bool)
    keep_PG[1] = False
    rewards = Rewards(
        outcome_PG=torch.rand(P, rollouts, generator=draw), **process_of(groups, torch.Generator().manual_seed(seed))
    )
    stats = replace(stats_of(probabilities, quality), **verdicts_of(rollouts))
    stats = replace(stats, **more_scores(stats, draw))
    return Step(groups, stats, rewards, keep_PG, groups.completion_mask_PGC.clone())


def process_of(groups: RolloutGroups, draw: torch.Generator) -> dict[str, Any]:
    """Credit behind the first token of each reasoning; the last prompt's rollouts have none."""
    shape = groups.completion_mask_PGC.shape
    scored_PGC = groups.reasoning_mask_PGC & (torch.rand(shape, generator=draw) < 0.7)
    scored_PGC[..., 0], scored_PGC[..., 1] = False, True
    scored_PGC[-1] = False
    process_PGC = torch.where(scored_PGC, torch.rand(shape, generator=draw) - 0.3, 0.0)
    return {"process_PGC": process_PGC, "process_mask_PGC": scored_PGC, "process_weight": 0.5}


def without_process(rewards: Rewards) -> Rewards:
    """The outcomes alone."""
    return replace(rewards, process_PGC=None, process_mask_PGC=None, process_weight=0.0)


def more_scores(stats: TokenStats, draw: torch.Generator) -> dict[str, Tensor]:
    """The reference with the reasoning hidden (nearly the same for a group's rollouts), and its tokens' ranks."""
    scored_P1R = (stats.reference_mask_PR | stats.reference_eos_PR)[:, None]
    shape_PGR = stats.reference_logps_PGR.shape
    masked_PGR = 0.5 * torch.rand(P, 1, shape_PGR[2], generator=draw) - 3 + 0.1 * torch.rand(shape_PGR, generator=draw)
    ranks_PGR = torch.randint(0, 60, shape_PGR, generator=draw).float()
    return {
        "masked_logps_PGR": masked_PGR.where(scored_P1R, 0.0),
        "reference_ranks_PGR": ranks_PGR.where(scored_P1R, 0.0),
        **prefix_scores(stats, draw),
    }


def prefix_scores(stats: TokenStats, draw: torch.Generator) -> dict[str, Tensor]:
    """The reference after one to three prefixes of a reasoning of three tokens, the last of which ends the last."""
    rollouts, width = stats.reference_logps_PGR.shape[1:]
    scored_PR = stats.reference_mask_PR | stats.reference_eos_PR
    count_PG = 1 + (torch.arange(P)[:, None] + torch.arange(rollouts)) % 3
    place_PGK = torch.arange(3).expand(P, rollouts, 3)
    mask_PGK = place_PGK < count_PG[..., None]
    last_PGK = place_PGK == count_PG[..., None] - 1
    logps_PGKR = -3 * torch.rand(P, rollouts, 3, width, generator=draw)
    baseline_PR = -3 * torch.rand(P, width, generator=draw)
    return {
        "prefix_logps_PGKR": logps_PGKR.where(mask_PGK[..., None] & scored_PR[:, None, None], 0.0),
        "prefix_mask_PGK": mask_PGK,
        "prefix_ends_PGK": place_PGK.masked_fill(last_PGK, 2).where(mask_PGK, 0),
        "prefix_entropies_PGK": torch.rand(P, rollouts, 3, generator=draw).masked_fill(last_PGK, torch.nan),
        "no_reasoning_logps_PR": baseline_PR.where(scored_PR, 0.0),
    }


def structured(groups: RolloutGroups) -> RolloutGroups:
    """Answers to the first prompt that keep, break and miss a schema; the second is judged as text, the third not."""
    asked = {"schema": {"properties": {"n": {"type": "integer"}}, "required": ["n"]}, "predicates": ["is_a_number"]}
    forms = ['{"n": %d}', '{"n": "%d"}', "it is %d", '{"n": %d, "n": 1}', '{"m": %d}']
    answers = [[forms[g % len(forms)] % g for g in range(len(groups.answers_PG[0]))], *groups.answers_PG[1:]]
    columns = [{**groups.columns_P[0], **asked}, {**groups.columns_P[1], "predicates": ["is_a_number"]}]
    return replace(
        groups,
        answers_PG=answers,
        references_P=['{"n": 7}', "12", *groups.references_P[2:]],
        columns_P=[*columns, *groups.columns_P[2:]],
    )


def verdicts_of(rollouts: int = G) -> dict[str, Tensor]:
    """Three checks, of which nobody meets the last; two checks that most meet; none."""
    verdicts_PGV = torch.full((P, rollouts, 3), -1, dtype=torch.int8)
    verdicts_PGV[0, :, :2] = (torch.arange(rollouts)[:, None] % 3 != torch.arange(2)).to(torch.int8)
    verdicts_PGV[0, :, 2] = -(torch.arange(rollouts) % 2).to(torch.int8)
    verdicts_PGV[1, :, :2] = 1
    verdicts_PGV[1, 0, 1] = -1
    mask_PV = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    return {"verdicts_PGV": verdicts_PGV, "checks_mask_PV": mask_PV}


def axes(name: str) -> str:
    """``completion_ids_PGC`` -> ``PGC``."""
    last = name.rsplit("_", 1)[-1]
    return last if last.isupper() else ""


def _map(obj: Any, axis: str, change: Any) -> Any:
    """``obj`` with ``change(value, dimension)`` applied to every field that has the axis."""
    changes: dict[str, Any] = {}
    for field in fields(obj):
        value = getattr(obj, field.name)
        if is_dataclass(value):
            changes[field.name] = _map(value, axis, change)
        elif field.name == "parts" and axis in "PG":
            changes[field.name] = {key: change(part, "PG".index(axis)) for key, part in value.items()}
        elif value is not None and axis in axes(field.name):
            changes[field.name] = change(value, axes(field.name).index(axis))
    return replace(obj, **changes)


def reorder(obj: Any, axis: str, order: list[int]) -> Any:
    """Prompts (``P``) or rollouts (``G``) in another order, or only some of them."""

    def change(value: Any, dimension: int) -> Any:
        if isinstance(value, Tensor):
            return value.index_select(dimension, torch.tensor(order))
        if dimension == 0:
            return [value[place] for place in order]
        return [change(inner, dimension - 1) for inner in value]

    return _map(obj, axis, change)


def widen(obj: Any, axis: str, extra: int = 3) -> Any:
    """``extra`` columns of padding on tokens (``C``), reference tokens (``R``), prefixes (``K``) or checks (``V``)."""

    def change(value: Tensor, dimension: int) -> Tensor:
        shape = list(value.shape)
        shape[dimension] = extra
        return torch.cat([value, torch.zeros(shape, dtype=value.dtype)], dimension)

    return _map(obj, axis, change)


def emptied(step: Step, p: int, g: int) -> Step:
    """One rollout without reasoning, answer and tokens."""
    groups, change = copy.deepcopy(step.groups), {}
    for name in ("completions_PG", "reasonings_PG", "answers_PG"):
        getattr(groups, name)[p][g] = ""
    for name in ("completion_mask_PGC", "reasoning_mask_PGC"):
        change[name] = getattr(groups, name).clone()
        change[name][p, g] = False
    mask_PGC, scored_PGC = step.loss_mask_PGC.clone(), step.rewards.process_mask_PGC.clone()
    mask_PGC[p, g] = scored_PGC[p, g] = False
    rewards = replace(step.rewards, process_mask_PGC=scored_PGC)
    return replace(step, groups=replace(groups, **change), rewards=rewards, loss_mask_PGC=mask_PGC)


def flat(result: Any) -> dict[str, Any]:
    """A component's result as named tensors and lists, by name with axes."""
    if isinstance(result, Tensor):
        return {f"result_{'PGC'[: result.ndim]}": result}
    named: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if is_dataclass(value):
            named.update({f"{field.name}_{key}": inner for key, inner in flat(value).items()})
        elif field.name == "parts":
            named.update({f"{key}_PG": part for key, part in value.items()})
        elif field.name == "metrics":
            named.update(value)
        elif axes(field.name) and value is not None:
            named[field.name] = value
    return named


def assert_same(got: dict[str, Any], want: dict[str, Any], *, tolerance: float = 1e-6) -> None:
    """Equal names, shapes, types and values (nan equals nan)."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(got[name], value, atol=tolerance, rtol=tolerance, equal_nan=True, msg=name)
        elif isinstance(value, float):
            close = torch.isclose(torch.tensor(got[name]), torch.tensor(value), atol=1e-5, equal_nan=True)
            assert close, name
        else:
            assert list(got[name]) == list(value), name


class OnlyDeclared:
    """Statistics of which only the declared ones can be read."""

    def __init__(self, stats: TokenStats, needs: Iterable[Need]) -> None:
        self._stats, self._allowed = stats, {name for need in needs for name in FIELDS[need.stat]}

    def __getattr__(self, name: str) -> Any:
        assert name in self._allowed, f"{name} is read but not declared"
        return getattr(self._stats, name)
