"""Scored prefixes made by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from dro_lab.rewards.repro import repro
from dro_lab.types import Rewards, RolloutGroups, TokenStats
from tests.tiny_step import groups_of

VERIFIER = {"_target_": "dro_lab.rewards.verifier.verifier"}


def as_tokens(value) -> list[float]:
    """A point's token log-probabilities; a number is a reference of one token."""
    return [value] if isinstance(value, int | float) else list(value)


def prefix_fields(points, baselines, ends=None) -> dict[str, Tensor]:
    """The prefix fields of `TokenStats`, and the reference's mask.

    Args:
        points: log-probabilities ``[prompt][rollout][point]``, each a number or a list over reference tokens.
        baselines: the same without reasoning, ``[prompt]``.
        ends: the tokens that the prefixes end with, ``[prompt][rollout][point]``; None: 0, 1, 2, ..
    """
    prompts, rollouts = len(points), len(points[0])
    widest = max(len(as_tokens(value)) for value in baselines)
    most = max(len(row) for group in points for row in group)
    mask_PR = torch.zeros(prompts, widest, dtype=torch.bool)
    baseline_PR = torch.zeros(prompts, widest)
    logps_PGKR = torch.zeros(prompts, rollouts, most, widest)
    mask_PGK = torch.zeros(prompts, rollouts, most, dtype=torch.bool)
    ends_PGK = torch.zeros(prompts, rollouts, most, dtype=torch.int64)
    entropies_PGK = torch.zeros(prompts, rollouts, most)
    for p, value in enumerate(baselines):
        mask_PR[p, : len(as_tokens(value))] = True
        baseline_PR[p, : len(as_tokens(value))] = torch.tensor(as_tokens(value))
        for g, row in enumerate(points[p]):
            for j, point in enumerate(row):
                logps_PGKR[p, g, j, : len(as_tokens(point))] = torch.tensor(as_tokens(point))
                mask_PGK[p, g, j] = True
                ends_PGK[p, g, j] = j if ends is None else ends[p][g][j]
                entropies_PGK[p, g, j] = torch.nan if j == len(row) - 1 else 1.0 + j
    return {
        "reference_mask_PR": mask_PR,
        "reference_eos_PR": torch.zeros_like(mask_PR),
        "no_reasoning_logps_PR": baseline_PR,
        "prefix_logps_PGKR": logps_PGKR,
        "prefix_mask_PGK": mask_PGK,
        "prefix_ends_PGK": ends_PGK,
        "prefix_entropies_PGK": entropies_PGK,
    }


def reasoning_groups(prompts: int, rollouts: int, *, tokens: int = 12, reasoning: int = 8) -> RolloutGroups:
    """Groups whose completions have this many tokens, the first ``reasoning`` of which are reasoning."""
    groups = groups_of(prompts, rollouts, tokens=tokens)
    groups.reasoning_mask_PGC[..., :reasoning] = True
    return groups


def scored(points, baselines, ends=None, **keys) -> Rewards:
    """The reward of series made by hand; the verifier finds every answer right."""
    shape = len(points), len(points[0])
    stats = TokenStats(verifier_PG=torch.ones(shape), **prefix_fields(points, baselines, ends))
    return repro(reasoning_groups(*shape), stats, **{"outcome": VERIFIER, **keys})


def process(got: Rewards, p: int = 0, g: int = 0) -> dict[int, float]:
    """Token -> process reward of one rollout."""
    places = got.process_mask_PGC[p, g].nonzero().flatten().tolist()
    return {place: got.process_PGC[p, g, place].item() for place in places}
