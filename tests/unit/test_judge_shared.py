"""A judge that several processes share: the first one asks about what all ask alike, and tells the others."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dro_lab.errors import UserError
from dro_lab.judges import shared
from dro_lab.judges.protocol import NO, UNKNOWN, YES, Pair, Question
from dro_lab.judges.shared import SharedJudge
from dro_lab.launch.group import Ranks
from dro_lab.types import Check, Row

ROW = Row(id="q", prompt=[{"role": "user", "content": "?"}], reference="r", columns={})


class Asked:
    """Says yes to every answer that begins with y; counts the questions."""

    name, asks_reference = "asked", False

    def __init__(self, *, fails: bool = False) -> None:
        self.questions, self.fails = 0, fails

    def verdicts(self, questions: Sequence[Question]) -> list[int]:
        self.questions += len(questions)
        if self.fails:
            raise ConnectionError("no answer")
        return [YES if question.answer.startswith("y") else NO for question in questions]

    def preferences(self, pairs: Sequence[Pair]) -> list[float]:
        self.questions += len(pairs)
        return [1.0 if pair.first > pair.second else 0.0 for pair in pairs]

    def metrics(self) -> dict[str, float]:
        return {"requests": float(self.questions)}


def questions(*answers: str) -> list[Question]:
    return [
        Question(row=ROW, answer=answer, check=Check(id="c", text="t", weight=1.0, expect="yes")) for answer in answers
    ]


def two_ranks(monkeypatch: pytest.MonkeyPatch, ask: Callable[[int], Any]) -> list[Any]:
    """``ask(rank)`` on two threads that stand for ranks, whose `same` waits for the first one."""
    rank, told, box = threading.local(), threading.Event(), []

    def same(value: Any) -> Any:
        if rank.index == 0:
            box.append(value)
            told.set()
        assert told.wait(5)
        return box[0]

    monkeypatch.setattr(shared, "ranks", lambda: Ranks(rank.index, 2))
    monkeypatch.setattr(shared, "same", same)
    found: list[Any] = [None, None]

    def run(index: int) -> None:
        rank.index = index
        try:
            found[index] = ask(index)
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return found


def alike(judges: Sequence[SharedJudge], ask: Callable[[SharedJudge], Any]) -> Callable[[int], Any]:
    def on(index: int) -> Any:
        with judges[index].alike():
            return ask(judges[index])

    return on


def test_what_all_ask_alike_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [Asked(), Asked()]
    judges = [SharedJudge(judge) for judge in own]
    found = two_ranks(monkeypatch, alike(judges, lambda judge: judge.verdicts(questions("yes", "no"))))
    assert found == [[YES, NO], [YES, NO]]
    assert [judge.questions for judge in own] == [2, 0]
    assert judges[0].metrics() == {"requests": 2.0}
    pairs = [Pair(row=ROW, first="b", second="a")]
    found = two_ranks(monkeypatch, alike(judges, lambda judge: judge.preferences(pairs)))
    assert found == [[1.0], [1.0]]
    assert [judge.questions for judge in own] == [3, 0]


def test_each_rank_asks_about_its_own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [Asked(), Asked()]
    judges = [SharedJudge(judge) for judge in own]
    found = two_ranks(monkeypatch, lambda index: judges[index].verdicts(questions("yes" if index else "no")))
    assert found == [[NO], [YES]]
    assert [judge.questions for judge in own] == [1, 1]


def test_a_judge_that_fails_fails_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    judges = [SharedJudge(Asked(fails=True)), SharedJudge(Asked())]
    first, second = two_ranks(monkeypatch, alike(judges, lambda judge: judge.verdicts(questions("yes"))))
    assert isinstance(first, ConnectionError)
    assert isinstance(second, UserError)
    assert "the first process's judge failed: ConnectionError: no answer" in str(second)


def test_a_rank_with_other_questions_knows_nothing_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that do not sample alike to the last digit: the first rank's record is the one that is written."""
    judges = [SharedJudge(Asked()), SharedJudge(Asked())]
    asked = [questions("yes"), questions("yes", "no")]
    found = two_ranks(monkeypatch, alike(judges, lambda judge: judge.verdicts(asked[judges.index(judge)])))
    assert found == [[YES], [UNKNOWN, UNKNOWN]]
    pairs = [[Pair(row=ROW, first="b", second="a")], []]
    judges = [SharedJudge(Asked()), SharedJudge(Asked())]
    found = two_ranks(monkeypatch, alike(judges, lambda judge: judge.preferences(pairs[1 - judges.index(judge)])))
    assert found[0] == []
    assert len(found[1]) == 1
    assert math.isnan(found[1][0])


def test_one_process_asks_as_ever() -> None:
    own = Asked()
    judge = SharedJudge(own)
    with judge.alike():
        assert judge.verdicts(questions("yes", "n")) == [YES, NO]
    assert own.questions == 2
