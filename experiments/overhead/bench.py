"""What the lab costs on top of TRL: whole training steps, interleaved in one process, on the same completions.

``python -m experiments.overhead.bench`` writes ``results.md`` and ``steps.csv`` beside this file. Three trainers take
turns, step by step: bare TRL with a constant reward, the lab with ``reward=verifier``, the lab with ``reward=r3``. A
step is everything from one step's begin to the next, logging and record included. All three start a step from the same
seed with a learning rate of 0, so they sample the same completions, and the ratio is paired step by step.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from hydra import compose, initialize_config_dir
from scipy import stats
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

import dro_lab.config  # noqa: F401 - registers the typed root
from dro_lab.build import build
from dro_lab.console import RunConsole
from dro_lab.lab import Run, reset_process
from dro_lab.models import load_weights
from dro_lab.record import RunRecord
from dro_lab.record.environment import git_state
from dro_lab.training.clock import PartClock
from experiments.overhead.forward import ScoringProbe

HERE = Path(__file__).parent
CONF = HERE.parents[1] / "conf"
WARM_UP = 3
CONFIDENCE = 0.9
NAMES = ("bare", "verifier", "r3")


class Turnstile:
    """Lets one trainer run at a time, round robin, and takes the time of each whole step."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._turn, self._condition = list(names), 0, threading.Condition()
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self._since: dict[str, float] = {}
        self.between: dict[str, Callable[[], None]] = {}

    def step(self, name: str) -> None:
        """Called at each step's begin: books the last step, lets the others go, waits for the next turn."""
        if name in self._since:
            self.finish(name)
        with self._condition:
            self._condition.wait_for(lambda: self._names[self._turn] == name)
        self._since[name] = time.perf_counter()

    def finish(self, name: str) -> None:
        """Book the running step, do what is to be measured between steps, and pass the turn."""
        self.seconds[name].append(time.perf_counter() - self._since.pop(name))
        self.between.get(name, lambda: None)()
        with self._condition:
            self._turn = (self._turn + 1) % len(self._names)
            self._condition.notify_all()


