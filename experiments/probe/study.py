"""Does the probe's ranking before training agree with the steps that training took?

``python -m experiments.probe.study`` probes every setting whose runs are archived in other studies (20 to 60 seconds
each on a quiet core), keeps what the probe said in ``probes.jsonl``, and writes ``results.md``, ``ranking.png`` and
``ranking.csv`` beside this file. A bed that was probed is not probed again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from dro_lab.probe.command import probe_and_write
from dro_lab.probe.settings import read
from experiments import short_policies
from experiments.probe import beds, figure, table
from experiments.probe.beds import Bed
from experiments.probe.ranking import Setting, settings_of
from experiments.runs import reported

HERE = Path(__file__).parent
PROBES = HERE / "probes.jsonl"


def probed(bed: Bed, outputs: Path, policies: Path) -> dict[str, Any]:
    """Probe a bed and keep the part of probe.json that the study reads."""
    if bed.policy is not None:
        short_policies.build(bed.policy, policies)
    folder = outputs / bed.name
    if folder.exists():
        shutil.rmtree(folder)  # a probe that this study made, and did not keep
    probe_and_write(read([*bed.arguments(policies), f"probe.out={folder}"]))
    found = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    rewards = {reward["name"]: {key: reward[key] for key in table.KEPT if key in reward} for reward in found["rewards"]}
    return {
        "bed": bed.name,
        "arguments": bed.arguments(policies, paths=False),
        "commit": found["setting"]["commit"],
        "seconds": found["setting"]["seconds"],
        "quality": found["quality"],
        "prompts": found["prompts"],
        "rewards": rewards,
        "omegas": found["omegas"],
        "omega_measured": found["omega_measured"],
        "omega_formula": found["omega_formula"],
        "formula_notes": found["formula_notes"],
        "tokens": {key: value for key, value in found["tokens"].items() if key != "positions"},
        "recommended": found["advice"]["headline"],
    }


def kept() -> dict[str, dict[str, Any]]:
    """What was probed before, by bed."""
    if not PROBES.exists():
        return {}
    return {entry["bed"]: entry for entry in map(json.loads, PROBES.read_text(encoding="utf-8").splitlines())}


def keep(entries: dict[str, dict[str, Any]]) -> None:
    """Write what was probed, one line a bed."""
    PROBES.write_text("".join(json.dumps(entries[name]) + "\n" for name in sorted(entries)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/probe"), help="default %(default)s")
    parser.add_argument("--policies", type=Path, default=short_policies.ROOT, help="default %(default)s")
    parser.add_argument("--beds", default="", help="probe these alone, with commas between them")
    parser.add_argument("--again", action="store_true", help="probe again what was probed before")
    parser.add_argument("--tables-only", action="store_true", help="write page and figure of what was probed")
    options = parser.parse_args()
    entries, every = kept(), beds.every()
    named = [name for name in options.beds.split(",") if name]
    if unknown := sorted(set(named) - {bed.name for bed in every}):
        parser.error(f"--beds={unknown[0]}: choose among {', '.join(bed.name for bed in every)}")
    for bed in every:
        if options.tables_only or bed.name not in (named or [bed.name]) or not (named or bed.curves()):
            continue  # a bed that is named is probed before its runs are there
        asked = bed.arguments(options.policies, paths=False)
        if options.again or entries.get(bed.name, {}).get("arguments") != asked:
            entries[bed.name] = probed(bed, options.outputs, options.policies)
            keep(entries)
    found: list[Setting] = [
        setting for bed in every if bed.name in entries for setting in settings_of(bed, entries[bed.name])
    ]
    text = table.markdown(found, entries, missing=[bed.name for bed in every if not bed.curves()])
    (HERE / "results.md").write_text(text, encoding="utf-8")
    figure.draw(found, HERE / "ranking.png", HERE / "ranking.csv")
    print(text)


if __name__ == "__main__":
    reported(main)
