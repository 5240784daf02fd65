"""Policies that answer within 48 tokens, for the studies at ``scale=study``.

Where a twin's references are longer than that (ParaRev's and RaR-Medicine's), a policy goes on from the shipped one
with the last phase of the warm start on references of `LENGTH` tokens; the other twins' shipped policies are short
already. ``python -m experiments.short_policies`` builds the four (two to four minutes each on one core) and prints
what they do before any training. A policy that misses the twin's guards is refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dro_lab.data.twins.knobs import preset, shown
from dro_lab.data.twins.protocol import twin
from dro_lab.models import shipped_policy
from dro_lab.policy import build as policy
from dro_lab.policy.guards import limits_of
from dro_lab.policy.warmstart import Phase, budget
from experiments.options import POLICIES

LENGTH = 44
"""Tokens of a reference; two distractors, the end of sequence and the space before the answer come on top: 48."""
STEPS_SCALE = 1.5
"""Of the phase ``tune``: another length is more to learn than another style."""
ROOT = POLICIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Testbed:
    """A twin as the studies use it: the data set, and the knobs that need a policy of their own (none: the shipped)."""

    dataset: str
    twin: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    chains: int = 0
    """Steps of the phase ``chains`` before the last one, where the rule for the marks is a new one too."""

    @property
    def name(self) -> str:
        return "_".join([self.dataset, *(f"{key}{shown(value)}" for key, value in self.knobs.items())])

    def folder(self, root: Path) -> Path | None:
        """Where its own policy lies; None where the shipped one serves."""
        return root / self.name if self.knobs else None

    def overrides(self, root: Path) -> list[str]:
        """What a run on it overrides."""
        folder = self.folder(root)
        return [
            f"dataset={self.dataset}",
            *(f"++dataset.twin.{key}={shown(value)}" for key, value in self.knobs.items()),
            *([f"model.path={folder}"] if folder else []),
        ]


PARAREV = Testbed(dataset="pararev", twin="pararev", knobs={"reference_length": LENGTH})
INDEPENDENT = Testbed(
    dataset="pararev",
    twin="pararev",
    knobs={"reference_length": LENGTH, "independent": True, "error_rate": 0.6},
    chains=250,
)
"""Errors do not add up along its chain, so each fact fails more often: as many are right as on `PARAREV`, about."""
DISTRACTORS = Testbed(dataset="pararev", twin="pararev", knobs={"reference_length": LENGTH, "distractors": 2})
RAR_MEDICINE = Testbed(dataset="rar_medicine", twin="rar_medicine", knobs={"reference_length": LENGTH})
CONTRACT_NLI = Testbed(dataset="contract_nli", twin="contract_nli")
FINQA = Testbed(dataset="finqa", twin="finqa")
MATHS = Testbed(dataset="gsm8k", twin="maths")
BUILT = (PARAREV, INDEPENDENT, DISTRACTORS, RAR_MEDICINE)


def phases_of(bed: Testbed) -> list[Phase]:
    """The warm start's phases after the shipped policy's own."""
    (last,) = budget(twin(bed.twin), "tune")
    first = [replace(last, name="chains", steps=bed.chains)] if bed.chains else []
    return [*first, replace(last, steps=round(last.steps * STEPS_SCALE))]


def built(bed: Testbed, folder: Path) -> bool:
    """Whether the folder holds the policy of these knobs, version of the twin and recipe, and it meets the guards."""
    if not (folder / "build.json").is_file():
        return False
    record = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    made_for = twin(bed.twin)
    wanted = {
        "twin": bed.twin,
        "generator_version": made_for.version,
        "knobs": asdict(preset(made_for, "default", **bed.knobs)),
        "phases": [asdict(phase) for phase in phases_of(bed)],
    }
    if {key: record.get(key) for key in wanted} != wanted:
        return False
    return all(low <= record["guards"][name] <= high for name, (low, high) in limits_of(made_for).items())


def build(bed: Testbed, root: Path = ROOT) -> None:
    """Build the testbed's policy, unless it stands there already or the shipped one serves.

    Raises:
        UserError: the policy does not reach the twin's guards.
    """
    folder = bed.folder(root)
    if folder is None or built(bed, folder):
        return
    torch.set_num_threads(1)
    made_for = twin(bed.twin)
    policy.build(
        folder,
        made_for=made_for,
        knobs=preset(made_for, "default", **bed.knobs),
        phases=phases_of(bed),
        start=shipped_policy(bed.twin),
        guard_rows=64,
    )


def markdown(beds: Sequence[Testbed], root: Path) -> str:
    """What each policy does before training."""
    figures = {
        bed.name: json.loads((folder / "build.json").read_text(encoding="utf-8"))["guards"]
        for bed in beds
        if (folder := bed.folder(root)) and built(bed, folder)
    }
    columns = list(next(iter(figures.values()), {}))
    lines = [f"| policy | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    lines += [
        f"| {name} | {' | '.join(f'{found[column]:.2f}' for column in columns)} |" for name, found in figures.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=ROOT)
    arguments = parser.parse_args()
    for bed in BUILT:
        build(bed, arguments.outputs)
    print(markdown(BUILT, arguments.outputs))


if __name__ == "__main__":
    main()
