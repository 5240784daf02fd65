"""Which rows fit the policy's context: the rest is refused with its lengths, never cut in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dro_lab.errors import UserError
from dro_lab.types import Prompt, RefusedRow, Row, Task

BATCH = 512


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of one row's rendered prompt and of its reference."""

    prompt: int
    reference: int


def render(prompt: Prompt, tokenizer: Any, *, chat_template_kwargs: Mapping[str, Any] | None = None) -> str:
    """The prompt's text exactly as the policy reads it, with the opening of its own turn. Raises `UserError`."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(prompt), tokenize=False, add_generation_prompt=True, **dict(chat_template_kwargs or {})
            )
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in prompt)
        raise UserError(
            f"the policy's chat template refuses a prompt with the roles {roles}: {error}. Next: leave out "
            f"dataset.system_prompt, reorder the messages, or choose another model."
        ) from error


def row_lengths(
    rows: Sequence[Row], tokenizer: Any, *, chat_template_kwargs: Mapping[str, Any] | None = None
) -> list[Lengths]:
    """Token counts of every row, in order."""
    lengths = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        texts = [render(row.prompt, tokenizer, chat_template_kwargs=chat_template_kwargs) for row in batch]
        prompts = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        references = tokenizer([row.reference for row in batch], add_special_tokens=False, verbose=False)["input_ids"]
        lengths += [Lengths(len(p), len(r)) for p, r in zip(prompts, references, strict=True)]
    return lengths


def fit_rows(
    task: Task,
    tokenizer: Any,
    *,
    context: int,
    max_completion: int,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    closing: str = "\n</think>\n\n",
) -> Task:
    """The task without the rows that do not fit; those join ``task.refused`` with their token counts.

    The longest sequence a row can make is the one the scorer reads: prompt, a reasoning as long as the completion
    budget, the closing of the reasoning with the answer marker, the reference and the end of sequence. It must not
    exceed ``context``. A split may come out empty: the caller decides whether that is an error.

    Args:
        task: the loaded data set.
        tokenizer: the policy's.
        context: tokens the policy can attend to.
        max_completion: tokens of reasoning and answer together.
        chat_template_kwargs: passed to the chat template.
        closing: what stands between reasoning and answer marker when a reference is scored.
    """
    between = len(tokenizer(closing + task.answer_marker, add_special_tokens=False)["input_ids"]) + 1
    splits: dict[str, list[Row]] = {}
    refused: list[RefusedRow] = []
    for split, rows in task.splits.items():
        splits[split] = []
        lengths = row_lengths(rows, tokenizer, chat_template_kwargs=chat_template_kwargs)
        for row, length in zip(rows, lengths, strict=True):
            needed = length.prompt + max_completion + between + length.reference
            if needed <= context:
                splits[split].append(row)
                continue
            reason = (
                f"too long: prompt {length.prompt} + completion {max_completion} + closing {between} + reference "
                f"{length.reference} = {needed} tokens > context {context}"
            )
            refused.append(RefusedRow(where=f"{split} row {row.id}", reason=reason))
    return replace(task, splits=splits, refused=(*task.refused, *refused))
