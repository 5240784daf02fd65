"""What TRL's arguments say for several processes where the configuration says nothing."""

from __future__ import annotations

import pytest

from dro_lab.data.__main__ import compose
from dro_lab.training.arguments import arguments


@pytest.mark.parametrize(
    ("given", "unused", "level"),
    [
        ([], False, "error"),
        (["+algorithm.ddp_find_unused_parameters=true"], True, "error"),
        (["+algorithm.log_level_replica=warning"], False, "warning"),
    ],
)
def test_what_the_lab_says_gives_way_to_the_user(given, unused, level, tmp_path):
    made = arguments(compose(given).algorithm, output_dir=str(tmp_path), steps=1)
    assert made.ddp_find_unused_parameters is unused
    assert made.log_level_replica == level
