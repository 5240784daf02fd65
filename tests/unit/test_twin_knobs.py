"""Which knobs a run's policy must have been built with, and what is said where it was not."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dro_lab.data import pararev
from dro_lab.data.twins.knobs import configured, dataset_name, policy_notes, twin_knobs, unmatched_knobs
from dro_lab.data.twins.pararev import PRESETS, TWIN, ParaRevTwin, make_rows, preset
from dro_lab.data.twins.pararev_knobs import ROW_KNOBS, SHARED_KNOBS
from dro_lab.errors import UserError
from dro_lab.models import shipped_policy


def built(folder: Path, **overrides: Any) -> Path:
    """A policy folder as far as its record goes."""
    (folder / "build.json").write_text(json.dumps({"knobs": asdict(preset("default", **overrides))}))
    return folder


def asked(**twin: Any) -> dict[str, Any]:
    knobs = twin_knobs({"source": "twin", "twin": twin})
    assert knobs is not None
    return knobs


def test_the_knobs_of_a_configuration_are_the_presets_with_its_own() -> None:
    assert twin_knobs({"source": "twin"}) == twin_knobs({"source": "twin", "twin": None}) == asdict(ParaRevTwin())
    wanted = {**asdict(PRESETS["mild"]), "rare_words": 2}
    assert asked(preset="mild", rare_words=2) == wanted
    composed = OmegaConf.create({"_target_": "dro_lab.data.pararev.load", "source": "twin", "twin": {"preset": "mild"}})
    assert twin_knobs(composed) == asdict(PRESETS["mild"])


def test_the_shipped_yaml_asks_for_the_default() -> None:
    conf = Path(pararev.__file__).parents[2] / "conf" / "dataset"
    assert twin_knobs(OmegaConf.load(conf / "pararev.yaml")) == asdict(ParaRevTwin())
    assert twin_knobs(OmegaConf.load(conf / "jsonl.yaml")) is None


@pytest.mark.parametrize(
    "config",
    [
        {"source": "hub", "twin": {"preset": "mild"}},
        {"source": "rows.jsonl"},
        {},
        {"_target_": "mine.load", "source": "twin", "twin": {"size": 3}},
    ],
)
def test_data_without_the_twin_has_no_knobs(config: dict[str, Any]) -> None:
    assert twin_knobs(config) is None


def test_a_bad_knob_is_refused_as_the_loader_refuses_it() -> None:
    with pytest.raises(UserError, match=r"^dataset\.twin\.lean=9: must lie in"):
        asked(lean=9)


@pytest.mark.parametrize("name", ["default", "mild", "incoherent"])
def test_the_shipped_policy_serves_the_row_presets(name: str) -> None:
    assert unmatched_knobs(asked(preset=name), shipped_policy()) == []


def test_row_knobs_need_no_rebuilt_policy() -> None:
    assert unmatched_knobs(asked(rare_words=2, style_balance=0.1, even_tone=True), shipped_policy()) == []


def test_a_knob_of_the_policy_alone_is_said_with_the_way_out() -> None:
    (sentence,) = unmatched_knobs(asked(lean=0.3), shipped_policy())
    assert sentence == (
        "dataset.twin.lean=0.3: the policy was built with 0.14, and this knob changes only the policy; rebuild it "
        "(python -m dro_lab.policy.build lean=0.3 --out DIR, model.path=DIR), or take what it was built with "
        "(++dataset.twin.lean=0.14)"
    )


def test_a_knob_of_rows_and_policy_is_told_apart() -> None:
    alone, shared = unmatched_knobs(asked(steps_max=3, independent=True, error_rate=0.3), shipped_policy())
    assert alone.startswith("dataset.twin.error_rate=0.3: the policy was built with 0.45, and this knob changes only")
    assert shared.startswith(
        "dataset.twin.steps_max=3, independent=true: the policy was built with 4, false, and these knobs change rows "
        "and policy alike;"
    )
    assert "(++dataset.twin.steps_max=4 ++dataset.twin.independent=false)" in shared


@pytest.mark.parametrize(
    "twin", [{"preset": "shortcut"}, {"lean": 0.3}, {"steps_max": 3, "independent": True, "preset": "mild"}]
)
def test_the_command_it_names_builds_a_policy_that_matches(twin: dict[str, Any], tmp_path: Path) -> None:
    from dro_lab.policy.build import parse_overrides

    knobs = asked(**twin)
    sentence = unmatched_knobs(knobs, shipped_policy())[0]
    command = re.search(r"python -m dro_lab\.policy\.build (.*) --out DIR", sentence)
    assert command
    pairs = [word for word in shlex.split(command[1]) if not word.startswith("--")]
    assert ("--no-guards" in command[1]) == (twin.get("preset") == "shortcut")
    (tmp_path / "build.json").write_text(json.dumps({"knobs": asdict(parse_overrides(TWIN, "default", pairs))}))
    assert unmatched_knobs(knobs, tmp_path) == []


def test_another_policy_under_the_default_twin_is_said_too(tmp_path: Path) -> None:
    (sentence,) = unmatched_knobs(asked(), built(tmp_path, steps_max=3))
    assert "dataset.twin.steps_max=4: the policy was built with 3" in sentence
    assert unmatched_knobs(asked(steps_max=3), tmp_path) == []


def test_a_policy_of_another_data_sets_twin_is_told(tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text(json.dumps({"twin": "finqa", "knobs": {"lean": 0.14}}))
    (sentence,) = policy_notes({"source": "twin"}, tmp_path)
    assert sentence.startswith("the policy was built on the twin of finqa and knows nothing of these rows")
    assert "model.path=null" in sentence
    assert policy_notes({"source": "hub"}, tmp_path) == []


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, "pararev"),
        ({"_target_": "dro_lab.data.finqa.load"}, "finqa"),
        ({"_target_": "dro_lab.data.jsonl.load"}, "jsonl"),
        ({"_target_": "mine.data.finqa.load"}, None),
        ({"_target_": "dro_lab.data.finqa.other"}, None),
    ],
)
def test_the_data_set_is_told_by_its_loader(config: dict[str, Any], name: str | None) -> None:
    assert dataset_name(config) == name


def test_knobs_that_are_no_mapping_are_refused_with_an_example() -> None:
    with pytest.raises(UserError, match=r"^dataset\.twin=default: must hold keys and values; .*preset=NAME"):
        configured("pararev", "default")


def test_a_folder_without_a_record_says_nothing(tmp_path: Path) -> None:
    assert unmatched_knobs(asked(lean=0.3), tmp_path) == []
    assert unmatched_knobs(asked(lean=0.3), Path("Qwen/Qwen3-1.7B")) == []
    for other in ("[]", '{"tool": "something else"}', '{"knobs": 3}'):
        (tmp_path / "build.json").write_text(other)
        assert unmatched_knobs(asked(lean=0.3), tmp_path) == []


@pytest.mark.parametrize("content", [b'{"knobs": ', b"\xff\xfe"])
def test_a_record_that_cannot_be_read_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "build.json").write_bytes(content)
    (sentence,) = unmatched_knobs(asked(), tmp_path)
    assert sentence.startswith(f"{tmp_path}/build.json: cannot be read")


def test_a_knob_that_the_record_does_not_know_was_at_its_default(tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text(json.dumps({"knobs": {"lean": 0.14}}))
    assert unmatched_knobs(asked(), tmp_path) == []
    assert "redundant=0.5: the policy was built with 0.0" in unmatched_knobs(asked(redundant=0.5), tmp_path)[0]


def test_row_knobs_and_shared_knobs_are_exactly_what_changes_the_rows() -> None:
    """Told from the rows themselves: every knob is moved once."""
    moved: dict[str, Any] = {
        "style_coherence": 0.1,
        "style_balance": 0.0,
        "rare_words": 1,
        "even_tone": True,
        "steps_min": 4,
        "steps_max": 2,
        "reference_length": 50,
        "subject_first": False,
        "independent": True,
        "distractors": 2,
        "lean": 0.3,
        "even_lean": 0.2,
        "rare_probability": 0.05,
        "rare_lean": 1.0,
        "error_rate": 0.1,
        "shortcut_share": 0.5,
        "shortcut_bonus": 0.3,
        "redundant": 0.5,
    }
    assert moved.keys() == {field.name for field in fields(ParaRevTwin)}
    plain = make_rows(ParaRevTwin(), "train", 8, seed=0)
    changing = {
        name
        for name, value in moved.items()
        if make_rows(preset("default", **{name: value}), "train", 8, seed=0) != plain
    }
    assert changing == ROW_KNOBS | SHARED_KNOBS
