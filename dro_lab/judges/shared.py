"""A judge of several processes: what all of them ask alike, held-out answers, the first one asks and tells the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from dro_lab.errors import UserError
from dro_lab.judges.protocol import UNKNOWN, Judge, Pair, Question
from dro_lab.launch.group import ranks, same

T = TypeVar("T")


class SharedJudge:
    """Passes everything on to ``judge``, from one rank alone within `alike`.

    In training each rank has answers of its own, and asks about them; an evaluation is the same on every rank, and a
    judge that costs money or time is to hear of it once.

    Args:
        judge: of this process.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.name = judge.name
        self.asks_reference = judge.asks_reference
        self._alike = False

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Within it all ranks ask the same, in the same order."""
        self._alike = True
        try:
            yield
        finally:
            self._alike = False

    def verdicts(self, questions: Sequence[Question]) -> list[int]:
        """As the judge's own."""
        return self._told(lambda: self.judge.verdicts(questions), [UNKNOWN] * len(questions))

    def preferences(self, pairs: Sequence[Pair]) -> list[float]:
        """As the judge's own."""
        return self._told(lambda: self.judge.preferences(pairs), [math.nan] * len(pairs))

    def metrics(self) -> Mapping[str, float]:
        """As the judge's own."""
        return self.judge.metrics()

    def attach(self, *, policy: Any, tokenizer: Any, chat_template_kwargs: Mapping[str, Any]) -> None:
        """As the judge's own."""
        self.judge.attach(policy=policy, tokenizer=tokenizer, chat_template_kwargs=chat_template_kwargs)

    def _told(self, ask: Callable[[], list[T]], unknown: list[T]) -> list[T]:
        """What the first rank was answered; its error is everybody's, or the others would wait for ever.

        ``unknown`` where this rank has another number of questions: devices that sample the same to the last digit are
        the rule and not certain, and the first rank's record is the one that counts.
        """
        here = ranks()
        if not self._alike or here.count == 1:
            return ask()
        answers: list[T] = []
        failure: Exception | None = None
        if here.index == 0:
            try:
                answers = ask()
            except Exception as error:
                failure = error
        answers, said = same((answers, failure and f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        if said is not None:
            raise UserError(f"the first process's judge failed: {said}")
        return answers if len(answers) == len(unknown) else unknown
