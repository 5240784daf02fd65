"""``python -m dro_lab.probe dataset=NAME model=NAME reward=r3,avg_prob,... [probe.KEY=VALUE ...] [KEY=VALUE ...]``.

Takes the overrides of ``python -m dro_lab.run``: policy, data, sampling, gate, filter, judge and scorer are the run's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dro_lab.commands import command
from dro_lab.errors import UserError
from dro_lab.probe.settings import read

USAGE = """\
usage: python -m dro_lab.probe dataset=NAME [model=NAME] [reward=r3,avg_prob,...] [probe.KEY=VALUE ...] [KEY=VALUE ...]

A bake-off before training: samples rollouts of the initial policy, scores them once, computes every reward on them and
ranks the rewards, by a quality label where there is one, else by their spread over the noise floor. Writes one page,
probe.json and figures into a new folder, and prints one table and a recommendation.

reward=A,B,...        the rewards to compare, any option of conf/reward or of your own (hydra.searchpath=[...]);
                      default r3,avg_prob,avg_logprob,seq_prob,rouge,verifier; reward.KEY=VALUE goes to those
                      that have the key
probe.rows=64         queries
probe.rollouts=16     rollouts of each
probe.split=train     where the queries come from
probe.omegas=[0,.5,1,2,4,8,16]  R3's exponents to compare
probe.label=auto      quality by the data set's metric (metric), an LLM judge (judge; needs judge=openai or
                      judge=policy) or none; auto: the first that is there
probe.floor=auto      score against permuted references too: auto (where no label ranks), true or false
probe.reflective=0.5  where reflective tokens are not known: those from this share of the largest sigma on
probe.g=2.1           signal-to-noise of an oracle's gradient at 4 prompts a step (a fit), for predicted steps
probe.confidence=0.9  of the bootstrap intervals over queries; probe.bootstrap=2000 resamples
probe.out=FOLDER      a folder that does not exist yet (default: by date in OUTPUTS)

Other keys are those of `python -m dro_lab.run`, for example
    python -m dro_lab.probe dataset=finqa reward=r3,avg_prob,avg_logprob gating=rubric filtering=r3_variance"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe and write; returns the exit status: 0, or 2 with one message on stderr."""
    return command(arguments, _probe, usage=USAGE, interrupted="interrupted: nothing was written")


def _probe(given: Sequence[str]) -> None:
    asked = read(given)
    from omegaconf.errors import OmegaConfBaseException

    from dro_lab.explain import explain
    from dro_lab.judges.keys import refuse_keys

    refuse_keys(list(given))
    try:
        from dro_lab.probe.command import probe_and_write

        probe_and_write(asked)
    except OmegaConfBaseException as error:
        raise UserError(explain(error) or str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
