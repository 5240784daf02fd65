"""Small steps made by hand: groups and statistics that rewards, gates and filters can be called on."""

from __future__ import annotations

import torch

from dro_lab.types import RolloutGroups, TokenStats


def stats_of(probabilities, quality=None) -> TokenStats:
    """Statistics from token probabilities ``[prompt][rollout][token]``, of which the last token is EOS."""
    width = max(len(group[0]) for group in probabilities)
    prompts, rollouts = len(probabilities), len(probabilities[0])
    logps_PGR = torch.zeros(prompts, rollouts, width)
    mask_PR, eos_PR = torch.zeros(prompts, width, dtype=torch.bool), torch.zeros(prompts, width, dtype=torch.bool)
    for p, group in enumerate(probabilities):
        tokens = len(group[0])
        logps_PGR[p, :, :tokens] = torch.tensor(group, dtype=torch.float64).log().float()
        mask_PR[p, : tokens - 1] = True
        eos_PR[p, tokens - 1] = True
    return TokenStats(
        reference_logps_PGR=logps_PGR,
        reference_mask_PR=mask_PR,
        reference_eos_PR=eos_PR,
        reference_ids_PR=torch.arange(width).repeat(prompts, 1),
        verifier_PG=None if quality is None else torch.tensor(quality),
    )


def groups_of(prompts: int, rollouts: int, *, tokens: int = 8) -> RolloutGroups:
    """Groups whose completions are all distinct: 3 reasoning tokens, an answer, EOS."""
    shape = (prompts, rollouts)
    mask_PGC = torch.ones(*shape, tokens, dtype=torch.bool)
    reasoning_PGC = mask_PGC.clone()
    reasoning_PGC[..., 3:] = False
    texts = [[f"{p}.{g}" for g in range(rollouts)] for p in range(prompts)]
    return RolloutGroups(
        prompts_P=[[{"role": "user", "content": f"prompt {p}"}] for p in range(prompts)],
        references_P=[f"reference {p}" for p in range(prompts)],
        completions_PG=[[f"r{text}</think>a{text}" for text in row] for row in texts],
        reasonings_PG=[[f"r{text}" for text in row] for row in texts],
        answers_PG=[[f"a{text}" for text in row] for row in texts],
        truncated_PG=torch.zeros(shape, dtype=torch.bool),
        malformed_PG=torch.zeros(shape, dtype=torch.bool),
        completion_ids_PGC=torch.arange(prompts * rollouts * tokens).view(*shape, tokens),
        completion_mask_PGC=mask_PGC,
        reasoning_mask_PGC=reasoning_PGC,
        columns_P=[{"id": f"row {p}"} for p in range(prompts)],
    )
