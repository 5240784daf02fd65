"""Cutting a reasoning into segments, and choosing the points at which a reference is scored (REPRO, arXiv 2512.01925).

Everything here is pure: token ids, spans and entropies in, spans and token numbers out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from dro_lab.errors import UserError
from dro_lab.scoring.tokens import Reading, TokenText
from dro_lab.types import SEGMENT_ON, PrefixPlan

SEPARATORS = {
    "blank_line": re.compile(r"\r?\n(?:[ \t]*\r?\n)+"),
    "line": re.compile(r"\r?\n(?:[ \t]*\r?\n)*"),
}
"""What ends a segment: a run of two newlines or more (``blank_line``), or of any number, with spaces between them."""

BLANK = " \t\r\n"


class Segment(NamedTuple):
    """Tokens ``[first, last)`` of a completion, and its characters ``[begin, stop)``."""

    first: int
    last: int
    begin: int
    stop: int


class Candidate(NamedTuple):
    """A point at which the reference may be scored: after completion tokens ``[0, prefix)``.

    ``first`` is the segment's first token; the entropy of the distribution that it was drawn from ranks the point.
    """

    prefix: int
    first: int


class Segmenter:
    """Cuts token ids into segments at blank lines, or at line ends.

    A separator is found in the text, whatever tokens carry it: ``.\\n\\n`` in one token, two tokens of one newline
    each, ``\\r\\n\\r\\n``, spaces on the blank line. A segment ends with the token that carries the separator's last
    character. Where that token goes on behind it (``\\n\\nSo``) the whole token belongs to the segment before, since a
    token is never cut; and where it ends inside a multi-byte character, the segment goes on to the token that ends the
    character. Separators at the reasoning's start and end, and any that follow one another, make no segment of their
    own.

    Args:
        tokenizer: the policy's.
        on: ``blank_line`` or ``line``.

    Raises:
        UserError: another ``on``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on: str = "blank_line") -> None:
        if on not in SEPARATORS:
            raise UserError(f"segment_on={on}: must be one of {', '.join(SEGMENT_ON)}; blank_line is the default")
        self._text, self._separator = TokenText(tokenizer), SEPARATORS[on]

    def spans(self, ids: Sequence[int], start: int, end: int) -> list[tuple[int, int]]:
        """Segments ``[first, last)`` that cover the completion's tokens ``[start, end)`` without gaps.

        No token gives no segment; text without a separator gives one.
        """
        return self._spans(self._text.read(ids[:end]), start, end) if start < end else []

    def segments(self, ids: Sequence[int], start: int, end: int) -> list[Segment]:
        """The same with the segments' characters in the text of ``ids``."""
        if start >= end:
            return []
        reading = self._text.read(ids[:end])
        place = len(reading.text(0, reading.offset(start)))
        made = []
        for first, last in self._spans(reading, start, end):
            characters = len(reading.text(reading.offset(first), reading.offset(last)))
            made.append(Segment(first, last, place, place + characters))
            place += characters
        return made

    def _spans(self, reading: Reading, start: int, end: int) -> list[tuple[int, int]]:
        cuts = [start]
        for cut in self._cuts(reading, start, end):
            if not _blank(reading, cuts[-1], cut):
                cuts.append(cut)
            elif len(cuts) > 1:  # a second separator behind a token that went on behind the first; else a leading one
                cuts[-1] = cut
        while len(cuts) > 1 and _blank(reading, cuts[-1], end):
            cuts.pop()
        return list(zip(cuts, [*cuts[1:], end], strict=True))

    def _cuts(self, reading: Reading, start: int, end: int) -> list[int]:
        """Tokens strictly inside ``(start, end)`` before which a segment may end, in order."""
        origin = reading.offset(start)
        cuts: list[int] = []
        text = reading.units(origin, reading.offset(end))
        begin = len(text) - len(text.lstrip(BLANK))  # a separator before all text ends nothing
        for found in self._separator.finditer(text, begin):
            cut = reading.reach(origin + found.end())
            while cut < end and not reading.whole(cut):
                cut += 1
            if start < cut < end and (not cuts or cut > cuts[-1]):
                cuts.append(cut)
        return cuts


def _blank(reading: Reading, first: int, last: int) -> bool:
    return not reading.units(reading.offset(first), reading.offset(last)).strip(BLANK)


def candidates(spans: Sequence[tuple[int, int]], plan: PrefixPlan) -> list[Candidate]:
    """The points inside a reasoning that its segments offer, in order.

    ``score_at="start"``: just before the first token of every segment but the first, which has no reasoning before it.
    ``"end"``: just behind the last token of every segment but the last, which ends with the reasoning. The end of the
    reasoning itself is always scored, and is no candidate.
    """
    if plan.score_at == "end":
        return [Candidate(prefix=last, first=first) for first, last in spans[:-1]]
    return [Candidate(prefix=first, first=first) for first, _ in spans[1:]]


def top_k(entropies: Sequence[float], k: int) -> list[int]:
    """Indices of the ``k`` largest in ascending order; of equal ones the earlier, nan below everything."""
    ranks = [-math.inf if math.isnan(entropy) else entropy for entropy in entropies]
    return sorted(sorted(range(len(ranks)), key=lambda i: -ranks[i])[:k])  # sorting is stable
