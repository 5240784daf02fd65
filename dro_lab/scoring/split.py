"""The one place of a run where a completion is split into reasoning and answer.

Reward, gate, loss mask and scorer all use this split, so they agree on where the reasoning ends:

    <think> reasoning </think> answer-marker answer EOS

``<think>`` may already stand in the prompt (see `thinking_mode`). The first closing tag ends the reasoning.

- *truncated*: no end-of-sequence token was sampled within the completion budget.
- *malformed*: the reasoning was never closed, a tag is missing, repeated or nested, text stands before the opening tag,
  or the answer does not begin with the answer marker. Both may hold: a reasoning cut off by the budget is never closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dro_lab.errors import UserError
from dro_lab.scoring.tokens import Reading, TokenText
from dro_lab.types import Prompt, RolloutGroups

ThinkingMode = Literal["open", "closed", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat:
    """How a policy writes reasoning and answer.

    ``close_prefix`` and ``close_suffix`` are the whitespace that the chat template puts before and after the closing
    tag; they matter only where a reference is put in the place of the answer.

    Raises:
        UserError: an empty tag, equal tags, or something other than whitespace around the closing tag.
    """

    answer_marker: str = ""
    open: str = "<think>"
    close: str = "</think>"
    close_prefix: str = "\n"
    close_suffix: str = "\n\n"

    def __post_init__(self) -> None:
        for key, tag in (("reasoning_open", self.open), ("reasoning_close", self.close)):
            if not tag or tag != tag.strip():
                raise UserError(f"model.{key}={tag!r}: must be a tag without surrounding whitespace, e.g. <think>")
        if self.open in self.close or self.close in self.open:
            raise UserError(f"model.reasoning_close={self.close!r}: must differ from reasoning_open={self.open!r}")
        for key, space in (("close_prefix", self.close_prefix), ("close_suffix", self.close_suffix)):
            if space.strip():
                raise UserError(f"model.{key}={space!r}: must be whitespace; text goes into answer_marker")

    @property
    def closing(self) -> str:
        """The closing tag with the whitespace around it."""
        return self.close_prefix + self.close + self.close_suffix


def thinking_mode(prompt_text: str, fmt: ReasoningFormat | None = None) -> ThinkingMode:
    """What the rendered prompt says about reasoning: only its end counts, since instructions may mention the tags.

    ``open``: the chat template opened the reasoning, so the completion begins inside it. ``closed``: thinking is
    switched off by an empty closed block, so the whole completion is the answer. ``absent``: the completion opens the
    block itself.
    """
    fmt = fmt or ReasoningFormat()
    text = prompt_text.rstrip()
    if text.endswith(fmt.open):
        return "open"
    if text.endswith(fmt.close) and text[: -len(fmt.close)].rstrip().endswith(fmt.open):
        return "closed"
    return "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One completion, split.

    ``completion`` is the decoded text before EOS; ``reasoning`` and ``answer`` are stripped of surrounding whitespace,
    the marker is not part of the answer, and the answer is empty where the reasoning was never closed. An answer whose
    marker stands later than at its beginning is read from there (and counts as malformed).

    Tokens ``[reasoning_start, reasoning_end)`` lie wholly inside the reasoning. The first ``reasoning_end`` completion
    ids are kept when a reference is scored, and ``closing`` is the text to append to them: it closes the reasoning
    without repeating whitespace that was sampled, begins with the characters of a token that ran into the closing tag,
    and is empty where no reasoning is open.
    """

    completion: str
    reasoning: str
    answer: str
    truncated: bool
    malformed: bool
    length: int  # completion tokens up to and including EOS
    reasoning_start: int
    reasoning_end: int
    closing: str

    @property
    def reasoning_mask(self) -> list[bool]:
        """Over the ``length`` completion tokens: True inside the reasoning, delimiters excluded."""
        return [self.reasoning_start <= token < self.reasoning_end for token in range(self.length)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitGroups:
    """A step's completions, split: the pieces of `RolloutGroups`, and what the scorer keeps of each rollout."""

    completions_PG: list[list[str]]
    reasonings_PG: list[list[str]]
    answers_PG: list[list[str]]
    truncated_PG: Tensor  # bool
    malformed_PG: Tensor  # bool
    completion_ids_PGC: Tensor  # int64, padded with the tokenizer's pad id
    completion_mask_PGC: Tensor  # bool: up to and including EOS
    reasoning_mask_PGC: Tensor  # bool
    reasoning_ids_PG: list[list[list[int]]]  # the completion ids that are kept for scoring
    closings_PG: list[list[str]]  # the text that closes each kept reasoning
    reasoning_starts_PG: list[list[int]]  # the completion token with which each reasoning begins
    modes_P: list[ThinkingMode]

    def groups(
        self,
        *,
        prompts_P: Sequence[Prompt],
        references_P: Sequence[str],
        columns_P: Sequence[Mapping[str, Any]],
        step: int = 0,
        progress: float = 0.0,
    ) -> RolloutGroups:
        """The step's `RolloutGroups`."""
        return RolloutGroups(
            prompts_P=prompts_P,
            references_P=references_P,
            columns_P=columns_P,
            completions_PG=self.completions_PG,
            reasonings_PG=self.reasonings_PG,
            answers_PG=self.answers_PG,
            truncated_PG=self.truncated_PG,
            malformed_PG=self.malformed_PG,
            completion_ids_PGC=self.completion_ids_PGC,
            completion_mask_PGC=self.completion_mask_PGC,
            reasoning_mask_PGC=self.reasoning_mask_PGC,
            step=step,
            progress=progress,
        )


class Splitter:
    """Splits completions by token ids.

    ``eos_token_ids`` are all ids that end a generation (default: the tokenizer's own).

    Raises:
        UserError: the tokenizer has no end-of-sequence token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, fmt: ReasoningFormat, *, eos_token_ids: Iterable[int] | None = None
    ) -> None:
        ids = [tokenizer.eos_token_id] if eos_token_ids is None else list(eos_token_ids)
        if not ids or ids[0] is None:
            raise UserError("model.path: the tokenizer has no end-of-sequence token; set eos_token in its config")
        self._fmt, self._text, self._eos = fmt, TokenText(tokenizer), frozenset(ids)
        self._pad_id = int(ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
        self._marker = fmt.answer_marker.strip()

    def split(self, ids: Sequence[int], mode: ThinkingMode) -> Split:
        """Split one completion's sampled ids (EOS included where it was sampled; what follows EOS is ignored)."""
        end = next((place for place, token in enumerate(ids) if token in self._eos), len(ids))
        reading = self._text.read(ids[:end])
        text = reading.text()
        inner, after, tags_fit = self._delimit(reading, mode)
        if inner is None:  # no reasoning at all
            start = stop = 0
            reasoning, closing = "", ""
        else:
            start, stop, closing = self._tokens(reading, inner, end)
            reasoning = reading.text(*inner).strip()
        answer, marked = self._answer(reading.text(after)) if after is not None else ("", False)
        return Split(
            completion=text,
            reasoning=reasoning,
            answer=answer,
            truncated=end == len(ids),
            malformed=not (tags_fit and marked),
            length=min(end + 1, len(ids)),
            reasoning_start=start,
            reasoning_end=stop,
            closing=closing,
        )

    def _delimit(self, reading: Reading, mode: ThinkingMode) -> tuple[tuple[int, int | None] | None, int | None, bool]:
        """Units of the reasoning (None: there is none), where the answer begins (None: nowhere), do the tags fit."""
        opened, closed = self._fmt.open, self._fmt.close
        close = reading.find(closed)
        if mode == "closed":
            return None, 0, close < 0 and reading.find(opened) < 0
        stop = None if close < 0 else close
        after = None if close < 0 else close + reading.length(closed)
        begin, fits = 0, close >= 0
        if mode == "absent":
            at = reading.find(opened, 0, stop)
            if at < 0 and close < 0:
                return None, 0, False
            fits = fits and at >= 0 and not reading.text(0, at).strip()
            begin = at + reading.length(opened) if at >= 0 else 0
        repeated = reading.find(opened, begin) >= 0 or (after is not None and reading.find(closed, after) >= 0)
        return (begin, stop), after, fits and not repeated

    def _tokens(self, reading: Reading, inner: tuple[int, int | None], end: int) -> tuple[int, int, str]:
        """First and last token (exclusive) of the reasoning, and the text that closes it when a reference follows."""
        begin, stop = inner
        last = end if stop is None else reading.reach(stop + 1) - 1
        first = min(reading.reach(begin), last)
        # a token may hold the end of the reasoning and the start of the tag: its first part is written again
        cut = "" if stop is None else reading.text(reading.offset(last), stop)
        reasoning = reading.text(begin, stop)
        prefix = self._fmt.close_prefix
        present = next(n for n in range(len(prefix), -1, -1) if reasoning.endswith(prefix[:n]))
        return first, last, cut + prefix[present:] + self._fmt.close + self._fmt.close_suffix

    def _answer(self, text: str) -> tuple[str, bool]:
        """The answer behind its marker, and whether the marker stands first."""
        place = text.find(self._marker)
        if place < 0:
            return text.strip(), False
        return text[place + len(self._marker) :].strip(), not text[:place].strip()

    def split_groups(self, ids_PG: Sequence[Sequence[Sequence[int]]], modes_P: Sequence[ThinkingMode]) -> SplitGroups:
        """Split a step's completions. ``ids_PG`` are unpadded ids; every group has the same number of rollouts."""
        splits = [[self.split(ids, mode) for ids in ids_G] for ids_G, mode in zip(ids_PG, modes_P, strict=True)]
        shape = (len(splits), len(splits[0]) if splits else 0)
        flat = [split for group in splits for split in group]
        width = max((split.length for split in flat), default=0)
        rows = [list(ids)[: split.length] for ids, split in zip((i for g in ids_PG for i in g), flat, strict=True)]
        padded = [row + [self._pad_id] * (width - len(row)) for row in rows]
        places_C = torch.arange(width)
        length_PG1, start_PG1, end_PG1 = (
            torch.tensor([getattr(split, name) for split in flat], dtype=torch.int64).view(*shape, 1)
            for name in ("length", "reasoning_start", "reasoning_end")
        )
        return SplitGroups(
            completions_PG=[[split.completion for split in group] for group in splits],
            reasonings_PG=[[split.reasoning for split in group] for group in splits],
            answers_PG=[[split.answer for split in group] for group in splits],
            truncated_PG=torch.tensor([split.truncated for split in flat], dtype=torch.bool).view(shape),
            malformed_PG=torch.tensor([split.malformed for split in flat], dtype=torch.bool).view(shape),
            completion_ids_PGC=torch.tensor(padded, dtype=torch.int64).view(*shape, width),
            completion_mask_PGC=places_C < length_PG1,
            reasoning_mask_PGC=(places_C >= start_PG1) & (places_C < end_PG1),
            reasoning_ids_PG=[
                [list(ids)[: split.reasoning_end] for ids, split in zip(ids_G, group, strict=True)]
                for ids_G, group in zip(ids_PG, splits, strict=True)
            ],
            closings_PG=[[split.closing for split in group] for group in splits],
            reasoning_starts_PG=[[split.reasoning_start for split in group] for group in splits],
            modes_P=list(modes_P),
        )
