"""Every yaml composes and builds what it names; the command's own help and listing say what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dro_lab import build, components
from dro_lab.config import GROUPS, check
from dro_lab.data.__main__ import CONF, compose
from dro_lab.health import build_watch
from dro_lab.models import policy_spec
from dro_lab.training.arguments import arguments
from dro_lab.types import Need
from tests.cli_fixture import run_main

OPTIONS = sorted(f"{path.parent.name}/{path.stem}" for path in CONF.glob("*/*.yaml"))
FOLDERS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
ADDED = ("experiments", "sweep")  # groups that a run has no option of by default
ROWS = {
    "jsonl": [{"prompt": f"p{i}", "reference": f"r{i}"} for i in range(40)],
    "finqa": [{"id": f"q{i}", "question": f"q{i}", "context": f"page {i}", "exe_ans": float(i)} for i in range(40)],
}


def overrides(option: str) -> list[str]:
    """What chooses an option on the command line."""
    group, name = option.split("/")
    return [f"+{group}={name}" if group in ADDED else f"{group}={name}"]


def function(cfg: Any, group: str, name: str, folder: Path) -> None:
    supplied = frozenset({"needs"}) if group == "judge" else frozenset()
    node = build.without_refill(cfg[group]) if group == "filtering" else cfg[group]
    if (group, name) == ("judge", "openai"):
        node.base_url, node.model = "http://127.0.0.1:1/v1", "a-model"
    made = components.component(group, node, name=name, supplied=supplied)
    function = made.call.func.__name__
    variant = "defaults" in OmegaConf.load(CONF / group / f"{name}.yaml") and name.startswith(f"{function}_")
    assert made.name == name == (name if variant else function)
    assert all(isinstance(need, Need) for need in made.needs)


def data(cfg: Any, group: str, name: str, folder: Path) -> None:
    if name in ROWS:
        file = folder / "rows.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in ROWS[name]))
        cfg.dataset.source = str(file)
    else:
        cfg.dataset.sizes = {"train": 4, "validation": 2, "test": 2, "ood": 2}
    task = build.load_task(cfg)
    assert task.name == name
    assert all(len(rows) > 0 for rows in task.splits.values())
    assert task.metric is not None


def trl(cfg: Any, group: str, name: str, folder: Path) -> None:
    made = arguments(cfg.algorithm, output_dir=str(folder), steps=cfg.steps)
    assert (made.max_steps, made.seed, made.num_generations) == (40, 0, cfg.algorithm.num_generations)
    assert (made.temperature, made.top_p) == (cfg.rollout.temperature, cfg.rollout.top_p)


def model(cfg: Any, group: str, name: str, folder: Path) -> None:
    spec = policy_spec(cfg.model)
    assert spec.local is (name == "tiny")


def tracker(cfg: Any, group: str, name: str, folder: Path) -> None:
    cfg.outputs = str(folder)
    made = components.instantiate_checked("tracking", cfg.tracking)
    assert bool(made.ui_command) is (name == "mlflow")


def monitors(cfg: Any, group: str, name: str, folder: Path) -> None:
    build_watch(cfg.health)


def checked(cfg: Any, group: str, name: str, folder: Path) -> None:
    """Nothing is built from these alone: `check` has read their values."""


BUILD: dict[str, Callable[[Any, str, str, Path], None]] = {
    **dict.fromkeys(("reward", "gating", "filtering", "advantage", "judge"), function),
    **dict.fromkeys(("rollout", "scorer", "evaluation", "launch", "scale", *ADDED), checked),
    "dataset": data,
    "algorithm": trl,
    "model": model,
    "tracking": tracker,
    "health": monitors,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(option: str, tmp_path: Path) -> None:
    group, name = option.split("/")
    cfg = compose(overrides(option))
    if OmegaConf.is_missing(cfg.dataset, "source"):
        cfg.dataset.source = "a path"
    check(cfg)
    BUILD[group](cfg, group, name, tmp_path)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_says_in_its_first_line_what_it_is(option: str) -> None:
    lines = (CONF / f"{option}.yaml").read_text().splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    assert re.fullmatch(r"# \S.{10,}", first)


# ------------------------------------------------------------------------------------------------------ scale

SCALE_SETS = ("steps", "dataset.source", "algorithm.num_generations", "algorithm.per_device_train_batch_size")


@pytest.mark.parametrize(
    ("scale", "path", "source", "steps", "rollouts"),
    [
        ("laptop", None, "twin", 40, 64),
        ("gpu", "Qwen/Qwen3-1.7B", "hub", 200, 16 * 16),
        ("node", "Qwen/Qwen3-8B", "hub", 200, 32 * 16),
        ("paper", "Qwen/Qwen3-14B", "hub", 300, 128 * 16),
    ],
)
def test_scale_sets_model_data_batch_and_steps(
    scale: str, path: str | None, source: str, steps: int, rollouts: int
) -> None:
    cfg = compose([f"scale={scale}"])
    check(cfg)
    assert (cfg.model.path, cfg.dataset.source, cfg.steps) == (path, source, steps)
    algorithm = cfg.algorithm
    on_a_device = algorithm.per_device_train_batch_size * algorithm.gradient_accumulation_steps
    assert on_a_device * cfg.launch.num_processes == rollouts
    assert algorithm.max_steps == steps


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        nested = isinstance(value, dict)
        found.update(leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return found


@pytest.mark.parametrize("scale", sorted(path.stem for path in (CONF / "scale").glob("*.yaml")))
def test_every_value_that_scale_sets_can_be_overridden(scale: str) -> None:
    yaml = OmegaConf.to_container(OmegaConf.load(CONF / "scale" / f"{scale}.yaml"))
    assert isinstance(yaml, dict)
    values = leaves({key: value for key, value in yaml.items() if key != "defaults"})
    assert set(SCALE_SETS) <= set(values)
    others = {
        key: not value if isinstance(value, bool) else value * 2 if isinstance(value, int | float) else "changed"
        for key, value in values.items()
    }
    chosen = [f"{key}={other}" for key, other in others.items()]
    for given in ([f"scale={scale}", *chosen], [*chosen, f"scale={scale}"]):  # the order makes no difference
        cfg = compose(given)
        assert {key: OmegaConf.select(cfg, key) for key in others} == others


def test_a_scale_takes_another_model_and_source() -> None:
    given = ["scale=gpu", "model=tiny", "algorithm.num_generations=8", "dataset.source=twin", "dataset=pararev"]
    cfg = compose(given)
    check(cfg)
    assert (cfg.model.path, cfg.model.dtype, cfg.dataset.source) == (None, "float32", "twin")
    assert (cfg.algorithm.num_generations, cfg.steps) == (8, 200)
    assert compose(["scale=gpu", "dataset=finqa"]).dataset.source == "hub"


# ------------------------------------------------------------------------------------------- help and listing


@pytest.fixture(scope="module")
def help_text() -> str:
    ended = run_main(["--help"])
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def test_help_has_one_line_on_every_group_and_no_other(help_text: str) -> None:
    listed = help_text.split("(override with group=option) ==\n")[1].split("\n\n")[0]
    lines = dict(re.fullmatch(r"(\w+) +(\S.+)", line).groups() for line in listed.splitlines())  # type: ignore[union-attr]
    assert sorted(lines) == FOLDERS
    assert sorted([*GROUPS, *ADDED]) == FOLDERS


def test_help_names_every_option(help_text: str) -> None:
    for folder in FOLDERS:
        options = ", ".join(sorted(path.stem for path in (CONF / folder).glob("*.yaml")))
        assert f"\n{folder}: {options}\n" in help_text


def test_cfg_job_prints_the_configuration_that_a_run_would_take() -> None:
    ended = run_main(["--cfg", "job", "reward=avg_prob", "seed=3"])
    assert (ended.code, ended.err) == (0, "")
    assert OmegaConf.create(ended.out) == compose(["reward=avg_prob", "seed=3"])


@pytest.mark.parametrize("flag", ["--help", "--cfg=job"])
def test_help_and_listing_import_nothing_heavy(flag: str) -> None:
    code = (
        "import sys; sys.argv = ['run', sys.argv[1]]\n"
        "from dro_lab.run import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'mlflow', 'datasets', 'pandas', 'matplotlib', 'optuna'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_looking_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments_ in (["--help"], ["--cfg", "job"]):
        assert run_main(arguments_).code == 0
    assert list(tmp_path.iterdir()) == []
