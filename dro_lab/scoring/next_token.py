"""Log-probabilities of the token that follows a prompt: what a judge's yes or no is read from.

Beside the one scorer of references (`dro_lab.scoring.reference`) the only code of a run that asks a policy for
log-probabilities, under the same rules: temperature 1, float32, no gradients, dropout off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dro_lab.scoring.head import WithoutAdapter, asked

PLACES_THROUGH_HEAD = 1024
"""Positions that go through the LM head at once, at most: bounds the largest logits tensor."""


def next_token_logps(
    model: PreTrainedModel | WithoutAdapter,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[int],
    *,
    tokens_per_batch: int = 2048,
) -> Tensor:
    """(prompts, tokens) float32 on the CPU: ``log p(token | prompt)``, the log-softmax over the whole vocabulary.

    Prompts of similar length share a forward; they are padded on the right, which causal attention never sees, so a
    row's values do not depend on its neighbours.

    Args:
        model: the policy; its train/eval flags are left as found.
        prompts: token ids, unpadded and not empty.
        tokens: the tokens asked for, the same for all prompts.
        tokens_per_batch: padded tokens of one forward.

    Raises:
        ValueError: an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt without tokens has no next token; give at least one")
    found = torch.zeros(len(prompts), len(tokens))
    wanted = torch.tensor(list(tokens), dtype=torch.int64, device=model.device)
    with torch.no_grad(), asked(model) as policy:
        for batch in _batches(prompts, tokens_per_batch):
            found[batch] = _forward(policy, [prompts[number] for number in batch], wanted)
    return found


def _batches(prompts: Sequence[Sequence[int]], tokens_per_batch: int) -> Iterator[list[int]]:
    """Numbers of the prompts, sorted by length, in batches within both bounds."""
    batch: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number])):
        width = len(prompts[number])
        shortest = len(prompts[batch[0]]) if batch else width
        rows = len(batch) + 1
        if batch and (rows * width > tokens_per_batch or rows * (width - shortest + 1) > PLACES_THROUGH_HEAD):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _forward(model: PreTrainedModel, prompts: Sequence[Sequence[int]], wanted: Tensor) -> Tensor:
    width, shortest = max(map(len, prompts)), min(map(len, prompts))
    ids_BT = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        ids_BT[row, : len(prompt)] = torch.tensor(list(prompt))
        mask_BT[row, : len(prompt)] = 1
    logits_BTV = model(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BT.to(model.device),
        use_cache=False,
        logits_to_keep=width - shortest + 1,
    ).logits
    last_B = torch.tensor([len(prompt) - shortest for prompt in prompts], device=logits_BTV.device)
    logits_BV = logits_BTV[torch.arange(len(prompts), device=logits_BTV.device), last_B].float()
    return (logits_BV[:, wanted] - logits_BV.logsumexp(1, keepdim=True)).cpu()
