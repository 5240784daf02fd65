"""Bad input, case by case: one clear message, a non-zero exit, and nothing left that looks like a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_fixture import Ended, assert_refused, run_main, small_run

pytestmark = pytest.mark.usefixtures("own_folder")


# name: (overrides, what the message must hold: the key or file, the value got, what is allowed, what to do)
OVERRIDES: dict[str, tuple[list[str], list[str]]] = {
    # groups and keys
    "unknown reward": (
        ["reward=r33"],
        ["reward=r33", "mix, r3, r3_v1, repro, repro_magnitude, repro_stability, rouge", "--help"],
    ),
    "unknown scale": (["scale=huge"], ["scale=huge", "gpu, laptop, node, paper", "--help"]),
    "unknown experiment": (["+experiments=nope"], ["experiments=nope", "r3_vs_avg_prob"]),
    "misspelt group": (["rewards=r3"], ["'rewards'", "Did you mean", "'reward'", "--help"]),
    "misspelt added group": (["+experiment=r3_vs_avg_prob"], ["unknown key experiment", "allowed are", "--help"]),
    "unknown root key": (["+foo=1"], ["unknown key foo", "allowed are", "seed, steps", "--help"]),
    "unknown key": (["reward.omgea=2"], ["'reward.omgea'", "Did you mean: 'omega'"]),
    "unknown key, added": (["+reward.omgea=2"], ["reward.omgea", "unknown key", "weighting, omega, clip_low"]),
    "group deleted": (["~reward"], ["reward is not set", "reward=NAME", "--help"]),
    "group null": (["reward=null"], ["reward=null", "must be a string", "--help"]),
    "group of keys replaced by a number": (["evaluation=3"], ["evaluation=3", "must be a string", "--help"]),
    "unreadable override": (["seed 1"], ["seed 1", "KEY=VALUE", "quote"]),
    # run-wide keys
    "steps negative": (["steps=-1"], ["steps=-1", "whole number of at least 0", "evaluates only"]),
    "steps not whole": (["steps=1.5"], ["steps=1.5", "Integer"]),
    "steps not a number": (["steps=many"], ["steps=many", "Integer"]),
    "seed not a number": (["seed=abc"], ["seed=abc", "Integer"]),
    "seed negative": (["seed=-1"], ["seed=-1", "[0, 4294967295]"]),
    "seed too large": (["seed=4294967296"], ["seed=4294967296", "[0, 4294967295]"]),
    "threads zero": (["threads=0"], ["threads=0", "at least 1", "null"]),
    "objective unknown": (["objective=nope"], ["objective=nope", "quality, reward, win_rate"]),
    "objective without training": (["objective=win_rate", "steps=0"], ["objective=win_rate", "steps=0"]),
    "objective of one sample": (["objective=reflective_share", "evaluation.samples=1"], ["evaluation.samples", "2"]),
    # reward and advantage
    "omega negative": (["reward.omega=-1"], ["reward.omega=-1", "at least 0", "1 to 2 is good"]),
    "omega not a number": (["reward.omega=sharp"], ["reward.omega=sharp", "a number of at least 0"]),
    "clips crossed": (["reward.clip_low=0.9"], ["clip_low=0.9", "clip_high=0.85", "below", "0.05 and 0.85"]),
    "clip above one": (["reward.clip_high=1.5"], ["reward.clip_high=1.5", "[0, 1]"]),
    "weighting unknown": (["reward.weighting=cube"], ["reward.weighting=cube", "power, exp"]),
    "sigma_on unknown": (["reward.sigma_on=all"], ["reward.sigma_on=all", "clipped, raw"]),
    "flag not a flag": (["reward.include_eos=perhaps"], ["reward.include_eos=perhaps", "true or false"]),
    "eps negative": (["advantage.eps=-1"], ["advantage.eps=-1", "at least 1e-12"]),
    "target not importable": (["reward._target_=no.such.fun"], ["reward._target_=no.such.fun", "PYTHONPATH"]),
    "target not in module": (["reward._target_=dro_lab.rewards.r3.nope"], ["dro_lab.rewards.r3.nope", "name right"]),
    "target not a function": (["reward._target_=dro_lab.run.FAILED"], ["is a int", "must be a function"]),
    "no verdicts": (["judge=none", "reward=verifier"], ["judge=none", "needs verdicts", "judge=exact"]),
    # batch
    "group of one": (["algorithm.num_generations=1"], ["algorithm.num_generations=1", "at least 2", "8 or 16"]),
    "group not a number": (["algorithm.num_generations=abc"], ["algorithm.num_generations=abc", "whole number"]),
    "group does not divide": (
        ["algorithm.num_generations=3"],
        ["num_generations=3", "does not divide", "multiple of 3"],
    ),
    "batch below a group": (["algorithm.num_generations=8"], ["num_generations=8", "batch_size 4", "multiple of 8"]),
    "batch zero": (["algorithm.per_device_train_batch_size=0"], ["per_device_train_batch_size=0", "at least 1"]),
    "accumulation zero": (["algorithm.gradient_accumulation_steps=0"], ["gradient_accumulation_steps=0", "at least 1"]),
    # sampling
    "temperature zero": (["rollout.temperature=0"], ["rollout.temperature=0", "above 0", "1.0"]),
    "temperature not a number": (["rollout.temperature=hot"], ["rollout.temperature=hot", "a number"]),
    "top_p zero": (["rollout.top_p=0"], ["rollout.top_p=0", "above 0 and at most 1"]),
    "top_p above one": (["rollout.top_p=1.5"], ["rollout.top_p=1.5", "[0, 1]"]),
    "no completion": (["rollout.max_completion_length=0"], ["max_completion_length=0", "at least 1"]),
    "unknown rollout key": (["+rollout.top_k=5"], ["rollout.top_k=5", "unknown key", "+algorithm.top_k"]),
    "key decided elsewhere": (["algorithm.temperature=0.5"], ["algorithm.temperature=0.5", "set rollout.temperature"]),
    "vllm missing": (["rollout.use_vllm=true"], ["rollout.use_vllm=true", "not installed", "false"]),
    # TRL
    "learning rate negative": (["algorithm.learning_rate=-1"], ["algorithm.learning_rate=-1", "at least 0"]),
    "learning rate not a number": (["algorithm.learning_rate=fast"], ["learning_rate=fast", "a number"]),
    "unknown TRL key": (["+algorithm.num_generation=4"], ["num_generation=4", "no such key", "num_generations"]),
    "TRL refuses a value": (["algorithm.loss_type=foo"], ["algorithm.loss_type=foo", "grpo, bnpo, dr_grpo"]),
    "TRL refuses a type": (["algorithm.beta=abc"], ["algorithm.beta=abc", "is a str", "float"]),
    "TRL refuses a schedule": (["algorithm.lr_scheduler_type=foo"], ["foo", "not a valid SchedulerType", "constant"]),
    # evaluation and scorer
    "split unknown": (["evaluation.split=dev"], ["evaluation.split=dev", "validation, test, train"]),
    "no evaluation rows": (["evaluation.prompts=0"], ["evaluation.prompts=0", "at least 1"]),
    "half a sample": (["evaluation.samples=1.5"], ["evaluation.samples=1.5", "whole number"]),
    "evaluation never": (["evaluation.every=0"], ["evaluation.every=0", "at least 1"]),
    "confidence two": (["evaluation.confidence=2"], ["evaluation.confidence=2", "[0, 1]", "0.9"]),
    "confidence one": (["evaluation.confidence=1"], ["evaluation.confidence=1", "strictly between 0 and 1"]),
    "evaluation key unknown": (["+evaluation.rows=3"], ["evaluation.rows=3", "unknown key", "prompts, samples"]),
    "evaluation key missing": (["~evaluation.seed"], ["evaluation.seed is not set", "conf/evaluation/default.yaml"]),
    "evaluation seed negative": (["evaluation.seed=-5"], ["evaluation.seed=-5", "at least 0"]),
    "scorer key unknown": (["+scorer.chunk=1"], ["scorer.chunk=1", "unknown key", "tokens_per_batch, lm_head_chunk"]),
    "scorer batch zero": (["scorer.tokens_per_batch=0"], ["scorer.tokens_per_batch=0", "at least 1"]),
    # model
    "checkpoint missing": (
        ["model.path=/no/such/folder"],
        ["model.path=/no/such/folder", "no such folder", "hub name"],
    ),
    "hub unreachable": (["model.path=nobody/nothing"], ["model.path=nobody/nothing", "network", "model=tiny"]),
    "dtype unknown": (["model.dtype=int8"], ["model.dtype=int8", "float32, bfloat16, float16"]),
    "attention unknown": (["model.attn_implementation=foo"], ["foo", "not supported", "eager"]),
    "no closing marker": (['model.reasoning_close=""'], ["model.reasoning_close", "must not be empty", "</think>"]),
    "template arguments": (["model.chat_template_kwargs=3"], ["model.chat_template_kwargs=3", "enable_thinking"]),
    "model key unknown": (["+model.size=3"], ["model.size", "unknown key", "dtype, lora, path"]),
    # data
    "no training rows": (["dataset.sizes.train=0"], ["0 usable training rows", "takes 2 prompts", "Give more rows"]),
    "too few rows for a step": (["dataset.sizes.train=1"], ["1 usable training rows", "takes 2 prompts"]),
    "no held-out rows": (["dataset.sizes.validation=0"], ["evaluation.split=validation", "no usable rows"]),
    "preset unknown": (["dataset.twin.preset=foo"], ["dataset.twin", "'foo'", "default, mild"]),
    "knob unknown": (["+dataset.twin.foo=1"], ["dataset.twin", "'foo'", "reference_length"]),
    "data key unknown": (["+dataset.foo=1"], ["dataset.foo", "unknown key", "sizes, source"]),
    "shares not of one": (["dataset.shares.train=2"], ["dataset.shares", "sum to 1"]),
    "instruction for the twin": (["dataset.instruction=x"], ["dataset.instruction='x'", "leave it out"]),
    "own rows without a path": (["dataset=jsonl"], ["dataset=jsonl", "your own file", "dataset.source=PATH"]),
    "data file missing": (
        ["dataset=jsonl", "dataset.source=/no/x.jsonl"],
        ["/no/x.jsonl does not exist", "correct the path"],
    ),
    # tracking
    "tracking uri": (
        ["tracking=mlflow", "tracking.uri=nonsense"],
        ["tracking.uri='nonsense'", "sqlite:///", "tracking=none"],
    ),
    "tracking key unknown": (["tracking=mlflow", "+tracking.db=x"], ["tracking.db", "unknown key", "uri, folder"]),
    "tracking wait": (["tracking=mlflow", "tracking.lock_wait=long"], ["tracking.lock_wait=long", "a number"]),
    # places
    "sweep with a bad value": (
        ["--multirun", "hydra.sweep.dir=sweep", "reward.omega=-1,2"],
        ["reward.omega=-1", "at least 0"],
    ),
}


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.tried("bad inputs")
def test_a_bad_override_is_refused(name: str, policy: Path, tmp_path: Path) -> None:
    overrides, expected = OVERRIDES[name]
    assert_refused(run_main(small_run(policy, overrides)), tmp_path, expected)


def test_a_grid_over_a_key_that_there_is_not_leaves_nothing(tmp_path: Path) -> None:
    ended = run_main(["--multirun", "reward.omgea=1,2", "tracking=none"])
    assert_refused(ended, tmp_path, ["reward.omgea", "'omega'"])
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------- places

PLACES = {
    "outputs is a file": (["outputs=taken", "hydra.run.dir=taken/run"], ["hydra.run.dir", "taken/run", "outputs="]),
    "the run's folder is a file": (["hydra.run.dir=taken"], ["hydra.run.dir", "taken", "may write to"]),
    "tracking folder is a file": (
        ["tracking=mlflow", "tracking.folder=taken"],
        ["tracking.uri", "taken", "tracking=none"],
    ),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.tried("bad inputs")
def test_a_place_that_cannot_be_written_is_refused(name: str, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    overrides, expected = PLACES[name]
    assert_refused(run_main(small_run(policy, overrides)), tmp_path, expected)


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(policy: Path, tmp_path: Path) -> None:
    first = run_main(small_run(policy, ["steps=0"]))
    assert first.code == 0, first.err
    files = {
        path: path.read_bytes()
        for name in ("summary.json", "metrics.jsonl", "evals.jsonl", "config.yaml")
        for path in [tmp_path / "run" / name]
    }
    second = run_main(small_run(policy, ["steps=0", "seed=3"]))
    assert second.code == 2
    assert [line for line in second.err.splitlines() if line.startswith("error:")] == second.err.strip().splitlines()
    assert "already holds a run" in second.err
    assert "another folder" in second.err
    assert {path: path.read_bytes() for path in files} == files


# --------------------------------------------------------------------------------------------- a user's reward

REWARDS = {
    "wrong shape": ("Rewards(outcome_PG=torch.zeros(3, 5))", ["(3, 5)", "(P, G) = (2, 2)", "Mend"]),
    "wrong type": ("Rewards(outcome_PG=torch.zeros(groups.shape).double())", ["torch.float64", "torch.float32"]),
    "infinite": ("Rewards(outcome_PG=torch.full(groups.shape, torch.inf))", ["infinity", "nan"]),
    "no rewards": ("torch.zeros(groups.shape)", ["a Tensor", "dro_lab.types.Rewards"]),
    "a list": ("Rewards(outcome_PG=[[0.0]])", ["a list", "(P, G)"]),
}


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.tried("bad inputs")
def test_a_reward_that_returns_something_else_is_refused(
    name: str, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, expected = REWARDS[name]
    module = "odd_" + name.replace(" ", "_")
    (tmp_path / f"{module}.py").write_text(
        f"import torch\nfrom dro_lab.types import Rewards\n\n\ndef odd(groups, stats):\n    return {result}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = ("weighting", "omega", "clip_low", "clip_high", "sigma_on", "include_eos")
    ended = run_main(small_run(policy, [f"reward._target_={module}.odd", *(f"~reward.{key}" for key in keys)]))
    assert ended.code == 2
    (message,) = ended.err.strip().splitlines()
    for text in ["error: reward=r3", *expected]:
        assert text in message
    # what it returns shows when it is first called: the record says that the run failed, and holds no step
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("failed", 0)
    assert (tmp_path / "run/metrics.jsonl").read_text() == ""


# -------------------------------------------------------------------------------------------- through a shell

SHELL = {
    "unknown reward": ("reward=r33", "no such option"),
    "steps negative": ("steps=-1", "at least 0"),
    "seed not a number": ("seed=abc", "Integer"),
    "group does not divide": ("algorithm.num_generations=3", "does not divide"),
    "data file missing": ("dataset=jsonl dataset.source=/no/x.jsonl", "does not exist"),
    "folder is a file": ("hydra.run.dir=/dev/null", "cannot be made"),
}


@pytest.mark.parametrize("name", SHELL)
def test_the_shell_sees_the_message_and_the_status(name: str, tmp_path: Path) -> None:
    overrides, expected = SHELL[name]
    ended = subprocess.run(
        f'"{sys.executable}" -m dro_lab.run tracking=none outputs="{tmp_path}" {overrides}',
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert_refused(Ended(code=ended.returncode, out=ended.stdout, err=ended.stderr), tmp_path, [expected])
    assert ended.returncode == 2


def test_a_bug_in_a_users_reward_shows_its_traceback(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "buggy.py").write_text("def buggy(groups, stats):\n    return groups.no_such_field\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = ("weighting", "omega", "clip_low", "clip_high", "sigma_on", "include_eos")
    ended = run_main(small_run(policy, ["reward._target_=buggy.buggy", *(f"~reward.{key}" for key in keys)]))
    assert ended.code == 1
    assert "no_such_field" in ended.err
    assert 'buggy.py", line 2' in ended.err
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"
