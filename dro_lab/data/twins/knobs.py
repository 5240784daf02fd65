"""Knobs and presets of a twin as a configuration gives them, and which of them a policy must have been built with.

Errors name a knob as ``KNOB=VALUE``; who reads a configuration puts ``dataset.twin.`` before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from dro_lab.data.twins.protocol import NAMES, Twin, twin
from dro_lab.errors import UserError

# ------------------------------------------------------------------------------------------------ for a twin's knobs


def check_kinds(knobs: Any) -> None:
    """Refuse values of another kind than the field's default; a whole number does for a float.

    Raises:
        UserError: names the knob, the value and the default.
    """
    for field in fields(knobs):
        value, like = getattr(knobs, field.name), field.default
        if isinstance(like, bool):
            fits, allowed = isinstance(value, bool), "true or false"
        elif isinstance(like, int):
            fits, allowed = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        else:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            allowed = "a number"
        if not fits:
            raise UserError(f"{field.name}={value}: must be {allowed}; {shown(like)} is the default")


def check_ranges(knobs: Any, ranges: Iterable[tuple[str, float, float]]) -> None:
    """Refuse values outside ``(name, low, high)``.

    Raises:
        UserError: names the first knob that is out of range.
    """
    for name, low, high in ranges:
        value = getattr(knobs, name)
        if not low <= value <= high:
            raise UserError(f"{name}={value}: must lie in [{low}, {high}]; change it or the knob beside it")


def preset(made_for: Twin, name: str, /, **overrides: Any) -> Any:
    """The twin's named preset with some knobs replaced.

    Raises:
        UserError: unknown preset or knob, or a value of the wrong kind or out of range.
    """
    if name not in made_for.presets:
        raise UserError(f"preset={name}: unknown twin preset '{name}': choose one of {', '.join(made_for.presets)}")
    known = {field.name for field in fields(made_for.knobs_type)}
    for key, value in overrides.items():
        if key not in known:
            raise UserError(f"{key}={value}: unknown twin knob '{key}': choose among {', '.join(sorted(known))}")
    return replace(made_for.presets[name], **overrides)


def shown(value: object) -> str:
    """The value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


# ------------------------------------------------------------------------------------------------ a run's knobs


def dataset_name(dataset_config: Mapping[str, Any]) -> str | None:
    """The data set that a `dataset` configuration loads, by its loader (``dro_lab.data.NAME.load``).

    None for a loader of somebody else; ``pararev`` where no loader is named.
    """
    module, _, function = str(dataset_config.get("_target_", "dro_lab.data.pararev.load")).rpartition(".")
    package, _, name = module.rpartition(".")
    return name if (package, function) == ("dro_lab.data", "load") else None


def configured(name: str, knobs: object) -> tuple[str, dict[str, Any], Any]:
    """What ``dataset.twin`` asks for: the preset's name, the knobs given beside it, and all knobs with their values.

    Args:
        name: of the data set.
        knobs: the configuration's ``dataset.twin``.

    Raises:
        UserError: not a mapping, or what `preset` refuses; the message names ``dataset.twin.KNOB``.
    """
    made_for = twin(name)
    if knobs is None:
        knobs = {}
    if not isinstance(knobs, Mapping):
        knob = next(iter(sorted(made_for.row_knobs | made_for.shared_knobs)), "KNOB")
        raise UserError(
            f"dataset.twin={knobs}: must hold keys and values; choose a preset with dataset.twin.preset=NAME "
            f"({', '.join(made_for.presets)}) or a single knob, for example +dataset.twin.{knob}=VALUE"
        )
    given = {str(key): value for key, value in knobs.items()}
    chosen = str(given.pop("preset", "default"))
    try:
        return chosen, given, preset(made_for, chosen, **given)
    except UserError as error:
        raise UserError(f"dataset.twin.{error}") from error


