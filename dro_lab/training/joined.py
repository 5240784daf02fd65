"""A step's values over all ranks as one, and one rank's part of them: by the shape suffixes of their names.

A tensor or sequence whose suffix begins with P has the prompts first: ranks stand one behind the other. Other axes are
padded to the widest with 0 (what is padded is masked). Numbers of `metrics` are averaged; all else is the first's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

T = TypeVar("T")
BEHIND_EACH_OTHER = frozenset({"rows", "replaced"})
"""Sequences with one entry a prompt, or a round, whose name carries no suffix."""


def joined(parts: Sequence[T]) -> T:
    """The values of all ranks as those of one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    values: dict[str, Any] = {}
    for field in fields(first):  # type: ignore[arg-type]
        found = [getattr(part, field.name) for part in parts]
        if any(value is None for value in found):
            values[field.name] = None
        elif is_dataclass(found[0]):
            values[field.name] = joined(found)
        elif field.name == "metrics":
            values[field.name] = _averaged(found)
        elif field.name == "parts":
            values[field.name] = {key: stacked([value[key] for value in found]) for key in found[0]}
        elif field.name in BEHIND_EACH_OTHER or has_prompts(field.name):
            values[field.name] = stacked(found) if isinstance(found[0], Tensor) else _behind(found)
        else:
            values[field.name] = found[0]
    return replace(first, **values)  # type: ignore[type-var]


def part(whole: T, rank: int, prompts: int, widths: Mapping[str, int]) -> T:
    """One rank's prompts of the whole.

    Args:
        whole: of all ranks.
        rank: whose part.
        prompts: of each rank.
        widths: the rank's own widths by suffix letter; tensors are cut to them.
    """
    own = slice(rank * prompts, (rank + 1) * prompts)
    values: dict[str, Any] = {}
    for field in fields(whole):  # type: ignore[arg-type]
        value, axes = getattr(whole, field.name), field.name.rpartition("_")[2]
        if value is None:
            continue
        if is_dataclass(value):
            values[field.name] = part(value, rank, prompts, widths)
        elif field.name == "parts":
            values[field.name] = {key: tensor[own] for key, tensor in value.items()}
        elif has_prompts(field.name):
            values[field.name] = _cut(value[own], axes, widths) if isinstance(value, Tensor) else value[own]
    return replace(whole, **values)  # type: ignore[type-var]


def has_prompts(name: str) -> bool:
    """Whether a value's first axis are the prompts."""
    suffix = name.rpartition("_")[2]
    return "_" in name and suffix.isupper() and suffix.startswith("P")


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors behind each other, all axes but the first padded with 0 to the widest."""
    sizes = [max(widths) for widths in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    made = []
    for tensor in tensors:
        missing = [want - have for want, have in zip(reversed(sizes), reversed(tensor.shape[1:]), strict=True)]
        made.append(pad(tensor, [n for more in missing for n in (0, more)]))
    return torch.cat(made)


def _cut(tensor: Tensor, axes: str, widths: Mapping[str, int]) -> Tensor:
    for axis, letter in enumerate(axes):
        if letter in widths and letter != "P":
            tensor = tensor.narrow(axis, 0, min(widths[letter], tensor.shape[axis]))
    return tensor


def _behind(found: Sequence[Sequence[Any]]) -> Sequence[Any]:
    whole = [item for sequence in found for item in sequence]
    return tuple(whole) if isinstance(found[0], tuple) else whole


def _averaged(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: sum(values[key] for values in found) / len(found) for key in found[0]}
