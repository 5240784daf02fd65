"""Ctrl-C while training: the first asks to stop where the run can go on from, the second stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """A context in which the first Ctrl-C is only noted.

    Args:
        say: a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.asked = False
        self.at_once = False  # nothing is left to be finished or saved: Ctrl-C is not waited with
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        # a shell that starts jobs in the background makes them ignore Ctrl-C; only the main thread may set handlers
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.asked = True
        if self.at_once:
            raise KeyboardInterrupt
        with contextlib.suppress(RuntimeError):  # it came while a line was being printed
            self._say("interrupted: finishing the step and saving it (again: stop at once)")
