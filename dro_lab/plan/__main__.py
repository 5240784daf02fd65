"""``python -m dro_lab.plan [scale=NAME] [model=NAME] [gpu=h100 devices=8 ...] [KEY=VALUE ...]``.

Takes the overrides of ``python -m dro_lab.run``; reads the model's ``config.json`` and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from dro_lab.errors import UserError

BAD_INPUT = 2
USAGE = """\
usage: python -m dro_lab.plan [scale=gpu model=qwen3_1_7b reward=r3 ...] [gpu=h100 devices=1 sharding=none ...]

Prints what a run would take, before anything is started: memory of a device by part, tokens, FLOPs and seconds of a
step by sampling, scoring and training. Own keys, with their defaults:
  gpu=h100               b200, h200, h100, a100, l40s, rtx4090
  devices=1              that share the step
  sharding=none          none: a whole copy of the weights on each; full: split over them (FSDP, ZeRO-3)
  prompt_tokens=512      of a prompt
  reference_tokens=128   of a reference, and of an answer
  completion_tokens=null of a completion; null: rollout.max_completion_length, the most it can be
  mfu=0.35 bandwidth=0.6 launch=0.0006   what the device reaches of its data sheet; seconds a layer and token
All other keys are those of `python -m dro_lab.run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; returns the exit status: 0, or 2 with one message on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(USAGE)
        return 0
    try:
        question, overrides = _split(given)
        from rich.console import Console

        from dro_lab.plan.command import plan, show

        cfg = _compose(overrides)
        show(plan(cfg, question), Console(highlight=False, soft_wrap=True), steps=cfg.steps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _split(given: Sequence[str]) -> tuple[Any, list[str]]:
    """The plan's own keys, checked, and the overrides of a run."""
    import yaml

    from dro_lab.plan.settings import Question

    names = {field.name for field in fields(Question)}
    own: dict[str, Any] = {}
    overrides = []
    for argument in given:
        key, _, value = argument.partition("=")
        if key in names:
            try:
                own[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise UserError(f"{argument}: cannot be read; give one value, for example devices=8") from None
        elif argument.startswith("-"):
            raise UserError(f"{argument}: unknown option. Allowed: --help, {', '.join(sorted(names))}, and overrides.")
        else:
            overrides.append(argument)
    return Question(**own), overrides


def _compose(overrides: Sequence[str]) -> Any:
    from omegaconf.errors import OmegaConfBaseException

    from dro_lab.config import check
    from dro_lab.data.__main__ import compose
    from dro_lab.explain import explain

    try:
        cfg = compose(["tracking=none", *overrides])
        check(cfg)
    except OmegaConfBaseException as error:
        raise UserError(explain(error) or str(error)) from error
    return cfg


if __name__ == "__main__":
    sys.exit(main())
