"""Compares two mathematical expressions with math-verify: a program of its own, which its caller may kill.

It reads one JSON list ``[gold, given]`` a line and answers each with one word: ``same``, ``different``, ``unreadable``
(the given text is no expression), ``gold`` (the true answer is none) or ``slow`` (the limit on processor time or memory
was reached). Started and spoken to by `dro_lab.data.maths_verifier`; imports nothing of dro_lab.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

READY = "ready"
SECONDS = 1.0
"""Processor time of one comparison. Not wall-clock time: a busy machine must not change a verdict."""
KILL_SECONDS = 2.0
"""Processor time after which the program ends: a computation in C cannot be interrupted otherwise."""
MEMORY = 4 * 2**30


class Slow(BaseException):
    """No `Exception`: libraries that catch those must let it pass."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise `Slow` in the block after `SECONDS` of processor time, and end the program after `KILL_SECONDS`."""
    import signal

    if not hasattr(signal, "setitimer"):  # the caller's wall-clock limit remains
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Slow

    signal.signal(signal.SIGVTALRM, stop)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, KILL_SECONDS)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _parsed(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    # In a box with the highest priority: the whole text is read as LaTeX, nothing is looked for in it.
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    text = f"\\boxed{{{answer}}}"
    found: list[Any] = parse(text, extraction_config=config, fallback_mode="no_fallback", parsing_timeout=None)
    return found


gold_parsed = lru_cache(maxsize=4096)(_parsed)


def compare(gold: str, given: str) -> str:
    """One of the words in the module's description."""
    from math_verify import verify

    try:
        with limited():
            truth = gold_parsed(gold)
            if not truth:
                return "gold"
            read = _parsed(given)
            if not read:
                return "unreadable"
            same = verify(truth, read, allow_set_relation_comp=True, timeout_seconds=None)
            return "same" if same else "different"
    except (Slow, MemoryError):
        return "slow"
    except (Exception, RecursionError):  # whatever the libraries make of a model's output, the answer was not read
        return "unreadable"


def main() -> None:
    """Answer until the input ends."""
    logging.disable(logging.CRITICAL)  # math-verify reports every odd input
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no reply
    try:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY if most < 0 else min(MEMORY, most), most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):  # no such limits on this system
        pass
    compare("\\frac{1}{2}", "0.5")  # loads everything before the first request
    print(READY, file=replies, flush=True)
    for line in sys.stdin:
        gold, given = json.loads(line)
        print(compare(gold, given), file=replies, flush=True)


if __name__ == "__main__":
    main()
