"""Where a run's seconds go: parts that nest, each second counted once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class PartClock:
    """A stopwatch with named parts. Entering an inner part pauses the outer one, so parts add up to the total."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = self._start = time.perf_counter()

    def _settle(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1] if self._open else "other"] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside under ``name``."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on."""
        self._settle()
        return {"seconds": dict(self.seconds)}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process: its seconds count too."""
        for name, seconds in carried["seconds"].items():
            self.seconds[name] += seconds

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    def report(self) -> dict[str, float]:
        """Seconds by part so far, and their ``total``."""
        self._settle()
        parts = {name: self.seconds[name] for name in ("sampling", "scoring", "training", "evaluation", "other")}
        return {**parts, "total": sum(self.seconds.values())}
