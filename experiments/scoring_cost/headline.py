"""Scoring against its yardsticks: one table a variant (vocabulary, threads)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.scoring_cost.arms import Arm, Arms
from experiments.scoring_cost.timing import Seconds, timed, turns

KS = (10, 20)
ROWS = (1, 2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class Bound:
    """What is wanted of ``numerator`` over ``denominator``."""

    numerator: str
    denominator: str
    limit: float
    at_most: bool = True

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


BOUNDS = (
    Bound("R3", "floor", 1.15),
    Bound("REPRO k=10", "plain", 1.6),
    Bound("REPRO k=20", "plain", 2.2),
    Bound("per prefix k=10", "REPRO k=10", 3.8, at_most=False),
    Bound("per prefix k=20", "REPRO k=20", 5.0, at_most=False),
    Bound("released k=10", "REPRO k=10", 6.5, at_most=False),
    Bound("released k=20", "REPRO k=20", 8.0, at_most=False),
)


def fastest_rows(make: Callable[[int], Arm], rounds: int, device: str) -> int:
    """The micro-batch with the least CPU seconds (on a GPU: wall)."""
    found = turns({str(rows): make(rows) for rows in ROWS}, rounds, device)
    return min(ROWS, key=lambda rows: min(own(seconds, device) for seconds in found[str(rows)]))


def own(seconds: Seconds, device: str) -> float:
    """The seconds that count: the process's own on a CPU, those on the wall on a GPU."""
    return seconds.wall if device.startswith("cuda") else seconds.cpu


def choose_rows(arms: Arms, device: str, *, slow: bool) -> dict[str, int]:
    """Each yardstick's best micro-batch; that of prefixes is chosen at half of the reasoning."""
    half = arms.shape.reasoning // 2
    rows = {"plain": fastest_rows(arms.plain, 2, device), "floor": fastest_rows(arms.floor, 1, device)}
    if slow:
        rows["per prefix"] = fastest_rows(lambda rows: arms.prefix(half, rows), 1, device)
        rows["released"] = fastest_rows(lambda rows: arms.padded(half, rows), 1, device)
    return rows


def quick_arms(arms: Arms, rows: Mapping[str, int]) -> dict[str, Arm]:
    return {
        "plain": arms.plain(rows["plain"]),
        "floor": arms.floor(rows["floor"]),
        "R3": arms.shared(0),
        **{f"REPRO k={k}": arms.shared(k) for k in KS},
    }


def slow_arms(arms: Arms, rows: Mapping[str, int]) -> dict[str, Arm]:
    return {
        **{f"per prefix k={k}": arms.per_prefix(k, rows["per prefix"]) for k in KS},
        **{f"released k={k}": arms.released(k, rows["released"]) for k in KS},
    }


def measure(arms: Arms, device: str, rounds: int, slow_rounds: int) -> tuple[dict[str, list[Seconds]], dict[str, int]]:
    """Seconds by arm and round, and the chosen micro-batches. The first ``slow_rounds`` rounds have the slow arms."""
    rows = choose_rows(arms, device, slow=slow_rounds > 0)
    quick = quick_arms(arms, rows)
    slow = slow_arms(arms, rows) if slow_rounds else {}
    for arm in quick.values():
        timed(arm, device)  # not counted: the first call of each pays for what later ones find
    found: dict[str, list[Seconds]] = {}
    for turn in range(max(rounds, slow_rounds)):
        chosen = quick | slow if turn < slow_rounds else quick
        for name in list(chosen) if turn % 2 == 0 else reversed(list(chosen)):
            found.setdefault(name, []).append(timed(chosen[name], device))
    return {name: found[name] for name in (*quick, *slow)}, rows


def same_rounds(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The rounds that both arms were in: the first ones."""
    both = min(len(numerator), len(denominator))
    return numerator[:both], denominator[:both]
