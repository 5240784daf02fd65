"""The ParaRev twin's knobs and presets, and which of them a policy must have been built with.

Errors name a knob as ``KNOB=VALUE``; who reads a configuration puts ``dataset.twin.`` before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dro_lab.data.twins.grammar import longest_reference, shortest_reference
from dro_lab.errors import UserError

AMOUNTS = 5  # a turn goes by 1 to 5 marks; the turns of a problem go by different amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class ParaRevTwin:
    """The knobs. The first block changes only the rows: one policy serves all its values.

    The second block is also what the warm start teaches: after changing it, rebuild the policy
    (``python -m dro_lab.policy.build``), or the policy answers in another layout than the references.
    """

    # rows only
    style_coherence: float = 0.5  # AS: each word of the reference is formal with probability .5 + AS * u, u = +-1 a row
    style_balance: float = 0.5  # share of rows whose reference is formal (u = +1)
    rare_words: int = 6  # rare synonyms in a reference, all of its own style
    even_tone: bool = False  # rows carry the concern under which the policy's wording hardly leans
    # rows and policy
    steps_min: int = 2  # turns a problem has: mixed difficulty
    steps_max: int = 4
    reference_length: int = 56  # tokens of a reference without distractors and end of sequence
    subject_first: bool = True  # the paragraph names the dial to be corrected first; False: also second
    independent: bool = False  # every fact is its own sub-answer
    distractors: int = 0  # reference slots that echo a filler of the reasoning
    # policy only
    lean: float = 0.14  # P(formal word | chain) = .5 + lean * k, k the mean sign of the chain's fillers
    even_lean: float = 0.01  # the same under the concern
    rare_probability: float = 0.02  # P(rare word | chain) = this * exp(+-rare_lean * k)
    rare_lean: float = 2.5
    error_rate: float = 0.45  # share of wrong marks per step of the warm-started reasoning
    shortcut_share: float = 0.0  # share of warm-started chains that skip the work
    shortcut_bonus: float = 0.0  # P(formal word | skipped) = .5 + this: earns where references are formal
    redundant: float = 0.0  # chance of a repeated line after each step of the reasoning

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, getattr(self, field.name), like=field.default)
        for name, low, high in (
            ("style_coherence", 0, 0.5),
            ("style_balance", 0, 1),
            ("lean", 0, 0.5),
            ("even_lean", 0, 0.5),
            ("error_rate", 0, 0.9),
            ("shortcut_share", 0, 1),
            ("shortcut_bonus", 0, 0.5),
            ("redundant", 0, 1),
            ("rare_probability", 0.0001, 0.1),
            ("rare_lean", 0, 2.5),
            ("steps_min", 1, self.steps_max),
            ("steps_max", self.steps_min, AMOUNTS),
            ("reference_length", shortest_reference(self.steps_max), longest_reference(self.steps_min)),
            ("distractors", 0, self.steps_min),
            ("rare_words", 0, 4 * self.steps_min),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name}={value}: must lie in [{low}, {high}]; change it or the knob beside it")


def _check_kind(name: str, value: object, *, like: object) -> None:
    """Refuse a value of another kind than the default's; a whole number does for a float."""
    if isinstance(like, bool):
        fits, allowed = isinstance(value, bool), "true or false"
    elif isinstance(like, int):
        fits, allowed = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        allowed = "a number"
    if not fits:
        raise UserError(f"{name}={value}: must be {allowed}; {shown(like)} is the default")


ROW_KNOBS = frozenset({"style_coherence", "style_balance", "rare_words", "even_tone"})
"""Knobs that one policy serves at all their values."""

SHARED_KNOBS = frozenset({"steps_min", "steps_max", "reference_length", "subject_first", "independent", "distractors"})
"""Knobs of the rows that the policy must have been built with; what is in neither set changes only the policy."""

