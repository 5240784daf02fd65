"""The winner runs again with fresh seeds on the test split; only these numbers are reported.

Trials were compared on validation with one seed, so the best of them is partly luck: its own value is too high.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from dro_lab.errors import UserError
from dro_lab.sweep.claim import LOCKS, worker_of
from dro_lab.sweep.ledger import Ending, Ledger, ending_of_record

FIRST_SEED = 1000
"""Fresh seeds are counted from here, those of the search left out."""


WINNER, DEFAULT = "winner", "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalRun:
    """One run of the winner, or of the configuration's own values beside it."""

    of: str  # `WINNER` or `DEFAULT`
    seed: int
    name: str
    place: str  # below the sweep's folder

    @property
    def overrides(self) -> list[str]:
        """Its own settings; the last policy is what trials were compared by, and `keep=best` would choose on test."""
        return [f"seed={self.seed}", "evaluation.split=test", "keep=last"]


class Final:
    """The runs of the winner and of the default, those that were done left out.

    Args:
        seeds: how many runs of each.
        used: the seeds of the search.
        default: whether the configuration's own values run too, on the same seeds.

    Raises:
        UserError: no trial finished, so there is no winner.
    """

    def __init__(self, ledger: Ledger, *, seeds: int, used: Collection[int], default: bool = False) -> None:
        self.ledger = ledger
        if not ledger.progress().complete:
            raise UserError(
                "the sweep has no winner: none of its trials finished. trials.csv in its folder says why each ended; "
                "give more trials (hydra.sweeper.n_trials), or begin anew with hydra.sweeper.study_name=NAME"
            )
        self.winner: FrozenTrial = ledger.study.best_trial
        self.seeds = fresh_seeds(seeds, used)
        self.arms = (WINNER, DEFAULT) if default else (WINNER,)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this process is the only one about it; while it is, no other is."""
        lock = FileLock(self.ledger.folder / LOCKS / "test")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def groups(self, size: int) -> Iterator[list[FinalRun]]:
        """The runs that are missing, ``size`` at a time."""
        missing = [(of, seed) for of in self.arms for seed in self.seeds if self._value(of, seed) is None]
        for start in range(0, len(missing), size):
            yield [self._next(of, seed) for of, seed in missing[start : start + size]]

    def busy(self) -> dict[str, str]:
        """The process numbers of workers that outlived their sweep and still run, by what they run."""
        found = {f"the {of}'s run with seed={seed}": self._worker(of, seed) for of in self.arms for seed in self.seeds}
        return {job: pid for job, pid in found.items() if pid is not None}

    def _worker(self, of: str, seed: int) -> str | None:
        for place in self._places(of, seed):
            if not (folder := self.ledger.folder / place).exists():
                return None
            if (pid := worker_of(folder)) is not None:
                return pid
        return None

    def settle(self, run: FinalRun, ending: Ending) -> None:
        """Keep a run's value.

        Raises:
            UserError: the run failed.
        """
        if ending.state is not TrialState.COMPLETE:
            raise UserError(
                f"the {run.of}'s run with seed={run.seed} on the test split failed: {str(ending.error).rstrip('.')}. "
                "Mend that; the same command runs what is missing"
            )
        self.ledger.study.set_user_attr(self._key(run.of, run.seed), ending.value)

    def values(self, of: str = WINNER) -> dict[int, float]:
        """The objective on the test split by seed."""
        found = {seed: self._value(of, seed) for seed in self.seeds} if of in self.arms else {}
        return {seed: value for seed, value in found.items() if value is not None}

    def _key(self, of: str, seed: int) -> str:
        return f"test {f'trial {self.winner.number}' if of == WINNER else of} seed {seed}"

    def _places(self, of: str, seed: int) -> Iterator[str]:
        base = f"test/{f'trial_{self.winner.number:03d}' if of == WINNER else of}_s{seed}"
        yield base
        attempt = 1
        while True:
            attempt += 1
            yield f"{base}_{attempt}"

    def _value(self, of: str, seed: int) -> float | None:
        """What is known of a run: told by the study, or by the record of one that was cut off behind its end."""
        if (known := self.ledger.study.user_attrs.get(self._key(of, seed))) is not None:
            return float(known)
        for place in self._places(of, seed):
            if not (folder := self.ledger.folder / place).exists():
                return None
            ending = ending_of_record(folder, self.ledger.objective)
            if ending is not None and ending.state is TrialState.COMPLETE:
                return ending.value
        return None

    def _next(self, of: str, seed: int) -> FinalRun:
        """The run in a folder of its own: a record is never overwritten."""
        place = next(place for place in self._places(of, seed) if not (self.ledger.folder / place).exists())
        mark = f"{self.winner.number:03d}" if of == WINNER else of
        return FinalRun(of=of, seed=seed, name=f"test_{mark}_s{seed}", place=place)


def fresh_seeds(count: int, used: Collection[int]) -> list[int]:
    """The first ``count`` seeds from `FIRST_SEED` on that were not used."""
    found: list[int] = []
    seed = FIRST_SEED
    while len(found) < count:
        if seed not in used:
            found.append(seed)
        seed += 1
    return found
