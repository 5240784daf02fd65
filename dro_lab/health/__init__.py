"""Health monitors: what can be seen to go wrong while a run goes on, each with a threshold and an action.

A monitor is a pure function named by ``_target_`` in ``conf/health/*.yaml``:

    ``monitor(state, metrics, *, thresholds) -> (finding | None, state)``

``metrics`` are the numbers of one logged step, or of one evaluation (then under ``eval/``); a number that is not there
says nothing: the monitor keeps its state and its judgement. ``state`` begins as ``{}`` and holds plain values.
"""

from dro_lab.health.finding import Finding, Metrics, Monitor, State
from dro_lab.health.watch import Alert, Watch, build_watch

__all__ = ["Alert", "Finding", "Metrics", "Monitor", "State", "Watch", "build_watch"]
