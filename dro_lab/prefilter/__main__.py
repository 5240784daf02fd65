"""``python -m dro_lab.prefilter dataset=NAME [keep_share=0.1 rest_share=0.1 rollouts=16 out=FILE] [KEY=VALUE ...]``.

Takes the overrides of ``python -m dro_lab.run``: policy, data, sampling and scoring are the run's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from dro_lab.errors import UserError

BAD_INPUT = 2
INTERRUPTED = 130
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
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(USAGE)
        return 0
    try:
        own, overrides = _split(given)
        from dro_lab.prefilter.command import prefilter

        prefilter(own, _compose(overrides))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


def _split(given: Sequence[str]) -> tuple[Any, list[str]]:
    """The command's own keys, checked, and the overrides of a run."""
    import yaml

    from dro_lab.prefilter.settings import Choice

    names = {field.name for field in fields(Choice)}
    own: dict[str, Any] = {}
    overrides = []
    for argument in given:
        key, _, value = argument.partition("=")
        if key in names:
            own[key] = value if key == "out" else yaml.safe_load(value)
        elif key.lstrip("+~") in FIXED:
            raise UserError(f"{argument}: cannot be given here, {FIXED[key.lstrip('+~')]}. Leave it out.")
        elif argument.startswith("-"):
            raise UserError(f"{argument}: unknown option. Allowed: --help, {', '.join(sorted(names))}, and overrides.")
        else:
            overrides.append(argument)
    return Choice(**own), overrides


def _compose(overrides: Sequence[str]) -> Any:
    from omegaconf.errors import OmegaConfBaseException

    from dro_lab.config import check
    from dro_lab.data.__main__ import compose
    from dro_lab.explain import explain

    judge = [] if any(override.startswith("judge=") for override in overrides) else ["judge=none"]
    try:
        # also over what `+experiments=NAME` chooses: a gate would want rubrics and a judge
        cfg = compose(["filtering=r3_variance", "gating=none", "tracking=none", "steps=0", *judge, *overrides])
        check(cfg)
    except OmegaConfBaseException as error:
        raise UserError(explain(error) or str(error)) from error
    return cfg


if __name__ == "__main__":
    sys.exit(main())
