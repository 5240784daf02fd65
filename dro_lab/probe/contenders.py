"""The rewards of a probe: composed, checked and bound, or listed with the reason why they cannot be computed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dro_lab.components import REFERENCE_NEED, Component, component
from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.pipeline import check_rewards
from dro_lab.probe.settings import Asked
from dro_lab.rewards.r3 import r3
from dro_lab.scoring.stats import check_needs
from dro_lab.types import Need, Rewards, RolloutGroups, Stat, Task, TokenStats

OVERRIDES = ("tracking=none", "steps=0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One reward: its name on the command line and its bound function, or why there is none."""

    name: str
    keys: dict[str, Any]  # its yaml's keys
    call: Component | None = None
    reason: str = ""  # why it cannot be computed

    @property
    def needs(self) -> frozenset[Need]:
        """What it reads; everything under the initial policy, the only one there is."""
        assert self.call is not None
        return frozenset(replace(need, policy="current") for need in self.call.needs)

    @property
    def judged(self) -> bool:
        """Whether it reads quality or verdicts, which another query's reference does not change."""
        return bool({need.stat for need in self.needs} & {Stat.VERIFIER, Stat.VERDICTS})

    @property
    def omega(self) -> float | None:
        """R3's exponent; None for other rewards, and for R3 with exponential weights."""
        return float(self.keys["omega"]) if self.is_r3 and self.keys.get("weighting") == "power" else None

    @property
    def is_r3(self) -> bool:
        return self.call is not None and _function(self.call) is r3


def _function(call: Component) -> Callable[..., Any]:
    return call.call.func if isinstance(call.call, functools.partial) else call.call


def composed(asked: Asked) -> dict[str, DictConfig]:
    """A run's configuration for each reward; ``reward.KEY=VALUE`` goes to the rewards that have the key.

    Raises:
        UserError: an unknown reward, group or key, or a reward's key that none of them has.
    """
    plain = {name: compose([*OVERRIDES, *asked.overrides, f"reward={name}"]) for name in asked.rewards}
    given: dict[str, list[str]] = {name: [] for name in plain}
    for override in asked.reward_overrides:
        takers = [name for name, cfg in plain.items() if len(plain) == 1 or _has(cfg, override)]
        if not takers:
            raise UserError(
                f"{override}: none of the rewards {', '.join(plain)} has this key; a new one (+reward.KEY=VALUE) can "
                "be given where the list holds one reward"
            )
        for name in takers:
            given[name].append(override)
    return {
        name: compose([*OVERRIDES, *asked.overrides, f"reward={name}", *given[name]]) if given[name] else cfg
        for name, cfg in plain.items()
    }


def _has(cfg: DictConfig, override: str) -> bool:
    path = override.partition("=")[0].lstrip("~").removeprefix("reward@")
    found: Any = OmegaConf.to_container(cfg, resolve=False)
    for part in path.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


def contenders(
    configs: dict[str, DictConfig], task: Task, judge: Callable[[Task, frozenset[Need]], Any], base: frozenset[Need]
) -> list[Contender]:
    """Each reward bound to what the data set has.

    Args:
        configs: of `composed`.
        task: the loaded data set.
        judge: makes the run's judge, and refuses needs that it cannot meet.
        base: what is measured anyway; a reward whose needs do not go with it and the rewards before is left out.

    Raises:
        UserError: a reward's own keys are wrong: that is bad input, not a property of the data set.
    """
    found, needs = [], base
    for name, cfg in configs.items():
        call = component("reward", cfg.reward, name=name, default_needs=REFERENCE_NEED)
        keys = {
            str(key): value
            for key, value in OmegaConf.to_container(cfg.reward, resolve=True).items()  # type: ignore[union-attr]
            if not str(key).startswith("_")
        }
        contender = Contender(name=name, keys=keys, call=call)
        try:
            call.prepare(task)
            judge(task, call.needs)
            check_needs(needs | contender.needs)
        except UserError as error:
            contender = replace(contender, call=None, reason=str(error))
        else:
            needs = needs | contender.needs
        found.append(contender)
    return found


def computed(contender: Contender, groups: RolloutGroups, stats: TokenStats) -> Rewards | str:
    """The reward on scored rollouts; a text that says why not, where it fails.

    A user's own reward may fail in any way: what was sampled for the others must not be lost, so the failure is
    reported in its place.
    """
    assert contender.call is not None
    try:
        rewards: Rewards = contender.call(groups, stats)
        check_rewards(rewards, groups, contender.name)
    except Exception as error:
        return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return rewards
