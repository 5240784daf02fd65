"""One run from a checked configuration to a report: build, evaluate, train, evaluate, write down."""

from __future__ import annotations

import gc
import math
import random
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets import Dataset
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel, PrinterCallback, set_seed
from transformers.utils import logging as transformers_logging

from dro_lab.build import Built, build, refusals
from dro_lab.console import RunConsole
from dro_lab.ending import Ending
from dro_lab.errors import UserError
from dro_lab.evaluation.divergence import keeps_start
from dro_lab.evaluation.evaluate import Evaluator
from dro_lab.health.measure import ReferenceChecks, answer_metrics
from dro_lab.judges.exact import ExactJudge
from dro_lab.judges.protocol import Judge
from dro_lab.judges.quality import asked_once, quality
from dro_lab.judges.shared import SharedJudge
from dro_lab.launch.group import ranks, same
from dro_lab.launch.seat import Seat, WhenWrapped, seated
from dro_lab.launch.world import check_wrapped, processes, splits_weights, world
from dro_lab.models import load_weights
from dro_lab.record import RunRecord, Summary
from dro_lab.resume.checkpoint import CheckpointError
from dro_lab.resume.disk import cannot_go_on, refuses_writes
from dro_lab.resume.going_on import GoingOn
from dro_lab.resume.grid import short
from dro_lab.resume.settings import AUTO, NEVER, CheckpointSettings
from dro_lab.sweep.trial import ALONE, RunTrial
from dro_lab.tracking.names import run_tags
from dro_lab.training.clock import PartClock
from dro_lab.training.keep import PolicyKeeper
from dro_lab.training.nonfinite import FiniteGuard
from dro_lab.training.observer import RunObserver
from dro_lab.training.policies import Policies
from dro_lab.training.refill import Prompts, Refill
from dro_lab.training.rollouts import RolloutScorer
from dro_lab.training.trainer import LabTrainer
from dro_lab.training.weights import save_policy
from dro_lab.types import Row

OWN_THREADS = torch.get_num_threads()
"""Torch's own choice, before any job of this process set another number."""


HYDRA_NODE = """
# what a repeated run needs of Hydra's own configuration: --config-path THIS_FOLDER --config-name config
hydra:
  run:
    dir: ${run_folder:${outputs}/${now:%Y-%m-%d}/${now:%H-%M-%S}_${names.reward}_${names.dataset}_s${seed}}
  job_logging:
    root:
      level: WARNING
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to: its final summary and its folder."""

    summary: Summary
    folder: Path

    @property
    def objective(self) -> float:
        return self.summary.objective if self.summary.objective is not None else math.nan


def run(
    cfg: DictConfig,
    names: Mapping[str, str],
    folder: Path,
    trial: RunTrial = ALONE,
    *,
    settings: CheckpointSettings | None = None,
    goes_on: bool = False,
) -> Outcome:
    """Run one job.

    Args:
        cfg: the composed configuration, past `dro_lab.config.check`.
        names: the chosen option of each group.
        folder: the run's folder.
        trial: the sweep's trial that this run is.
        settings: when to save; None: never.
        goes_on: the folder holds a run of this configuration that stopped.

    Raises:
        UserError: bad input, before any training; or the folder takes no more, and what was saved is whole.
        KeyboardInterrupt: after the record was closed as interrupted.
    """
    reset_process(cfg)
    try:
        with seated(cfg, folder) as seat:
            return _run(cfg, names, seat, trial, settings=settings, goes_on=goes_on)
    except Exception as error:
        if refuses_writes(error, folder):
            raise cannot_go_on(folder, error) from None
        raise


def _run(
    cfg: DictConfig,
    names: Mapping[str, str],
    seat: Seat,
    trial: RunTrial,
    *,
    settings: CheckpointSettings | None,
    goes_on: bool,
) -> Outcome:
    folder, console, clock = seat.own, seat.console(), PartClock()
    cfg, built = seat.quiet(cfg, build(cfg, names, seat.shared))
    _banner(console, cfg, built)
    going = GoingOn(seat.shared, settings, same(goes_on))
    going.find(built.task, planned=cfg.steps, say=console.say, warn=console.warn)
    model = load_weights(built.spec)  # what cannot be loaded is refused before there is a record
    with RunRecord(folder, mark=going.mark if seat.first else None) as record:
        record.config(_recorded(cfg))
        environment = record.environment(
            seeds={"seed": cfg.seed, "evaluation": built.evaluation.seed}, threads=torch.get_num_threads()
        )
        run_ = Run(cfg, built, record, console, clock, environment, trial, going)
        record.summary(run_.summary("running"))
        try:
            run_.go(model)
            stopped = run_.observer.stopped
            summary = run_.close(*(("stopped", stopped) if stopped else ("finished", None)))
        except KeyboardInterrupt:
            steps = run_.observer.steps_done
            console.warn(f"interrupted after {steps} steps; closing the record (again: leave at once)")
            run_.close_anyway("interrupted", "interrupted by the user")
            console.say(f"record   {short(folder)}")
            if how := going.how_to_go_on():
                console.say(how)
            raise
        except BaseException as failure:
            if isinstance(failure, CheckpointError) or refuses_writes(failure, seat.shared):
                run_.give_up()
                raise
            run_.close_anyway("failed", f"{type(failure).__name__}: {failure}")
            raise
    if seat.first:
        going.checkpoints.remove_all()
    run_.goodbye(summary)
    return Outcome(summary=summary, folder=folder)


