"""The beds of the study: a twin with its policy and scale, on which other studies trained several rewards."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments import omega, r3_vs_avg_prob, short_policies, steps_to_target
from experiments.short_policies import Testbed
from experiments.summaries import Curve

Curves = Mapping[str, Mapping[int, Curve]]
"""Held-out quality of each run: by arm, by seed."""

REWARDS = "reward=r3,avg_prob,avg_logprob,rouge,verifier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """One bed: what the probe is given, and what training took."""

    name: str
    title: str
    overrides: tuple[str, ...]
    load: Callable[[], Curves]
    policy: Testbed | None = None  # its own policy and knobs; None: the overrides say it all

    def arguments(self, policies: Path, *, paths: bool = True) -> list[str]:
        """The probe's command line; without paths of this machine where asked."""
        own = self.policy.overrides(policies) if self.policy else []
        if not paths:
            own = [override for override in own if not override.startswith("model.path=")]
        return [REWARDS, *self.overrides, *own, "probe.floor=true", "seed=99"]

    def curves(self) -> Curves:
        """What is archived of it: arms with at least two seeds; nothing where fewer than two arms have them."""
        found = {arm: of_arm for arm, of_arm in self.load().items() if len(of_arm) >= 2}
        return found if len(found) >= 2 else {}


def every() -> list[Bed]:
    """All beds, whether their runs are there yet or not."""
    presets = [
        Bed(
            name=f"r3_vs_avg_prob_{preset}",
            title=f"ParaRev twin, {preset}",
            overrides=("dataset=pararev", f"dataset.twin.preset={preset}"),
            load=_preset(preset),
        )
        for preset in ("default", "mild", "incoherent")
    ]
    twins = {
        "pararev": ("ParaRev twin, short", short_policies.PARAREV),
        "rar_medicine": ("RaR-Medicine twin", short_policies.RAR_MEDICINE),
        "contract_nli": ("ContractNLI twin", short_policies.CONTRACT_NLI),
        "finqa": ("FinQA twin", short_policies.FINQA),
        "gsm8k": ("maths twin", short_policies.MATHS),
    }
    shapes = {
        "chain": ("one chain, by omega", short_policies.PARAREV),
        "independent": ("independent facts, by omega", short_policies.INDEPENDENT),
        "distractors": ("two distractors, by omega", short_policies.DISTRACTORS),
    }
    return [
        *presets,
        *(_study(steps_to_target, name, title, bed) for name, (title, bed) in twins.items()),
        *(_study(omega, name, title, bed) for name, (title, bed) in shapes.items()),
    ]


def _preset(preset: str) -> Callable[[], Curves]:
    def load() -> Curves:
        frame = pd.read_csv(_folder(r3_vs_avg_prob) / "curves.csv")
        frame = frame[frame["preset"] == preset]
        return {
            str(arm): {
                int(seed): [(int(step), float(value)) for step, value in zip(run["step"], run["quality"], strict=True)]
                for seed, run in runs.groupby("seed")
            }
            for arm, runs in frame.groupby("reward")
        }

    return load


def _study(study: object, name: str, title: str, policy: Testbed) -> Bed:
    folder = _folder(study)
    return Bed(
        name=f"{folder.name}_{name}",
        title=title,
        overrides=(f"+experiments={folder.name}",),
        load=lambda: archived(folder / "runs.jsonl", name),
        policy=policy,
    )


def _folder(package: object) -> Path:
    return Path(str(getattr(package, "__file__", ""))).parent


def archived(file: Path, setting: str) -> Curves:
    """The curves of a setting in a study's archive, whose runs are named ``SETTING/ARM_sSEED``."""
    found: dict[str, dict[int, Curve]] = defaultdict(dict)
    if not file.exists():
        return found
    for entry in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        folder, _, run = entry["run"].partition("/")
        arm, _, seed = run.rpartition("_s")
        if folder == setting:
            found[arm][int(seed)] = [
                (int(step), float(value))
                for step, split, decoding, metric, value in entry["evals"]
                if (split, decoding, metric) == ("validation", "sampled", "quality")
            ]
    return found
