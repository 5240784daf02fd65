"""What tells runs apart: their configurations as flat keys, and the shortest label of what differs between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dro_lab.record.read import Run

ASIDE = ("seed", "algorithm.seed", "outputs", "report", "threads")
"""Keys that do not make another setting: the seed, and what changes no number."""
ASIDE_GROUPS = ("hydra.", "tracking.", "names.tracking", "names.scale")


def flat_config(run: Run) -> dict[str, Any]:
    """``config.yaml`` as ``{"reward.omega": 2.0, ...}``; lists are values. Empty where there is none."""
    return dict(_parsed(run.config))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Mapping[str, Any]:
    """Parsed once a text: a comparison asks for its runs' labels many times."""
    return _flat(yaml.safe_load(text) or {}) if text else {}


def varying(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values differ between the configurations, seed and bookkeeping left out, in their order there."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key
        for key in keys
        if key not in ASIDE
        and not key.startswith(ASIDE_GROUPS)
        and len({_hashable(config.get(key)) for config in configs}) > 1
    ]


def label_of(runs: Sequence[Run]) -> dict[Path, str]:
    """The shortest label of each run that says what differs between the runs, the seed left out.

    ``r3`` where one setting was run, ``r3`` and ``avg_prob`` where rewards differ, ``r3 omega=4`` where a key does. A
    key is left out where it is the chosen option's own (another reward's omega), or repeats another key under a longer
    name (``algorithm.max_steps``). A key of its own that happens to change together with a group is named: which of
    the two made the difference, the runs cannot tell.
    """
    configs = [flat_config(run) for run in runs]
    keys = varying(configs)
    groups = [key for key in keys if key.startswith("names.") and key != "names.reward"]
    chosen: list[str] = []
    for key in keys:
        column = _column(configs, key)
        if key.startswith("names.") or _follows(column, _owners(key, configs, groups)):
            continue
        if not any(_same_word(key, other) and column == _column(configs, other) for other in chosen):
            chosen.append(key)
    rewards = [_reward(run, config) for run, config in zip(runs, configs, strict=True)]
    own = {
        reward: varying([c for c, name in zip(configs, rewards, strict=True) if name == reward]) for reward in rewards
    }
    short = _short([*groups, *chosen])
    labels = {}
    for run, config, reward in zip(runs, configs, rewards, strict=True):
        told_apart = [key for key in chosen if key in own[reward] or not key.startswith("reward.")]
        parts = [f"{short[key]}={_text(config[key])}" for key in (*groups, *told_apart) if key in config]
        labels[run.folder] = " ".join([reward, *parts])
    return labels


def _reward(run: Run, config: Mapping[str, Any]) -> str:
    return str(config.get("names.reward") or run.summary.get("reward") or run.folder.name)


def _column(configs: Sequence[Mapping[str, Any]], key: str) -> tuple[Any, ...]:
    return tuple(_hashable(config.get(key)) for config in configs)


SETS_OTHERS = ("names.dataset", "names.model", "names.rollout")
"""Groups whose options set keys of other groups too: sizes that fit the data, an engine's own settings."""


def _owners(key: str, configs: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> list[tuple[Any, ...]]:
    """By run, the chosen options of the groups that decide the key."""
    named = {f"names.{key.partition('.')[0]}", *SETS_OTHERS} & {"names.reward", *groups}
    return [tuple(config.get(group) for group in sorted(named)) for config in configs]


def _same_word(key: str, other: str) -> bool:
    """Whether one key's last part ends with the other's: ``algorithm.max_steps`` and ``steps``."""
    a, b = (name.rpartition(".")[2] for name in (key, other))
    return a.endswith(b) or b.endswith(a)


def _follows(column: Sequence[Any], by_group: Sequence[Any]) -> bool:
    """Whether the group choices alone decide the value; no group, no choice."""
    return any(by_group) and len(set(zip(by_group, column, strict=True))) == len(set(by_group))


def _short(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or the whole key where two would look alike."""
    last = Counter(key.rsplit(".", 1)[-1] for key in keys)
    return {key: name if last[name := key.rsplit(".", 1)[-1]] == 1 else key for key in keys}


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "+".join(map(_text, value)) or "none"
    # of a path the end tells files apart, the rest is the machine's
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else str(value) if isinstance(value, dict) else value


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found
