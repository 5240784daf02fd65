"""Runs the monitors over a run's stream: who fires now, what is new, and whether the run must stop."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dro_lab.checks import choice, number, whole
from dro_lab.components import component
from dro_lab.errors import UserError
from dro_lab.health.finding import Metrics, Monitor, State

ACTIONS = ("warn", "stop", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A monitor's first finding in a run."""

    monitor: str
    action: str  # "warn" or "stop"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A monitor with its thresholds bound."""

    name: str
    action: str
    call: Monitor


@dataclass
class Watch:
    """All monitors of a run. Each is said once; which ones fire now is known at every step."""

    monitors: Sequence[Watched]
    firing: dict[str, bool] = field(default_factory=dict)
    raised: list[Alert] = field(default_factory=list)
    _states: dict[str, State] = field(default_factory=dict)

    def __call__(self, metrics: Metrics) -> list[Alert]:
        """New alerts after one step's, or one evaluation's, numbers."""
        said = {alert.monitor for alert in self.raised}
        fresh = []
        for monitor in self.monitors:
            before = self._states.get(monitor.name, {})
            finding, after = monitor.call(before, metrics)
            self._states[monitor.name] = after
            self.firing[monitor.name] = finding is not None
            if finding is not None and monitor.name not in said:
                fresh.append(Alert(monitor=monitor.name, action=monitor.action, message=finding.message))
        self.raised += fresh
        return fresh

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on."""
        return {"firing": self.firing, "raised": [asdict(alert) for alert in self.raised], "states": self._states}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self.firing, self._states = dict(carried["firing"]), dict(carried["states"])
        self.raised = [Alert(**alert) for alert in carried["raised"]]

    @property
    def tag(self) -> str:
        """The monitors that fire now, for the progress line; "" where none does."""
        names = [name for name, fires in self.firing.items() if fires]
        return f"! {', '.join(names)}" if names else ""

    def metrics(self) -> Mapping[str, float]:
        """``health/NAME``: 1 where the monitor fires now, else 0."""
        return {f"health/{monitor.name}": float(self.firing.get(monitor.name, False)) for monitor in self.monitors}


def build_watch(group: Any) -> Watch:
    """The monitors of the `health` group, checked.

    Raises:
        UserError: a monitor without `_target_`, an unknown key, a threshold that makes no sense, an unknown action.
    """
    if not isinstance(group, DictConfig):
        raise UserError(f"health={group}: must hold monitors by name; choose health=default or health=none")
    made = []
    for name, node in ((str(name), node) for name, node in group.items()):
        key = f"health.{name}"
        if not isinstance(node, DictConfig):
            raise UserError(
                f"{key}={node}: must hold `_target_`, `action` and thresholds; see conf/health/default.yaml"
            )
        action = node.get("action", "warn")
        choice(f"{key}.action", action, ACTIONS, todo="warn says it once, stop ends the training, off does not look")
        own = OmegaConf.create({k: v for k, v in OmegaConf.to_container(node, resolve=True).items() if k != "action"})  # type: ignore[union-attr]
        monitor = component(key, own, name=name)
        _check_thresholds(key, monitor.call)
        if action != "off":
            made.append(Watched(name=name, action=action, call=monitor.call))
    return Watch(monitors=tuple(made))


def _check_thresholds(key: str, call: Any) -> None:
    """By the monitor's own annotations: whole numbers are at least 1, shares lie in [0, 1], others are not negative."""
    kinds = {name: str(p.annotation) for name, p in inspect.signature(call.func).parameters.items()}
    for name, value in call.keywords.items():
        if kinds[name] in ("int", "<class 'int'>"):
            whole(f"{key}.{name}", value, low=1, todo="a number of steps; conf/health/default.yaml says which")
        elif kinds[name] in ("float", "<class 'float'>"):
            high = {"high": 1.0} if name.endswith("share") else {}
            number(f"{key}.{name}", value, low=0.0, **high, todo="conf/health/default.yaml says what it means")
