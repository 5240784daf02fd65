"""From the dataclasses between stages to the rows of ``rollouts``, ``answers`` and ``tokens.parquet``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Prompt, Rewards, RolloutGroups, TokenStats


class Decoder(Protocol):
    """The part of a tokenizer that is needed to show tokens."""

    def decode(self, token_ids: Any, **options: Any) -> Any: ...


def prompt_text(prompt: Prompt) -> str:
    """A conversation as one reads it: the content alone where it is one message, else ``role: content`` blocks."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def rollout_rows(
    groups: RolloutGroups,
    rewards: Rewards,
    *,
    advantages_PG: Tensor,
    keep_PG: Tensor,
    reasons_PG: Sequence[Sequence[str]],
    quality_PG: Tensor | None = None,
    verdicts_PG: Sequence[Sequence[Mapping[str, int]]] | None = None,
) -> list[dict[str, Any]]:
    """One row a rollout of the step, prompt-major.

    ``advantages_PG`` is (P, G); an estimator's (P, G, C) is averaged over the completion tokens by the caller.
    ``reasons_PG`` says why a rollout teaches nothing ("" where it does). ``quality_PG`` in [0, 1], nan
    where it cannot be judged. ``verdicts_PG``: the gate's, by group and rollout.
    """
    prompts, group_size = groups.shape
    parts = {name: values.tolist() for name, values in rewards.parts.items()}
    outcome, advantages, keep = rewards.outcome_PG.tolist(), advantages_PG.tolist(), keep_PG.tolist()
    completions = completion_columns(groups)
    quality = quality_PG.tolist() if quality_PG is not None else [[math.nan] * group_size] * prompts
    rows = []
    for p in range(prompts):
        asked_G = verdicts_PG[p] if verdicts_PG is not None else [{}] * group_size
        for g in range(group_size):
            values = {name: _number(matrix[p][g]) for name, matrix in parts.items()}
            rows.append(
                {
                    **completions[p][g],
                    "step": groups.step,
                    "rollout": g,
                    "reason": reasons_PG[p][g],
                    "verdicts": json.dumps(_verdicts(asked_G[g], groups.columns_P[p]), ensure_ascii=False),
                    "reward": outcome[p][g],
                    "parts": json.dumps(values),
                    "advantage": advantages[p][g],
                    "kept": keep[p][g],
                    "quality": quality[p][g],
                }
            )
    return rows