def _recorded(cfg: DictConfig) -> str:
    """``config.yaml``, which repeats the run: the folder that it went on in is none to go on with once more."""
    if cfg.get("resume", AUTO) not in (AUTO, NEVER):
        cfg = cfg.copy()
        cfg.resume = AUTO
    return OmegaConf.to_yaml(cfg, resolve=True) + HYDRA_NODE


def reset_process(cfg: DictConfig) -> None:
    """Leave nothing of an earlier job in this process: seeds, accelerate's singletons, torch's threads."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
    gc.collect()
    torch.set_num_threads(cfg.threads or OWN_THREADS)
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    set_seed(cfg.seed)
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of its own old names
    transformers_logging.disable_progress_bar()


class Run(Ending):
    """The objects of one run and its phases."""

    def __init__(
        self,
        cfg: DictConfig,
        built: Built,
        record: RunRecord,
        console: RunConsole,
        clock: PartClock,
        environment: Mapping[str, Any],
        trial: RunTrial = ALONE,
        going: GoingOn | None = None,
    ) -> None:
        self.cfg, self.built, self.record, self.console, self.clock = cfg, built, record, console, clock
        self.environment = environment
        self.folder = record.folder
        self.going = going or GoingOn(record.folder)
        self.references = ReferenceChecks(self._reference_judge())
        self.scoring: RolloutScorer | None = None
        self.trainer: LabTrainer | None = None
        self.tracking = False
        self.keeper = PolicyKeeper(
            keep=cfg.keep, objective=cfg.objective, folder=self.folder / "policy", save=self._save_policy
        )
        self.observer = RunObserver(
            record=record,
            tracker=built.tracker,
            console=console,
            clock=clock,
            evaluator=self._evaluator,
            watch=built.watch,
            measures=(
                answer_metrics,
                lambda _: built.scorer.metrics(),
                *([self.references] if built.asks_verdicts else []),
            ),
            counts=built.judge.metrics,
            extras_every=built.evaluation.extras == "every",
            tokenizer=built.tokenizer,
            every=built.evaluation.every,
            planned=cfg.steps,
            token_rows=built.evaluation.token_rows,
            trial=trial,
            keep_best=self.keeper.evaluated,
        )

    def prepare(self, model: PreTrainedModel | None = None) -> LabTrainer:
        """Build the trainer around ``model`` (None: load the weights now)."""
        model = load_weights(self.built.spec) if model is None else model
        self.scoring, saving = self._scoring(model), self.going.saving(self)
        train_rows = self.built.task.splits["train"] or self.held_out
        self.trainer = LabTrainer(
            scoring=self.scoring,
            rows=train_rows,
            observer=self.observer.rollouts,
            clock=self.clock,
            refill=Refill(self.built.max_refills, Prompts(len(train_rows), self.cfg.seed))
            if self.built.max_refills
            else None,
            guard=FiniteGuard(action=self.cfg.on_nonfinite, folder=self.going.folder, say=self.console.warn),
            model=model,
            peft_config=self.built.spec.peft_config(),
            args=self.built.arguments,
            train_dataset=Dataset.from_list(
                [{"prompt": [dict(m) for m in row.prompt], "row": i} for i, row in enumerate(train_rows)]
            ),
            processing_class=self.built.tokenizer,
            callbacks=[self.observer, *([saving] if saving else [])],
        )
        if saving:
            saving.trainer, self.trainer.saving = self.trainer, saving
        self.trainer.remove_callback(PrinterCallback)
        self.built.scorer.attach(self.trainer)
        return self.trainer

    def go(self, model: PreTrainedModel) -> None:
        """Evaluate, train, evaluate, save."""
        trainer = self.prepare(model)
        check_wrapped(trainer, self.cfg, self.built.names["launch"])
        trainer.add_callback(WhenWrapped(trainer, self.cfg, self.built.names["launch"], self._first_evaluation))
        self.going.restore(self, rank=ranks().index)
        self._start_tracker()
        if not splits_weights(self.cfg):
            self._first_evaluation()
        if self.cfg.steps:
            self._train(trainer)
            self.keeper.trained()

    def _first_evaluation(self) -> None:
        if self.going.found is None:
            self.observer.run_evaluation(0)

    def _train(self, trainer: LabTrainer) -> None:
        saving = trainer.saving
        with self.clock.part("training"), self.console, saving.interrupt if saving else nullcontext():
            trainer.train(resume_from_checkpoint=self.going.checkpoint)

    def _save_policy(self, folder: Path) -> None:
        assert self.trainer is not None
        save_policy(self.trainer.policy, self.built.tokenizer, folder, kind=self.trainer.kind, writes=world().first)

    def _scoring(self, model: Any) -> RolloutScorer:
        built = self.built
        ends = model.generation_config.eos_token_id
        verdicts = asked_once(built.judge)
        return RolloutScorer(
            tokenizer=built.tokenizer,
            fmt=built.fmt,
            pipeline=built.pipeline,
            scorer=built.scorer,
            quality=lambda groups: quality(groups, built.task, built.judge, ask=verdicts),
            verdicts=verdicts,
            policies=self._policies(model),
            chat_template_kwargs=built.spec.chat_template_kwargs,
            eos_token_ids={built.tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or [])},
        )

    def _reference_judge(self) -> Judge:
        """References are tried by the data set's program where it has one: that costs nothing, and leaves the run's
        judge out, whose counts are about sampled answers."""
        return ExactJudge(self.built.task) if self.built.task.check_program else self.built.judge

    def _policies(self, model: Any) -> Policies:
        built = self.built
        policies = Policies(
            scored_by=self.cfg.scored_by,
            lag=self.cfg.lag,
            adapted=built.spec.peft is not None,
            judged_by_reference=built.judge.asks_reference or keeps_start(built.evaluation.kl, model),
        )
        if splits_weights(self.cfg) and policies.adapted and built.judge.asks_reference:
            raise UserError(
                f"judge={built.names['judge']} with model.peft=lora and launch={built.names['launch']}: no device "
                "holds the policy without its adapter between steps; take launch=ddp, or another judge"
            )
        policies.start(model)
        built.judge.attach(
            policy=policies.reference, tokenizer=built.tokenizer, chat_template_kwargs=built.spec.chat_template_kwargs
        )
        return policies

    @property
    def held_out(self) -> list[Row]:
        return self._rows(self.built.evaluation.split)

    def _rows(self, split: str) -> list[Row]:
        return list(self.built.task.splits[split][: self.built.evaluation.prompts])

    def _evaluator(self) -> Evaluator:
        trainer, scoring, built = self.trainer, self.scoring, self.built
        assert trainer is not None
        assert scoring is not None
        return Evaluator(
            sample=trainer.sample,
            scoring=scoring,
            model=trainer.readable,
            rows={split: self._rows(split) for split in (built.evaluation.split, *built.evaluation.also)},
            task=built.task,
            judge=built.judge,
            settings=built.evaluation,
            autocast=trainer.accelerator.autocast,
            alike=built.judge.alike if isinstance(built.judge, SharedJudge) else nullcontext,
        )

    def _start_tracker(self) -> None:
        self.tracking = True
        self.built.tracker.start(
            self.folder.name,
            experiment=self.built.task.name,
            config=OmegaConf.to_container(self.cfg, resolve=True),
            tags=run_tags(
                self.environment,
                task=self.built.task,
                reward=self.built.names["reward"],
                policy=self.built.spec.name,
                seed=self.cfg.seed,
            ),
            task=self.built.task,
            files=[self.folder / name for name in ("config.yaml", "env.json")],
            folder=self.folder,
            after=self.going.step,
        )


def _banner(console: RunConsole, cfg: DictConfig, built: Built) -> None:
    splits = ", ".join(f"{len(rows)} {name}" for name, rows in built.task.splits.items())
    console.say(f"dro_lab  reward={built.names['reward']} dataset={built.task.name} seed={cfg.seed} steps={cfg.steps}")
    console.say(f"data     {built.task.provenance}: {splits}")
    console.say(f"policy   {built.spec.name}")
    if cfg.steps:
        group, batch = cfg.algorithm.num_generations, cfg.algorithm.per_device_train_batch_size
        rollouts = batch * (cfg.algorithm.get("gradient_accumulation_steps") or 1) * processes(cfg)
        console.say(
            f"step     {rollouts // group} prompts x {group} rollouts of at most "
            f"{cfg.rollout.max_completion_length} tokens"
        )
    for note in built.task.notes:
        console.say(f"note     {note}")
    if built.task.refused:
        console.warn(f"{refusals(built.task)}; `python -m dro_lab.data` lists them")
