"""``python -m dro_lab.plan [scale=NAME] [model=NAME] [gpu=h100 devices=8 ...] [KEY=VALUE ...]``.

Takes the overrides of ``python -m dro_lab.run``; reads the model's ``config.json`` and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dro_lab.commands import checked, command, own_keys

USAGE = """\
usage: python -m dro_lab.plan [scale=gpu model=qwen3_1_7b reward=r3 ...] [gpu=h100 devices=1 sharding=none ...]

Prints what a run would take, before anything is started: memory of a device by part, tokens, FLOPs and seconds of a
step by sampling, scoring and training. Own keys, with their defaults:
  gpu=h100               b200, h200, h100, a100, l40s, rtx4090
  devices=null           that share the step; null: launch.num_processes
  sharding=null          none: a whole copy of the weights on each; full: split over them; null: as launch= says
  prompt_tokens=512      of a prompt
  reference_tokens=128   of a reference, and of an answer
  completion_tokens=null of a completion; null: rollout.max_completion_length, the most it can be
  mfu=0.35 bandwidth=0.6 layer_start=0.0006   what the device reaches of its data sheet; seconds a layer and token
All other keys are those of `python -m dro_lab.run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; returns the exit status: 0, or 2 with one message on stderr."""
    return command(arguments, _plan, usage=USAGE)


def _plan(given: list[str]) -> None:
    from dro_lab.plan.settings import Question

    question, overrides = own_keys(given, Question)
    from rich.console import Console

    from dro_lab.plan.command import plan, show

    cfg = checked(["tracking=none", *overrides])
    show(plan(cfg, question), Console(highlight=False, soft_wrap=True, markup=False), steps=cfg.steps)


if __name__ == "__main__":
    sys.exit(main())
