"""How far the policy went from where it started, on the answers that an evaluation sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dro_lab.evaluation.intervals import FloatArray
from dro_lab.scoring.head import WithoutAdapter, asked, plain_head

TOKENS, CHUNK = 2048, 512
"""Padded tokens of one forward, and positions whose whole distributions are held at once."""


SMALL = 50_000_000
"""Parameters up to which a second copy of the policy costs next to nothing."""


def keeps_start(asked: str | bool, model: PreTrainedModel) -> bool:
    """Whether a run keeps the policy before training for this alone: where asked, and under ``auto`` where it is
    small."""
    return asked is True or (asked == "auto" and model.num_parameters() <= SMALL)


@torch.no_grad()
def kl_to_start(
    model: PreTrainedModel | WithoutAdapter,
    start: PreTrainedModel | WithoutAdapter,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    group_size: int,
) -> FloatArray:
    """(P,): KL(policy || start) a completion token in nats, the mean over the tokens of a prompt's completions.

        KL_t = sum over words v of p(v | x, y_<t) (log p(v | x, y_<t) - log q(v | x, y_<t))

    At each place it is exact, over the whole vocabulary at temperature 1, and so never negative; the places are those
    of the sampled completions. An estimate from the sampled token alone needs many more completions.

    Args:
        model: p, the policy as it is.
        start: q, the policy before training.
        prompt_ids: one a prompt.
        completion_ids: ``group_size`` a prompt, prompt-major, with whatever ended them. A prompt without any token
            gets nan.
    """
    rows = [(list(prompt_ids[n // group_size]), list(ids)) for n, ids in enumerate(completion_ids)]
    total_N = torch.zeros(len(rows), dtype=torch.float64)
    for batch in _batches(rows):
        owner = torch.repeat_interleave(torch.tensor(batch), torch.tensor([len(rows[n][1]) for n in batch]))
        hidden, plain = [], []
        for policy in (model, start):
            with asked(policy) as body:
                hidden.append(_hidden(body, [rows[n] for n in batch]))
            plain.append(body)  # its head is no adapter's
        for places, p_ND, q_ND in zip(owner.split(CHUNK), hidden[0].split(CHUNK), hidden[1].split(CHUNK), strict=True):
            total_N.index_add_(0, places, _kl(_logps(plain[0], p_ND), _logps(plain[1], q_ND)).double().cpu())
    count_N = torch.tensor([len(ids) for _, ids in rows], dtype=torch.float64)
    sums_PG, counts_PG = (values.view(-1, group_size).numpy() for values in (total_N, count_N))
    tokens_P = counts_PG.sum(1)
    return np.where(tokens_P > 0, sums_PG.sum(1) / np.maximum(tokens_P, 1), np.nan)


def _batches(rows: Sequence[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
    """Rows of similar length whose padded forward stays below `TOKENS`; rows without a completion are left out."""
    batch: list[int] = []
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    for number in sorted((n for n, (_, completion) in enumerate(rows) if completion), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[number] > TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _hidden(policy: PreTrainedModel, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """(N, D): what the policy knows before each completion token, row by row; logits where its head does more than
    multiply."""
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    texts = [[*prompt, *completion] for prompt, completion in rows]
    ids_BT = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=policy.device)
    length_B1 = torch.tensor([[len(text)] for text in texts], device=policy.device)
    mask_BT = (torch.arange(width, device=policy.device) < length_B1).long()
    asked = policy.base_model if plain_head(policy) else policy
    out = asked(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
    found_BTD = out.last_hidden_state if plain_head(policy) else out.logits
    return torch.cat(
        [
            row_TD[len(prompt) - 1 : len(prompt) + len(completion) - 1]
            for row_TD, (prompt, completion) in zip(found_BTD, rows, strict=True)
        ]
    )


def _logps(policy: PreTrainedModel, found_ND: Tensor) -> Tensor:
    logits_NV = policy.get_output_embeddings()(found_ND) if plain_head(policy) else found_ND
    return logits_NV.float().log_softmax(1)


def _kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """(N,). A word that the policy gives no probability counts nothing."""
    lowest = torch.finfo(torch.float32).min
    return (p_NV.exp() * (p_NV.clamp(min=lowest) - q_NV.clamp(min=lowest))).sum(1).clamp(min=0.0)
