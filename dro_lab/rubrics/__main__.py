"""``python -m dro_lab.rubrics dataset=NAME judge=NAME out=FILE``: write rubrics, each check tried on its reference.

Takes the overrides of ``python -m dro_lab.run``; keys of its own are in `USAGE`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dro_lab.commands import command

USAGE = """\
usage: python -m dro_lab.rubrics dataset=NAME judge=openai|policy|exact out=FILE [KEY=VALUE ...]

judge=openai writes at most 10 yes/no checks a query with the model behind judge.base_url, judge=policy with the
reference policy (model=...), and tries each check on the reference answer; judge=exact writes nothing: it takes the
rubrics that the rows carry and tries them with the data set's program. Checks that the reference fails are dropped,
counted and shown. The file goes to gating.rubrics.file=FILE.

out=FILE           a .jsonl file; what it holds already is kept, only missing queries are written
overwrite=false    true begins the file anew; needed where it was written by another judge, model or template
split=train        whose rows
limit=null         the first so many rows of the split
checks=write       rows: take those that the rows carry, also with judge=openai or judge=policy (exact: always rows)
max_tokens=1024    of a written rubric
examples=3         dropped and malformed ones to show

Other keys are those of `python -m dro_lab.run`, for example dataset.source=PATH or judge.model=NAME."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and report; returns the exit status: 0, 1 where nothing usable was written, 2 with one message."""
    return command(arguments, _write, usage=USAGE)


def _write(given: list[str]) -> int:
    from dro_lab.rubrics.command import run, wanted

    own, overrides = wanted(given)
    return run(own, overrides, arguments=given)


if __name__ == "__main__":
    sys.exit(main())
