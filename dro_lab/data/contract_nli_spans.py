"""Which spans of a long contract a prompt shows: those nearest to the hypothesis in wording, with their neighbours.

The rule reads contract and hypothesis alone, never the label or the annotated evidence. Spans are ranked by BM25
(Robertson and Zaragoza 2009; k1 = 1.2, b = 0.75, statistics of the one contract) against the words of the hypothesis;
in that order each span is shown together with the one before and the one after it, as far as the prompt has room. Of
two equal scores the earlier span comes first. A span that does not fit any more is passed over.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dro_lab.data.contract_nli_prompt import GAP, render_prompt

K1, B = 1.2, 0.75
NEIGHBOURS = (0, -1, 1)


def words(text: str) -> list[str]:
    """Lower-case words and numbers."""
    return re.findall(r"[a-z0-9]+", text.lower())


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract's spans with their word counts, counted once for all hypotheses."""

    texts: Sequence[str]
    counts: Sequence[Counter[str]]
    holding: Counter[str]  # spans that hold a word
    lengths: Sequence[int]  # characters of each span's line in a prompt, its end included

    @classmethod
    def of(cls, texts: Sequence[str]) -> Contract:
        counts = [Counter(words(text)) for text in texts]
        lengths = [len(f"[{n}] {' '.join(text.split())}\n") for n, text in enumerate(texts)]
        return cls(texts, counts, Counter(word for count in counts for word in count), lengths)

    def scores(self, hypothesis: str) -> list[float]:
        """BM25 of every span against the different words of the hypothesis."""
        lengths = [sum(count.values()) for count in self.counts]
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        query = sorted(set(words(hypothesis)))
        weight = {
            word: math.log(1 + (len(self.texts) - self.holding[word] + 0.5) / (self.holding[word] + 0.5))
            for word in query
        }
        return [
            sum(
                weight[word] * count[word] * (K1 + 1) / (count[word] + K1 * (1 - B + B * length / mean))
                for word in query
            )
            for count, length in zip(self.counts, lengths, strict=True)
        ]


def choose(contract: Contract, hypothesis: str, *, limit: int | None) -> list[int]:
    """Numbers of the spans to show, in the contract's order; empty where not even one fits.

    Args:
        contract: the spans.
        hypothesis: the statement to judge.
        limit: most characters of the whole prompt (`render_prompt`); None shows all.
    """
    every = range(len(contract.texts))
    empty = len(render_prompt([], hypothesis))
    if limit is None or empty + sum(contract.lengths) <= limit:
        return list(every)
    scores = contract.scores(hypothesis)
    gap = len(f"{GAP}\n")
    room = limit - empty - gap  # each span may need a gap's line before it, and the last one behind it
    shown: set[int] = set()
    for number in sorted(every, key=lambda n: (-scores[n], n)):
        for near in (number + step for step in NEIGHBOURS):
            if near in every and near not in shown and contract.lengths[near] + gap <= room:
                shown.add(near)
                room -= contract.lengths[near] + gap
    return sorted(shown)
