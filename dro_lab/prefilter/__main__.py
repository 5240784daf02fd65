"""``python -m dro_lab.prefilter dataset=NAME [keep_share=0.1 rest_share=0.1 rollouts=16 out=FILE] [KEY=VALUE ...]``.

Takes the overrides of ``python -m dro_lab.run``: policy, data, sampling and scoring are the run's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from dro_lab.commands import checked, command, own_keys

USAGE = """\
usage: python -m dro_lab.prefilter dataset=NAME [keep_share=0.1 rest_share=0.1 rollouts=16 out=FILE] [KEY=VALUE ...]

Samples `rollouts` completions for every training row with the initial policy, ranks the rows by sigma_bar, keeps the
share `keep_share` with the largest and a random share `rest_share` of the others, and writes them to FILE (default: a
name by content in OUTPUTS/prefilter) with a histogram beside it. Train on them with
    python -m dro_lab.run dataset=NAME filtering=static filtering.file=FILE
What was sampled once under the same settings is not sampled again. Other keys are those of `python -m dro_lab.run`.
sigma_bar is that of reward=r3 with its keys (reward.clip_low, clip_high, sigma_on, include_eos)."""

FIXED = {
    "filtering": "sigma_bar follows the keys of reward=r3",
    "gating": "the prefilter asks for no verdicts",
    "tracking": "a prefilter is no run",
    "steps": "the prefilter trains nothing",
    "scored_by": "the initial policy samples and scores",
}
"""Keys of a run that mean nothing here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, or find it; returns the exit status: 0, or 2 with one message on stderr."""
    return command(arguments, _prefilter, usage=USAGE, interrupted="interrupted: nothing was written")


def _prefilter(given: list[str]) -> None:
    from dro_lab.prefilter.settings import Choice

    own, overrides = own_keys(given, Choice, texts=("out",), refused=FIXED)
    from dro_lab.prefilter.command import prefilter

    prefilter(own, _compose(overrides))


def _compose(overrides: Sequence[str]) -> Any:
    judge = [] if any(override.startswith("judge=") for override in overrides) else ["judge=none"]
    # also over what `+experiments=NAME` chooses: a gate would want rubrics and a judge
    return checked(["filtering=r3_variance", "gating=none", "tracking=none", "steps=0", *judge, *overrides])


if __name__ == "__main__":
    sys.exit(main())
