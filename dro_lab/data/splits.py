"""Which split a row belongs to: a pure function of its source's id, so that no document stands on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from dro_lab.errors import UserError
from dro_lab.types import Row

SPLITS = ("train", "validation", "test")


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the first 8 bytes of its sha256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares by split in the order train, validation, test. Raises `UserError` unless they are shares of one."""
    given = dict(shares)
    unknown = sorted(set(map(str, given)) - set(SPLITS))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in given.values())
    if unknown or not numbers or abs(sum(given.values()) - 1) > 1e-6:
        raise UserError(
            f"dataset.shares={given}: must give the keys {', '.join(SPLITS)} non-negative numbers that sum to 1. "
            f"Next: e.g. dataset.shares={{train: 0.8, validation: 0.1, test: 0.1}}."
        )
    return {split: float(given.get(split, 0.0)) for split in SPLITS}


def check_sizes(sizes: Mapping[str, int | None] | None, *, splits: Sequence[str] = SPLITS) -> dict[str, int | None]:
    """The caps by split (None = no cap). Raises `UserError` unless each is null or a whole number of at least 0.

    ``ood: null`` passes everywhere: only twins have that split, and null asks for all that there is.
    """
    given = {key: value for key, value in dict(sizes or {}).items() if key != "ood" or value is not None}
    bad = {k: v for k, v in given.items() if k not in splits or not (v is None or (type(v) is int and v >= 0))}
    if bad:
        only = " (`ood` with source=twin alone)" if "ood" in bad and "ood" not in splits else ""
        raise UserError(
            f"dataset.sizes={given}: {bad} is not allowed. Allowed: the keys {', '.join(splits)}{only}, each null (all "
            f"rows) or a whole number of at least 0. Next: correct or leave out dataset.sizes."
        )
    return {split: given.get(split) for split in splits}


def split_by_source(
    rows: Sequence[Row], *, source_of: Callable[[Row], str], shares: Mapping[str, float]
) -> tuple[dict[str, list[Row]], list[str]]:
    """Assign whole sources to splits, and say in notes where the rule had to give way.

    A source goes where `unit_hash` of its id falls on the line of cumulative shares: the same source has the same
    split in every file and under every seed. Where that leaves a split with a positive share empty (a small file),
    the sources are cut in hash order instead, each such split taking its share of them but at least one.
    """
    sources = sorted({source_of(row) for row in rows}, key=lambda source: (unit_hash(source), source))
    wanted = {split: share for split, share in check_shares(shares).items() if share > 0}
    assigned = {source: _by_hash(unit_hash(source), wanted) for source in sources}
    notes = []
    if set(assigned.values()) != set(wanted):
        assigned = dict(zip(sources, _by_rank(len(sources), wanted), strict=True))
        missing = [split for split in wanted if split not in assigned.values()]
        notes.append(
            f"only {len(sources)} sources: the splits were cut by rank, not by hash"
            + (f"; {' and '.join(missing)} stayed empty" if missing else "")
        )
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        splits[assigned[source_of(row)]].append(row)
    return splits, notes


def cap(splits: Mapping[str, Sequence[Row]], sizes: Mapping[str, int | None]) -> tuple[dict[str, list[Row]], list[str]]:
    """Keep at most ``sizes[split]`` rows, those with the lowest `unit_hash` of their id, in file order; and notes."""
    kept, notes = {}, []
    for split, rows in splits.items():
        size = sizes.get(split)
        chosen = list(rows)
        if size is not None and size < len(rows):
            ids = {row.id for row in sorted(rows, key=lambda row: (unit_hash(row.id), row.id))[:size]}
            chosen = [row for row in rows if row.id in ids]
            notes.append(f"dataset.sizes.{split}={size} leaves out {len(rows) - size} of {len(rows)} rows")
        kept[split] = chosen
    return kept, notes


def _by_hash(position: float, shares: Mapping[str, float]) -> str:
    total = 0.0
    for split, share in shares.items():
        total += share
        if position < total:
            return split
    return list(shares)[-1]


def _by_rank(n: int, shares: Mapping[str, float]) -> list[str]:
    # One source each first, by falling share (train before the others), then the rest by the largest deficit.
    order = sorted(shares, key=lambda split: -shares[split])
    counts = dict.fromkeys(shares, 0)
    for split in order[:n]:
        counts[split] = 1
    for _ in range(n - sum(counts.values())):
        counts[max(order, key=lambda split: shares[split] * n - counts[split])] += 1
    return [split for split, count in counts.items() for _ in range(count)]
