"""R3's per-token sigma as filters read it: the same clipping, the same floor, the same tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dro_lab import checks
from dro_lab.errors import UserError
from dro_lab.rewards._tokens import group_sigma, reference_tokens
from dro_lab.types import TokenStats


def r3_sigma(
    stats: TokenStats, *, clip_low: float, clip_high: float, sigma_on: str, include_eos: bool
) -> tuple[Tensor, Tensor]:
    """``(sigma (P, R), mask (P, R))``: population std over the group of each reference token's probability.

    Raises:
        ValueError: the reference was not scored.
    """
    logps_PGR, mask_PR = reference_tokens(stats, include_eos=include_eos)
    probs_PGR = logps_PGR.exp()
    return group_sigma(probs_PGR.clamp(clip_low, clip_high) if sigma_on == "clipped" else probs_PGR, mask_PR), mask_PR


def check_sigma(*, clip_low: Any, clip_high: Any, sigma_on: Any, include_eos: Any) -> None:
    """Check the keys that decide sigma.

    Raises:
        UserError: a value out of its range, or an empty clip band.
    """
    follow = "without it the filter takes what reward=r3 has"
    checks.number("filtering.clip_low", clip_low, low=0, high=1, todo=follow)
    checks.number("filtering.clip_high", clip_high, low=0, high=1, todo=follow)
    checks.choice("filtering.sigma_on", sigma_on, ("clipped", "raw"), todo=follow)
    checks.flag("filtering.include_eos", include_eos, todo=follow)
    if clip_low >= clip_high:
        raise UserError(
            f"filtering.clip_low={clip_low} with filtering.clip_high={clip_high}: clip_low must be below clip_high, or "
            "every sigma is 0 and every group looks alike; 0.05 and 0.85 are the defaults"
        )


def check_part(key: str, value: Any, *, zero: bool = False, todo: str) -> None:
    """Check a share below 1 and above 0 (``zero``: at least 0).

    Raises:
        UserError: if it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < 1 or (value == 0 and not zero):
        raise UserError(f"{key}={value}: must be a share {'of at least' if zero else 'above'} 0 and below 1; {todo}")