def twin_knobs(dataset_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """All knobs of the twin that a `dataset` configuration loads; None where it loads no twin.

    Args:
        dataset_config: the `dataset` group, as composed or as plain values.

    Raises:
        UserError: as `configured`.
    """
    name = dataset_name(dataset_config)
    if dataset_config.get("source") != "twin" or name not in NAMES:
        return None
    return asdict(configured(str(name), dataset_config.get("twin"))[2])


def policy_notes(dataset_config: Mapping[str, Any], policy_folder: Path) -> list[str]:
    """What a reader must know of a run's twin and the policy that shall learn on it: `unmatched_knobs`, if a twin."""
    knobs = twin_knobs(dataset_config)
    return [] if knobs is None else unmatched_knobs(knobs, policy_folder, name=str(dataset_name(dataset_config)))


def unmatched_knobs(task_knobs: Mapping[str, Any], policy_folder: Path, *, name: str = "pararev") -> list[str]:
    """Which knobs a run asks for that its policy was not built with; the twin's ``row_knobs`` need no rebuilt policy.

    Args:
        task_knobs: knobs of the run's twin (`twin_knobs`).
        policy_folder: the folder with the weights and, where the lab built it, ``build.json``.
        name: the data set whose twin it is.

    Returns:
        At most two sentences, on the knobs of the policy alone and on those of rows and policy; none without a
        ``build.json`` that records knobs. One sentence where it cannot be read, or is of another data set's twin.
    """
    file = Path(policy_folder).expanduser() / "build.json"
    if not file.is_file():
        return []
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{file}: cannot be read ({error}), so whether the policy was built for these knobs is unknown"]
    built = record.get("knobs") if isinstance(record, dict) else None
    if not isinstance(built, dict):
        return []
    if (other := record.get("twin", "pararev")) != name:
        return [
            f"the policy was built on the twin of {other} and knows nothing of these rows: its numbers mean nothing "
            f"but that the path works; take the one of this data set (model.path=null), or build it "
            f"({_rebuild(task_knobs, name)} --out DIR, model.path=DIR)"
        ]
    made_for = twin(name)
    # a knob that the record does not know yet was at its default
    built = {**asdict(made_for.presets["default"]), **built}
    differing = [
        key for key in task_knobs if key not in made_for.row_knobs and key in built and task_knobs[key] != built[key]
    ]
    alone = [key for key in differing if key not in made_for.shared_knobs]
    shared = [key for key in differing if key in made_for.shared_knobs]
    command = _rebuild(task_knobs, name)
    return [
        *_sentence(alone, task_knobs, built, "only the policy", command),
        *_sentence(shared, task_knobs, built, "rows and policy alike", command),
    ]


def _sentence(
    keys: list[str], wanted: Mapping[str, Any], built: Mapping[str, Any], what: str, command: str
) -> list[str]:
    if not keys:
        return []
    asked = ", ".join(f"{key}={shown(wanted[key])}" for key in keys)
    subject = "this knob changes" if len(keys) == 1 else "these knobs change"
    had = ", ".join(shown(built[key]) for key in keys)
    keep = " ".join(f"++dataset.twin.{key}={shown(built[key])}" for key in keys)
    return [
        f"dataset.twin.{asked}: the policy was built with {had}, and {subject} {what}; "
        f"rebuild it ({command} --out DIR, model.path=DIR), or take what it was built with ({keep})"
    ]


def _rebuild(wanted: Mapping[str, Any], name: str) -> str:
    """The command that builds the policy for these knobs."""
    made_for = twin(name)
    default = asdict(made_for.presets["default"])
    changed = [
        f"{key}={shown(value)}"
        for key, value in wanted.items()
        if key not in made_for.row_knobs and value != default.get(key)
    ]
    which = [] if name == "pararev" else ["--twin", name]
    # answers of skipped chains are vague on purpose, which the guards would refuse
    guards = ["--no-guards"] if wanted.get("shortcut_share") else []
    return " ".join(["python -m dro_lab.policy.build", *which, *changed, *guards])