class TakeTurns(TrainerCallback):
    """Binds a trainer to the turnstile and gives each step its own seed."""

    def __init__(self, turnstile: Turnstile, name: str) -> None:
        self.turnstile, self.name = turnstile, name

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turnstile.step(self.name)
        torch.manual_seed(1000 + state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turnstile.finish(self.name)


def constant_reward(prompts: Sequence[Any], **_: Any) -> list[float | None]:
    return [1.0] * len(prompts)


def configuration(reward: str, steps: int, threads: int, overrides: Sequence[str] = ()) -> Any:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(
            "config",
            [
                f"reward={reward}",
                f"steps={steps}",
                f"threads={threads}",
                "tracking=none",
                "algorithm.learning_rate=0",
                f"evaluation.every={steps + 1}",
                *overrides,
            ],
        )


def lab_trainer(reward: str, steps: int, threads: int, folder: Path, overrides: Sequence[str] = ()) -> GRPOTrainer:
    """The trainer of `dro_lab.run` with its record and observer, as a user runs it; only evaluations are left out."""
    cfg = configuration(reward, steps, threads, overrides)
    names = {"reward": reward, "gating": "none", "filtering": "none", "advantage": "group_norm", "judge": "exact"}
    built = build(cfg, names, folder)
    record = RunRecord(folder)
    environment = record.environment(seeds={"seed": 0}, threads=threads)
    run = Run(cfg, built, record, RunConsole(), PartClock(), environment)
    setattr(run.observer, "run_evaluation", lambda *_, **__: None)  # noqa: B010
    run.prepare()
    assert run.trainer is not None
    return run.trainer


def bare_trainer(like: Any, folder: Path, overrides: Sequence[str] = ()) -> GRPOTrainer:
    """TRL alone at the same settings on the same prompts."""
    cfg = configuration("verifier", like.args.max_steps, torch.get_num_threads(), overrides)
    built = build(cfg, {"reward": "verifier", "judge": "exact"}, folder)
    rows = built.task.splits["train"]
    trainer = GRPOTrainer(
        model=load_weights(built.spec),
        reward_funcs=constant_reward,
        args=built.arguments,
        train_dataset=Dataset.from_list(
            [{"prompt": [dict(m) for m in row.prompt], "row": i} for i, row in enumerate(rows)]
        ),
        processing_class=built.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """Median of the paired ratios with a bootstrap interval."""
    pairs = np.array(numerator) / np.array(denominator)
    interval = stats.bootstrap(
        (pairs,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(np.median(pairs)), float(interval.low), float(interval.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    total = arguments.steps + WARM_UP
    reset_process(configuration("r3", total, arguments.threads))
    folder = Path(tempfile.mkdtemp())
    trainers = {name: lab_trainer(name, total, arguments.threads, folder / name) for name in ("verifier", "r3")}
    trainers["bare"] = bare_trainer(trainers["r3"], folder / "bare")
    probe = ScoringProbe.attach(trainers["r3"])
    turnstile = Turnstile(NAMES)
    turnstile.between["r3"] = probe.settle
    for name, trainer in trainers.items():
        trainer.add_callback(TakeTurns(turnstile, name))
    errors: list[BaseException] = []
    threads = [threading.Thread(target=train, args=(trainers[name].train, errors), daemon=True) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and not errors:
            thread.join(1.0)
    if errors:
        raise errors[0]
    seconds = {name: values[WARM_UP:] for name, values in turnstile.seconds.items()}
    scoring = probe.pairs[WARM_UP:]
    text = report(seconds, scoring, arguments.threads)
    (HERE / "results.md").write_text(text)
    with (HERE / "steps.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["step", *NAMES, "r3_scorer", "one_forward"])
        for step, row in enumerate(zip(*(seconds[name] for name in NAMES), scoring, strict=True)):
            *steps, (scorer, forward) = row
            writer.writerow([step, *(f"{value:.5f}" for value in (*steps, scorer, forward))])
    print(text)


def train(run: Callable[[], Any], errors: list[BaseException]) -> None:
    """A thread's work: an error goes to ``errors``."""
    try:
        run()
    except BaseException as error:
        errors.append(error)


def report(seconds: dict[str, list[float]], scoring: Sequence[tuple[float, float]], threads: int) -> str:
    commit = git_state()
    count = len(seconds["bare"])
    lines = [
        "# Results",
        "",
        f"{count} steps of each, interleaved in one process, 4 prompts x 16 rollouts of the shipped policy, {threads} "
        f"torch thread(s); medians of paired ratios with {CONFIDENCE:.0%} bootstrap intervals over steps; commit "
        f"{(commit['commit'] or 'unknown')[:12]}{' with local changes' if commit['dirty'] else ''}; command "
        f"`python -m experiments.overhead.bench --steps {count} --threads {threads}`.",
        "",
        "| | seconds a step (median) | over bare TRL |",
        "|---|---|---|",
        f"| bare TRL, constant reward | {statistics.median(seconds['bare']):.3f} | 1 |",
    ]
    for name in ("verifier", "r3"):
        middle, low, high = ratio(seconds[name], seconds["bare"])
        lines.append(
            f"| lab, reward={name} | {statistics.median(seconds[name]):.3f} | {middle:.3f} [{low:.3f}, {high:.3f}] |"
        )
    middle, low, high = ratio([a for a, _ in scoring], [b for _, b in scoring])
    pipeline = ratio(seconds["verifier"], seconds["bare"])
    extra = [r3 - verifier for r3, verifier in zip(seconds["r3"], seconds["verifier"], strict=True)]
    forward = [b for _, b in scoring]
    lines += [
        "",
        f"- The pipeline itself (reward=verifier over bare TRL): at most 1.05 wanted at the interval's lower end; "
        f"{'met' if pipeline[1] <= 1.05 else 'NOT met'} ({pipeline[1]:.3f}).",
        f"- R3's scorer over one forward of prompt + reasoning + reference on the same sequences (LM head on the "
        f"reference positions): {middle:.3f} [{low:.3f}, {high:.3f}], at most 1.15 wanted; "
        f"{'met' if middle <= 1.15 else 'NOT met'}.",
        f"- What R3 adds to a whole step (reward=r3 less reward=verifier): median {statistics.median(extra):.3f} s; "
        f"that one forward takes {statistics.median(forward):.3f} s.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
