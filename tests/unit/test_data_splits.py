"""Splits are a pure function of the source's id."""

import pytest

from dro_lab.data.splits import cap, split_by_source, unit_hash
from dro_lab.types import Row

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def rows(sources: int, each: int = 2) -> list[Row]:
    return [
        Row(id=f"{s}.{n}", prompt=[], reference="r", columns={"source": f"article {s}"})
        for s in range(sources)
        for n in range(each)
    ]


def source_of(row: Row) -> str:
    return row.columns["source"]


def test_unit_hash_is_a_fixed_number_in_the_unit_interval():
    # The first 8 bytes of sha256("a") are ca978112ca1bbdca.
    assert unit_hash("a") == int("ca978112ca1bbdca", 16) / 2**64
    assert all(0 <= unit_hash(str(n)) < 1 for n in range(100))


def test_a_source_never_stands_in_two_splits_and_no_row_is_lost():
    made = rows(300)
    splits, notes = split_by_source(made, source_of=source_of, shares=SHARES)
    owners = {split: {source_of(row) for row in part} for split, part in splits.items()}
    assert not owners["train"] & owners["validation"]
    assert not owners["train"] & owners["test"]
    assert not owners["validation"] & owners["test"]
    assert sorted(row.id for part in splits.values() for row in part) == sorted(row.id for row in made)
    assert not notes
    assert 0.7 < len(splits["train"]) / len(made) < 0.9


def test_a_source_keeps_its_split_when_the_file_grows_or_is_reordered():
    small, _ = split_by_source(rows(200), source_of=source_of, shares=SHARES)
    large, _ = split_by_source(rows(400)[::-1], source_of=source_of, shares=SHARES)
    for split, part in small.items():
        assert {row.id for row in part} <= {row.id for row in large[split]}


@pytest.mark.parametrize("n", range(3, 30))
def test_every_split_with_a_share_gets_a_source_once_there_are_enough(n):
    splits, _ = split_by_source(rows(n), source_of=source_of, shares=SHARES)
    assert all(splits.values())


def test_too_few_sources_fill_the_largest_shares_first_and_say_so():
    splits, notes = split_by_source(rows(1), source_of=source_of, shares=SHARES)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [2, 0, 0]
    assert notes == ["only 1 sources: the splits were cut by rank, not by hash; validation and test stayed empty"]


def test_a_share_of_zero_gets_nothing():
    splits, notes = split_by_source(rows(5), source_of=source_of, shares={"train": 0, "test": 1})
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [0, 0, 10]
    assert not notes


def test_a_cap_keeps_the_same_rows_whatever_the_order_and_counts_the_rest():
    made = rows(20)
    kept, notes = cap({"train": made, "test": made[:3]}, {"train": 5, "test": None})
    again, _ = cap({"train": made[::-1]}, {"train": 5})
    assert len(kept["train"]) == 5
    assert {row.id for row in kept["train"]} == {row.id for row in again["train"]}
    assert [row.id for row in kept["train"]] == [row.id for row in made if row in kept["train"]]
    assert kept["test"] == made[:3]
    assert notes == ["dataset.sizes.train=5 leaves out 35 of 40 rows"]
