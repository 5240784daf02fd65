"""What a sweep searches, what its trials share, and the fingerprint by which a study is known again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from dro_lab.errors import UserError

NOT_SEARCHED = {
    "seed": "a lucky seed is no setting; the winner runs with fresh seeds anyway",
    "objective": "values of different metrics cannot be compared",
    "evaluation": "trials that are evaluated otherwise cannot be compared",
    "dataset": "trials on other data cannot be compared",
    "judge": "trials that are judged otherwise cannot be compared",
    "scale": "it sets the data and the evaluation too; search the keys you mean",
    "experiments": "it sets the data and the evaluation too; search the keys you mean",
    "outputs": "it says where runs lie, not what they do",
    "tracking": "it says where runs are mirrored, not what they do",
}
"""Keys and groups that a search must not choose, and why."""

ANY_TIME = ("outputs", "tracking", "report", "threads", "names", "keep")
"""Keys that may change between two starts of one sweep: they change no trial's numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The distributions by key, and the overrides that every job of the sweep gets."""

    search: Mapping[str, BaseDistribution]
    fixed: tuple[str, ...]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of a job with these parameters."""
        return [f"{name}={as_text(value)}" for name, value in params.items()] + list(self.fixed)

    def corner(self, high: bool) -> dict[str, Any]:
        """The parameters at the low (or high) end of every distribution."""
        return {name: end(distribution, high=high) for name, distribution in self.search.items()}


def parse_space(params: Mapping[str, str], arguments: Sequence[str]) -> Space:
    """The space of the configuration's ``params`` and of the command line, which wins.

    Raises:
        UserError: nothing is searched, or something that a search must not choose.
    """
    given = [f"{key}={value}" for key, value in params.items()]
    try:
        search, fixed, deleted = create_params_from_overrides([*given, *arguments])
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"hydra.sweeper.params: cannot be searched ({error}). Allowed are interval(LOW, HIGH), "
            "range(LOW, HIGH, STEP) and choice(A, B, ...)"
        ) from None
    search = {name: distribution for name, distribution in search.items() if name not in fixed}
    if not search:
        raise UserError(
            "hydra.sweeper.params: nothing is left to search. Give at least one key a range, for example "
            "'reward.omega=interval(0.0,8.0)', and do not set it to one value on the command line"
        )
    for name in search:
        root = name.lstrip("+~").partition(".")[0].partition("@")[0]
        if root in NOT_SEARCHED:
            raise UserError(f"{name}: a sweep must not search it: {NOT_SEARCHED[root]}. Leave it out of the search")
    return Space(search=search, fixed=(*(f"{key}={value}" for key, value in fixed.items()), *deleted))


def end(distribution: BaseDistribution, *, high: bool) -> Any:
    """One end of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[-1 if high else 0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.high if high else distribution.low


def as_text(value: Any) -> str:
    """A parameter's value as Hydra reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def fingerprint(space: Space, *, direction: str, config: Mapping[str, Any]) -> dict[str, str]:
    """All that decides what a trial's value means, as flat texts: the space, the direction, every other setting.

    Args:
        config: a job's configuration, resolved, at the low end of the space.
    """
    found = {"direction": direction}
    found.update({f"search {name}": distribution_to_json(item) for name, item in space.search.items()})
    settings = {key: value for key, value in config.items() if key not in ANY_TIME}
    found.update({key: text for key, text in _flat(settings).items() if key not in space.search})
    return found


def check_same(old: Mapping[str, str], new: Mapping[str, str], *, study: str, storage: str) -> None:
    """Refuse to continue a study whose trials could not be compared with new ones.

    Raises:
        UserError: naming what differs.
    """
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if not changed:
        return
    shown = "; ".join(f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}" for key in changed[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise UserError(
        f"hydra.sweeper.study_name={study}: the study in {storage} was begun with other settings ({shown}{more}), so "
        "its trials cannot be compared with new ones. Type the command with which it was begun, or begin another with "
        "hydra.sweeper.study_name=NAME"
    )


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, default=str)
    return flat
