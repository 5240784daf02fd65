"""What a judge does: answers yes/no checks and compares two answers. Quality is the data set's own metric.

A judge's factory is named by ``_target_`` in ``conf/judge/NAME.yaml`` and called as
``factory(task, needs=needs, **keys) -> Judge`` before any weight is loaded; it raises `UserError` where it cannot give
what ``needs`` asks for. A judge that asks the policy itself gets it later, by `Judge.attach`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dro_lab.types import Check, Row

YES, NO, UNKNOWN = 1, 0, -1
"""Verdicts. Unknown never counts as yes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One check put to one answer."""

    row: Row
    answer: str
    check: Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to one query, in the order in which they are shown."""

    row: Row
    first: str
    second: str


class Judge(Protocol):
    """The run's judge."""

    name: str
    asks_reference: bool  # whether it asks the reference policy, which the run then keeps a frozen copy of

    def verdicts(self, questions: Sequence[Question]) -> list[int]:
        """The literal answer to each ``check.text``: YES, NO or UNKNOWN (``check.expect`` is applied by the caller)."""
        ...

    def preferences(self, pairs: Sequence[Pair]) -> list[float]:
        """1 where the first answer is better, 0 where the second is, 0.5 for a tie, nan where the judge cannot say."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Counts since the judge was made (requests, cache hits, tokens, unknown verdicts, ...), for the log."""
        ...

    def attach(self, *, policy: Any, tokenizer: Any, chat_template_kwargs: Mapping[str, Any]) -> None:
        """Called once after the weights are loaded: ``policy`` is the frozen reference policy, None
        where ``asks_reference`` is False."""
        ...
