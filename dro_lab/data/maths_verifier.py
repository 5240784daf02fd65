"""Is an answer to a mathematics problem right? math-verify decides, in a process that can be stopped.

math-verify limits its time by a signal, which works in the main thread alone and cannot interrupt a computation in C
(``9^9^9^9``); so it runs in one child process (`dro_lab.data.maths_worker`), which is started with the first formula,
ended where a comparison takes too long, and ends with this process. Most answers do not get there: equal texts, plain
numbers and words are decided here.

Rules: a number must be exact, a decimal may stand for a fraction to 6 places. Units, a dollar sign, degrees and the
base of a number may be left out or put in; so may a percent sign: 50% equals 50 and 0.5, but 50 does not equal 0.5.
Lists and sets have no order, tuples and intervals have one. Words are compared without case.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dro_lab.data.maths_answers import (
    MAX_CHARS,
    Template,
    cleaned,
    final_answer,
    is_text,
    plain_number,
    said_yes_or_no,
    words_of,
)
from dro_lab.types import Row

START_SECONDS = 120.0
WALL_SECONDS = 60.0
"""The last resort; the child limits its processor time itself."""
_WORKER = Path(__file__).with_name("maths_worker.py")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is right, and whether it could be read at all."""

    right: bool
    readable: bool


def maths_accuracy(answer: str, row: Row, *, form: Template | None = None) -> float:
    """1 where the answer's final answer equals ``row.columns["answer"]``, else 0; an unreadable answer is wrong.

    What counts as the final answer: `dro_lab.data.maths_answers.final_answer`. Source of the comparison: math-verify.

    Args:
        answer: what the policy answered, the reasoning removed.
        row: with the bare true answer as the column ``answer``.
        form: the answer template, where it is a user's own text.
    """
    return float(judged(answer, row, form=form).right)


def judged(answer: str, row: Row, *, form: Template | None = None) -> Verdict:
    """The verdict on an answer."""
    truth, found = str(row.columns["answer"]), final_answer(answer, form)
    if max(len(truth), len(found or "")) > MAX_CHARS:
        same = truth.strip() == (found or "").strip()
        return Verdict(same, same)
    if truth.strip().casefold() in ("yes", "no") and (found is None or words_of(cleaned(found)) not in ("yes", "no")):
        found = said_yes_or_no(answer) or found
    return Verdict(False, False) if found is None else _decided(cleaned(truth), cleaned(found))


def figures(answers: Sequence[str], rows: Sequence[Row], *, form: Template | None = None) -> Mapping[str, float]:
    """``unparsable_share``: the share of the answers in which no final answer was found, or one that cannot be read or
    takes too long to compare. They count as wrong."""
    unread = [not judged(answer, row, form=form).readable for answer, row in zip(answers, rows, strict=True)]
    return {"unparsable_share": sum(unread) / len(unread) if unread else math.nan}


@lru_cache(maxsize=65536)
def _decided(truth: str, given: str) -> Verdict:
    if not given:
        return Verdict(False, False)
    if _spaceless(truth) == _spaceless(given):
        return Verdict(True, True)
    if is_text(truth):
        return Verdict(words_of(truth) == words_of(given), True)
    number, other = plain_number(truth), plain_number(given)
    if number is not None and other is not None:
        return Verdict(number == other, True)
    if len(word := words_of(truth) or "") >= 3 and word == words_of(given):
        return Verdict(True, True)
    found = CHECKER.compare(truth, given)
    return Verdict(found == "same", found in ("same", "different", "gold"))


def _spaceless(text: str) -> str:
    same_fractions = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", same_fractions)


# ------------------------------------------------------------------------------------------------ the child process


class Checker:
    """The child process; it may be used from any thread, and a forked process starts one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.starts = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def compare(self, gold: str, given: str) -> str:
        """One of the words of `dro_lab.data.maths_worker`; ``slow`` also where the child had to be ended.

        Raises:
            RuntimeError: the child cannot be started (math-verify is missing or broken).
        """
        with self._lock:
            process = self._running()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps([gold, given]) + "\n")
                process.stdin.flush()
                word = self._lines.get(timeout=WALL_SECONDS)
            except (OSError, queue.Empty):
                word = None
            if word is None:
                self._stop()
                return "slow"
            return word

    def close(self) -> None:
        """End the child; the next comparison starts another."""
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._process, self._lines = self._started()
            self.starts += 1
        return self._process

    def _started(self) -> tuple[subprocess.Popen[str], queue.Queue[str | None]]:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="ascii",
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        lines: queue.Queue[str | None] = queue.Queue()
        errors: list[str] = []
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        threading.Thread(target=_keep, args=(process.stderr, errors), daemon=True).start()
        try:
            first = lines.get(timeout=START_SECONDS)
        except queue.Empty:
            first = None
        if first != "ready":
            process.kill()
            process.wait()
            raise RuntimeError(f"the process that runs math-verify did not start: {' '.join(errors)[-500:].strip()}")
        return process, lines

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # what was still to be written has no reader any more
                pass

    def _forget(self) -> None:
        self._lock, self._process = threading.Lock(), None


def _read(stream: object, lines: queue.Queue[str | None]) -> None:
    try:
        for line in stream:  # type: ignore[attr-defined]
            lines.put(line.strip())
    except ValueError:  # closed while it was read
        pass
    lines.put(None)


def _keep(stream: object, lines: list[str]) -> None:
    try:
        for line in stream:  # type: ignore[attr-defined]
            del lines[:-20]
            lines.append(line)
    except ValueError:
        pass


CHECKER = Checker()
atexit.register(CHECKER.close)
