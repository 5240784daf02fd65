"""``python -m dro_lab.judge_audit judge=NAME dataset=NAME [audit.KEY=VALUE ...] [KEY=VALUE ...]``.

Takes the overrides of ``python -m dro_lab.run`` and reads its configuration: the judge that is audited is the run's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dro_lab.commands import command

USAGE = """\
usage: python -m dro_lab.judge_audit judge=exact|policy|openai dataset=NAME [audit.KEY=VALUE ...] [KEY=VALUE ...]

How often does the judge say yes to answers without content ("master keys") and to wrong answers with an order to the
judge behind them? Does it change its mind when two answers swap places? Does it agree with the data set's program
and, with audit.preferences=FILE, with people? Shares with intervals, as a table and as JSON.

audit.rows=32           rows, drawn from audit.split=validation by audit.seed=0
audit.preferences=FILE  human preferences in ParaRev's schema
audit.confidence=0.9    of the intervals; audit.resamples=2000 for those by bootstrap
audit.out=FILE          default: OUTPUTS/judge_audit/JUDGE_DATASET_TIME.json

Other keys are those of `python -m dro_lab.run`, for example judge.model=NAME, judge.show_query=false, model=NAME."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit and report; returns the exit status: 0, 2 with one message on stderr, or 130 after Ctrl-C."""
    return command(arguments, _audit, usage=USAGE, interrupted="interrupted: nothing was written")


def _audit(given: list[str]) -> None:
    from dro_lab.judge_audit.settings import split_keys
    from dro_lab.judges.keys import refuse_keys

    refuse_keys(given)
    audit, overrides = split_keys(given)
    from dro_lab.judge_audit.command import run

    run(audit, overrides, arguments=given)


if __name__ == "__main__":
    sys.exit(main())
