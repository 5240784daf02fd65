"""A training step with ``reward=repro`` over a step of bare TRL: the two take turns, on the same completions."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dro_lab.lab import reset_process
from dro_lab.training.clock import PartClock
from experiments.overhead import bench

NAMES = ("bare", "repro")
PARTS = ("sampling", "scoring", "training", "other")
WARM_UP = 3
LIMIT = 1.35


class TakeTurns(bench.TakeTurns):
    """Also books each step's CPU seconds of this thread and what a run's clock counted; waiting counts apart."""

    def __init__(self, turnstile: bench.Turnstile, name: str, clock: PartClock | None) -> None:
        super().__init__(turnstile, name)
        self.clock = PartClock() if clock is None else clock
        self.readings: list[dict[str, float]] = []

    def _read(self) -> None:
        self.readings.append({**self.clock.report(), "cpu": time.thread_time()})

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._read()
        with self.clock.part("waiting"):
            super().on_step_begin(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._read()
        super().on_train_end(args, state, control)

    def steps(self, key: str) -> list[float]:
        """Seconds of ``cpu`` or of a part, by step."""
        return [after[key] - before[key] for before, after in zip(self.readings, self.readings[1:], strict=False)]


def measure(steps: int, threads: int, overrides: Sequence[str]) -> list[dict[str, float]]:
    """A row a step: seconds of ``bare`` and ``repro``, their threads' CPU seconds, and the parts of ``repro``."""
    total = steps + WARM_UP
    reset_process(bench.configuration("repro", total, threads, overrides))
    folder = Path(tempfile.mkdtemp())
    lab = bench.lab_trainer("repro", total, threads, folder / "repro", overrides)
    trainers = {"bare": bench.bare_trainer(lab, folder / "bare", overrides), "repro": lab}
    turnstile = bench.Turnstile(NAMES)
    takers = {name: TakeTurns(turnstile, name, getattr(trainer, "clock", None)) for name, trainer in trainers.items()}
    errors: list[BaseException] = []
    threads_ = []
    for name in NAMES:
        trainers[name].add_callback(takers[name])
        run = partial(_train, trainers[name].train, takers[name].clock)
        threads_.append(threading.Thread(target=bench.train, args=(run, errors), daemon=True))
        threads_[-1].start()
    for thread in threads_:
        while thread.is_alive() and not errors:
            thread.join(1.0)
    if errors:
        raise errors[0]
    columns = {name: turnstile.seconds[name] for name in NAMES}
    columns |= {f"{name}_cpu": takers[name].steps("cpu") for name in NAMES}
    columns |= {part: takers["repro"].steps(part) for part in PARTS}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)][WARM_UP:]


def _train(train: Callable[[], Any], clock: PartClock) -> None:
    """As a run does it: what is neither sampling, scoring nor the record is training."""
    with clock.part("training"):
        train()
