"""How a run ends: its summary, its report, its tracker, its last lines, whatever the end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dro_lab.build import Built
from dro_lab.console import RunConsole, farewell
from dro_lab.errors import UserError
from dro_lab.record import Comparison, RunRecord, Summary
from dro_lab.record.files import artifacts, remove_empty
from dro_lab.resume.going_on import short
from dro_lab.secrets import hide
from dro_lab.training.clock import PartClock
from dro_lab.training.keep import PolicyKeeper
from dro_lab.training.observer import RunObserver


class Ending:
    """The part of `dro_lab.lab.Run` that closes it."""

    cfg: DictConfig
    built: Built
    record: RunRecord
    console: RunConsole
    clock: PartClock
    environment: Mapping[str, Any]
    folder: Path
    observer: RunObserver
    keeper: PolicyKeeper
    tracking: bool

    def summary(self, status: Any, error: str | None = None) -> Summary:
        """The summary as of now; *after* is what was measured at the step where the run stands, if anything was."""
        built, evaluations, steps = self.built, self.observer.evaluations, self.observer.steps_done
        before = evaluations[0].estimates if evaluations else {}
        ended = bool(evaluations) and evaluations[-1].step == steps and (steps > 0 or status == "finished")
        after = evaluations[-1].estimates if ended else {}
        objective = after[self.cfg.objective].value if self.cfg.objective in after else None
        return Summary(
            status=status,
            error=error if status == "failed" else None,
            stopped=error if status == "stopped" else None,
            judge=built.names["judge"],
            judge_counts=built.judge.metrics(),
            reward=built.names["reward"],
            dataset=built.task.name,
            policy=built.spec.name,
            seed=self.cfg.seed,
            provenance=built.task.provenance,
            metric=built.task.metric_name,
            samples=built.evaluation.samples,
            steps=steps,
            planned_steps=self.cfg.steps,
            objective=objective,
            confidence=built.evaluation.confidence,
            before=before.get("quality"),
            after=after.get("quality"),
            win_rate=after.get("win_rate"),
            comparison=[
                Comparison(
                    metric=name,
                    before=before[name].value if name in before else None,
                    after=after[name].value if name in after else None,
                )
                for name in dict.fromkeys([*before, *after])
            ],
            seconds=self.clock.report(),
            refused=built.task.refused,
            alarms=self.observer.alarms,
            notes=[*built.task.notes, *([self.keeper.note] if self.keeper.note else [])],
        )

    def close(self, status: str, error: str | None) -> Summary:
        """Write the summary, the report and the tracker's end, whatever the status."""
        summary = self.summary(status, error)
        remove_empty(self.folder / "trainer")  # TRL makes its folder whether it writes there or not
        self.record.close()
        self.record.summary(summary)  # last: a run whose process is killed before this can go on
        if self.observer.evaluations and self.cfg.report:
            from dro_lab.report import write_report  # matplotlib takes a second that the first step should not wait for

            write_report(self.folder)
        with self.clock.part("other"):
            self._end_tracker(status, error)
        return summary

    def _end_tracker(self, status: Any, error: str | None) -> None:
        """The record is what counts: what the tracker refuses at the end is said, and takes no result away."""
        tracker = self.built.tracker
        attach = [lambda: tracker.artifacts(artifacts(self.folder))] if self.tracking else []
        for call in [*attach, lambda: tracker.finish(status, error=error)]:  # what cannot be attached is still ended
            try:
                call()
            except UserError as failure:
                self.console.warn(f"the tracker did not take the end of the run, the record is whole: {failure}")
        if status not in ("finished", "stopped") and tracker.sync_command:  # else the last lines say it
            self.console.say(f"upload   {tracker.sync_command}")

    def close_anyway(self, status: str, error: str) -> None:
        """Close after a failure; what fails on the way is said, and does not hide why the run ended."""
        try:
            self.close(status, hide(error))
        except Exception as failure:
            self.console.warn(hide(f"the record could not be closed: {type(failure).__name__}: {failure}"))

    def give_up(self) -> None:
        """End where the folder takes no more: nothing is merged, so that all that was saved stays as it is."""
        self.record.abandon()
        with suppress(OSError):
            self.record.summary(self.summary("interrupted"))
        self.tracking = False  # nothing is attached
        self._end_tracker("interrupted", "the run's folder takes no more")

    def goodbye(self, summary: Summary) -> None:
        evaluations = self.observer.evaluations
        first = list(evaluations[0].estimates.values())
        last = list(evaluations[-1].estimates.values())
        self.console.result(summary, first, last)
        if empty := self.observer.empty_steps:
            self.console.warn(f"{empty} of {summary.steps} steps made no update: gate, filter and masks left nothing")
        if self.built.task.refused:
            self.console.warn(f"{len(self.built.task.refused)} rows were refused; `python -m dro_lab.data` says why")
        farewell(
            self.console,
            report=short(self.folder / "report.html") if self.cfg.report else None,
            folder=short(self.folder),
            compare=self.built.tracker.ui_command,
            upload=self.built.tracker.sync_command,
        )