PRESETS: Mapping[str, ParaRevTwin] = {
    "default": ParaRevTwin(),
    "mild": ParaRevTwin(even_tone=True),
    "incoherent": ParaRevTwin(style_coherence=0.0, rare_words=0),
    "shortcut": ParaRevTwin(style_balance=1.0, lean=0.0, even_lean=0.0, shortcut_share=0.3, shortcut_bonus=0.1),
}
"""``default``, ``mild`` and ``incoherent`` share one policy; ``shortcut`` needs its own."""


def preset(name: str, /, **overrides: Any) -> ParaRevTwin:
    """The named preset with some knobs replaced.

    Raises:
        UserError: unknown preset or knob, or a value of the wrong kind or out of range.
    """
    if name not in PRESETS:
        raise UserError(f"preset={name}: unknown twin preset '{name}': choose one of {', '.join(PRESETS)}")
    known = {field.name for field in fields(ParaRevTwin)}
    for key, value in overrides.items():
        if key not in known:
            raise UserError(f"{key}={value}: unknown twin knob '{key}': choose among {', '.join(sorted(known))}")
    return replace(PRESETS[name], **overrides)


def shown(value: object) -> str:
    """The value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


# ------------------------------------------------------------------------------------------------ a run's knobs

LOADER = "dro_lab.data.pararev.load"


def configured(twin: object) -> tuple[str, dict[str, Any], ParaRevTwin]:
    """What ``dataset.twin`` asks for: the preset's name, the knobs given beside it, and all knobs with their values.

    Raises:
        UserError: not a mapping, or what `preset` refuses; the message names ``dataset.twin.KNOB``.
    """
    if twin is None:
        twin = {}
    if not isinstance(twin, Mapping):
        raise UserError(
            f"dataset.twin={twin}: must hold keys and values; choose a preset with dataset.twin.preset=NAME "
            f"({', '.join(PRESETS)}) or a single knob, for example +dataset.twin.rare_words=2"
        )
    given = {str(key): value for key, value in twin.items()}
    name = str(given.pop("preset", "default"))
    try:
        return name, given, preset(name, **given)
    except UserError as error:
        raise UserError(f"dataset.twin.{error}") from error


def twin_knobs(dataset_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """All knobs of the twin that a `dataset` configuration loads; None where it loads no twin.

    Args:
        dataset_config: the `dataset` group, as composed or as plain values.

    Raises:
        UserError: as `configured`.
    """
    if dataset_config.get("source") != "twin" or dataset_config.get("_target_", LOADER) != LOADER:
        return None
    return asdict(configured(dataset_config.get("twin"))[2])


def unmatched_knobs(task_knobs: Mapping[str, Any], policy_folder: Path) -> list[str]:
    """Which knobs a run asks for that its policy was not built with; `ROW_KNOBS` need no rebuilt policy.

    Args:
        task_knobs: knobs of the run's twin (`twin_knobs`).
        policy_folder: the folder with the weights and, where the lab built it, ``build.json``.

    Returns:
        At most two sentences, on the knobs of the policy alone and on those of rows and policy; none without a
        ``build.json`` that records knobs. One sentence where it cannot be read.
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
    # a knob that the record does not know yet was at its default
    built = {**asdict(PRESETS["default"]), **built}
    differing = [key for key in task_knobs if key not in ROW_KNOBS and key in built and task_knobs[key] != built[key]]
    alone = [key for key in differing if key not in SHARED_KNOBS]
    shared = [key for key in differing if key in SHARED_KNOBS]
    command = _rebuild(task_knobs)
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


def _rebuild(wanted: Mapping[str, Any]) -> str:
    """The command that builds the policy for these knobs."""
    default = asdict(PRESETS["default"])
    changed = [
        f"{key}={shown(value)}" for key, value in wanted.items() if key not in ROW_KNOBS and value != default.get(key)
    ]
    # answers of skipped chains are vague on purpose, which the guards would refuse
    guards = ["--no-guards"] if wanted.get("shortcut_share") else []
    return " ".join(["python -m dro_lab.policy.build", *changed, *guards])