def _verdicts(verdicts: Mapping[str, int], columns: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """``(check, verdict, expected)``: the check's text where the row's rubric has it, 1 met, 0 not met, -1 unknown."""
    rubric = {check.id: check for check in checks_of(columns, limit=None)}
    return [
        (rubric[name].text, verdict, rubric[name].expect) if name in rubric else (name, verdict, "yes")
        for name, verdict in verdicts.items()
    ]


def answer_rows(
    groups: RolloutGroups,
    *,
    step: int,
    split: str,
    decoding: str,
    quality_PG: Sequence[Sequence[float]],
    win_rate_P: Sequence[float] | None = None,
    order_disagreement_P: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """One row an answer of an evaluation, prompt-major.

    ``win_rate_P`` and ``order_disagreement_P`` are the row's, over its pairs with the base policy's answers; nan where
    there is no such pair.
    """
    completions = completion_columns(groups)
    return [
        {
            **completions[p][g],
            "step": step,
            "split": split,
            "decoding": decoding,
            "sample": g,
            "quality": float(quality_PG[p][g]),
            "row_win_rate": math.nan if win_rate_P is None else float(win_rate_P[p]),
            "row_order_disagreement": math.nan if order_disagreement_P is None else float(order_disagreement_P[p]),
        }
        for p in range(groups.shape[0])
        for g in range(groups.shape[1])
    ]


def completion_columns(groups: RolloutGroups) -> list[list[dict[str, Any]]]:
    """What a row says of a completion, by prompt and rollout: its texts, its lengths, whether it is whole."""
    prompts, group_size = groups.shape
    completion, reasoning = groups.completion_mask_PGC.sum(-1).tolist(), groups.reasoning_mask_PGC.sum(-1).tolist()
    truncated, malformed = groups.truncated_PG.tolist(), groups.malformed_PG.tolist()
    rows = []
    for p in range(prompts):
        shared = {
            "prompt_id": str(groups.columns_P[p]["id"]),
            "prompt": prompt_text(groups.prompts_P[p]),
            "reference": groups.references_P[p],
        }
        rows.append(
            [
                {
                    **shared,
                    "reasoning": groups.reasonings_PG[p][g],
                    "answer": groups.answers_PG[p][g],
                    "reasoning_tokens": reasoning[p][g],
                    "answer_tokens": completion[p][g] - reasoning[p][g],
                    "completion_tokens": completion[p][g],
                    "truncated": truncated[p][g],
                    "malformed": malformed[p][g],
                }
                for g in range(group_size)
            ]
        )
    return rows


def token_rows(
    groups: RolloutGroups,
    stats: TokenStats,
    rewards: Rewards,
    *,
    tokenizer: Decoder,
    prompts: Sequence[int],
    split: str,
) -> list[dict[str, Any]]:
    """One row a reference token of the chosen ``prompts`` (indices into P); empty where no reference was scored.

    ``sigma = std_g p_gj`` (population, unclipped), ``mean_prob = mean_g p_gj``; the weight is the reward's own, None
    where it has none. ``truth`` is None where the row carries no ``truth_spans``. ``split`` is where the prompts come
    from: ``train``, or the held-out split of an evaluation.
    """
    if stats.reference_logps_PGR is None or stats.reference_mask_PR is None or stats.reference_ids_PR is None:
        return []
    rows = []
    for p in prompts:
        length = int(stats.reference_mask_PR[p].sum())
        probs_GR = stats.reference_logps_PGR[p, :, :length].double().exp()
        sigma, mean = probs_GR.std(0, correction=0).tolist(), probs_GR.mean(0).tolist()
        weights = [None] * length
        if rewards.token_weights_PR is not None:
            weights = rewards.token_weights_PR[p, :length].tolist()
        ids = stats.reference_ids_PR[p, :length].tolist()
        spans = token_spans(ids, groups.references_P[p], tokenizer=tokenizer)
        truth = groups.columns_P[p].get("truth_spans")
        for j, (text, start, end) in enumerate(spans):
            rows.append(
                {
                    "step": groups.step,
                    "split": split,
                    "prompt_id": str(groups.columns_P[p]["id"]),
                    "position": j,
                    "token": text,
                    "char_start": start,
                    "char_end": end,
                    "sigma": sigma[j],
                    "weight": weights[j],
                    "mean_prob": mean[j],
                    "truth": None if truth is None else _overlaps(start, end, truth),
                }
            )
    return rows


def token_spans(ids: Sequence[int], reference: str, *, tokenizer: Decoder) -> list[tuple[str, int | None, int | None]]:
    """Text and character span of each token: joined, the texts give what the tokens decode to.

    Tokens that hold only a part of a multi-byte character get "" until the one that completes it, which gets the
    character. A span is None for a token outside the reference's text (the end-of-sequence token).
    """
    spans: list[tuple[str, int | None, int | None]] = []
    done = ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if end < len(ids) and text.endswith("\ufffd") and not reference.startswith(text):
            text = done  # the character is not complete yet
        piece = text[len(done) :]
        inside = reference.startswith(text)
        spans.append((piece, len(done) if inside else None, len(text) if inside else None))
        done = text
    return spans


def _overlaps(start: int | None, end: int | None, spans: Sequence[Sequence[int]]) -> bool:
    if start is None or end is None:
        return False
    return any(start < last and end > first for first, last in spans)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
