"""What is measured of a policy that may skip the work, and that a policy which stands there is not built again."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from dro_lab.data.twins import words
from dro_lab.data.twins.pararev import TWIN, make_rows, preset
from dro_lab.models import shipped_policy
from experiments.gating import policies


def test_a_vague_answer_does_not_pass_and_the_reference_does() -> None:
    for row in make_rows(preset("shortcut"), "train", 20, seed=0):
        vague = row.reference
        for start, end in reversed(row.columns["truth_spans"]):
            vague = vague[:start] + words.VAGUE + vague[end:]
        assert policies._passes(row, vague) == 0.0
        assert policies._passes(row, row.reference) == 1.0


def test_a_policy_that_never_skips_leaves_its_figures_open() -> None:
    figures = policies.measure(shipped_policy("pararev"), preset("default"), prompts=4, rollouts=6)
    assert figures["skip_share"] == 0.0
    assert figures["passing_others"] > 0.9
    assert 0.0 < figures["quality_others"] < 0.8
    assert figures["z_r3_w2_right"] > 0.3
    assert all(math.isnan(figures[name]) for name in ("quality_skipped", "z_avg_prob_skipped", "prefers_r3_w2"))


def test_a_policy_with_the_same_knobs_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[float] = []

    def note(out: Path, *, knobs: object, **_: object) -> None:
        out.mkdir(parents=True, exist_ok=True)
        built.append(asdict(knobs)["shortcut_bonus"])  # type: ignore[call-overload]

    monkeypatch.setattr(policies.policy, "build", note)
    monkeypatch.setattr(policies, "measure", lambda *_, **__: {"skip_share": 0.2})
    first = policies.build(0.2, 0.1, tmp_path / "p")
    assert policies.build(0.2, 0.1, tmp_path / "p") == first
    assert built == [0.1]
    policies.build(0.2, 0.4, tmp_path / "p")
    assert built == [0.1, 0.4]
    stored = json.loads((tmp_path / "p" / policies.FIGURES).read_text())
    assert (stored["share"], stored["bonus"], stored["generator_version"]) == (0.2, 0.4, TWIN.version)
