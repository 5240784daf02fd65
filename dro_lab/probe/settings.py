"""The probe's own keys (``probe.KEY=VALUE``), and how a command line is told apart into them, rewards and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from dro_lab import checks
from dro_lab.commands import read_value
from dro_lab.errors import UserError
from dro_lab.probe.formula import G

REWARDS = ("r3", "avg_prob", "avg_logprob", "seq_prob", "rouge", "verifier")
"""What is compared where the command names no reward."""

LABELS = ("auto", "metric", "judge", "none")
FLOORS = ("auto", True, False)

FIXED = {
    "tracking": "a probe is no run",
    "steps": "the probe trains nothing",
    "scored_by": "the initial policy samples and scores",
    "hydra.run.dir": "the probe's folder is probe.out",
}
"""Keys of a run that mean nothing here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The command's own keys."""

    rows: int = 64  # queries
    rollouts: int = 16  # of each query
    split: str = "train"  # where the queries come from
    omegas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    label: str = "auto"  # quality by the data set's metric, by the judge, or none; auto: the first that is there
    floor: bool | str = "auto"  # score against permuted references too; auto: where no label ranks
    reflective: float = 0.5  # without known spans: reflective from this share of the reference's largest sigma on
    g: float = G  # gradient signal-to-noise of an oracle batch of 4 prompts (a fit)
    confidence: float = 0.9
    bootstrap: int = 2000
    out: str | None = None  # the folder to write

    def __post_init__(self) -> None:
        checks.whole("probe.rows", self.rows, low=1, todo="64 queries is the default; fewer give wide intervals")
        checks.whole(
            "probe.rollouts",
            self.rollouts,
            low=2,
            todo="a reward is compared within the rollouts of one query; 16 is the default",
        )
        checks.choice("probe.label", self.label, LABELS, todo="auto takes the data set's metric, else the judge")
        if self.floor not in FLOORS:
            raise UserError(f"probe.floor={self.floor}: must be auto, true or false; auto: where no label ranks")
        if not isinstance(self.split, str) or not self.split:
            raise UserError(f"probe.split={self.split}: must be the name of a split; train is the default")
        if not isinstance(self.omegas, tuple) or not self.omegas:
            raise UserError(f"probe.omegas={self.omegas}: must be a list of numbers, for example [0,1,2,4]")
        for omega in self.omegas:
            checks.number("probe.omegas", omega, low=0, high=64, todo="0 is average probability, 2 the paper's")
        checks.share("probe.reflective", self.reflective, todo="0.5 is the default")
        checks.number("probe.g", self.g, low=0.01, high=1000, todo="2.1 is the fit at 4 prompts a step")
        checks.number("probe.confidence", self.confidence, low=0.5, high=0.999, todo="0.9 is the default")
        checks.whole("probe.bootstrap", self.bootstrap, low=10, todo="2000 is the default")
        if self.out is not None and (not isinstance(self.out, str) or not self.out.strip()):
            raise UserError(f"probe.out={self.out}: must be the path of a folder to write, or be left out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A command line, read."""

    settings: Settings
    rewards: tuple[str, ...]
    reward_overrides: tuple[str, ...]  # reward.KEY=VALUE: for those rewards that have the key
    overrides: tuple[str, ...]  # of everything else


def read(arguments: Sequence[str]) -> Asked:
    """Tell the probe's keys, the list of rewards and a run's overrides apart.

    Raises:
        UserError: an unknown option or probe key, a value out of its range, an empty list of rewards, or a key that
            means nothing here.
    """
    own: dict[str, Any] = {}
    rewards: tuple[str, ...] = REWARDS
    reward_overrides, overrides = [], []
    for argument in arguments:
        key, _, value = argument.partition("=")
        name = key.lstrip("+~")
        if name.startswith("probe.") or name == "probe":
            own[_own_key(argument, name)] = _value(name, value)
        elif name == "reward":
            rewards = _rewards(argument, value)
        elif name.startswith(("reward.", "reward@")):
            reward_overrides.append(argument)
        elif name in FIXED:
            raise UserError(f"{argument}: cannot be given here, {FIXED[name]}. Leave it out.")
        elif argument.startswith("-"):
            raise UserError(f"{argument}: unknown option. Allowed: --help, probe.KEY=VALUE, and a run's overrides.")
        else:
            overrides.append(argument)
    if isinstance(own.get("omegas"), list):
        own["omegas"] = tuple(own["omegas"])
    return Asked(
        settings=Settings(**own),
        rewards=rewards,
        reward_overrides=tuple(reward_overrides),
        overrides=tuple(overrides),
    )


def _own_key(argument: str, name: str) -> str:
    key, known = name.removeprefix("probe").removeprefix("."), [field.name for field in fields(Settings)]
    if key not in known:
        raise UserError(f"{argument}: unknown key; the probe's keys are {', '.join(f'probe.{k}' for k in known)}")
    return key


def _value(name: str, value: str) -> Any:
    if name == "probe.out":
        return value
    try:
        return read_value(value)
    except ValueError:
        raise UserError(f"{name}={value}: cannot be read; a number, true, false or a list such as [0,2,4]") from None


def _rewards(argument: str, value: str) -> tuple[str, ...]:
    names = [name.strip() for name in value.strip().removeprefix("[").removesuffix("]").split(",")]
    if not all(names):
        raise UserError(
            f"{argument}: no reward between the commas; name at least one, for example reward=r3,avg_prob,avg_logprob"
            if any(names)
            else f"{argument}: the list of rewards is empty; name at least one, for example reward=r3,avg_prob"
        )
    return tuple(dict.fromkeys(names))
