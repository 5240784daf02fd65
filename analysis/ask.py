"""Pairs between settings, put to the runs' own judge in both orders: what no run has asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from transformers.utils import logging as transformers_logging

from analysis.answers import Answers, FloatArray
from analysis.labels import flat_config
from dro_lab.build import load_task
from dro_lab.components import component
from dro_lab.data.twins.knobs import dataset_name
from dro_lab.errors import UserError
from dro_lab.evaluation.wins import compare
from dro_lab.judges.protocol import Judge
from dro_lab.models import load_to_ask, load_tokenizer, policy_spec
from dro_lab.record.read import Run
from dro_lab.types import Row


def asked(
    settings: Mapping[str, Answers], pairs: Sequence[tuple[str, str]], run: Run
) -> dict[tuple[str, str], tuple[FloatArray, FloatArray]]:
    """Per pair of settings, (S, Q) each: the first's wins over the second, and the share of answers judged otherwise
    in the other order. The same seeds meet, and of their samples those that `evaluation.pairs` says.

    Args:
        settings: the recorded answers.
        pairs: labels.
        run: the run whose configuration gives judge and data set; the others agree with it.

    Raises:
        UserError: the data set no longer holds the rows, the judge cannot be built or asked, or two settings share no
            seed.
    """
    judge, rows = judge_and_rows(run, next(iter(settings.values())).queries)
    config = flat_config(run)
    how = str(config.get("evaluation.pairs", "auto"))
    return {(a, b): _wins(settings[a], settings[b], rows, judge, pairs=how) for a, b in pairs}


def judge_and_rows(run: Run, queries: Sequence[str]) -> tuple[Judge, list[Row]]:
    """The run's judge, ready to be asked, and its held-out rows."""
    cfg: Any = OmegaConf.create(run.config)
    name = str(cfg.judge.get("_target_", "")).rsplit(".", 1)[-1]
    part = component("judge", cfg.judge, name=name, supplied=frozenset({"needs"}))
    task = part.prepare(load_task(cfg))
    by_id = {str(row.id): row for rows in task.splits.values() for row in rows}
    missing = [query for query in queries if query not in by_id]
    if missing:
        raise UserError(f"--ask: dataset={task.name} holds no row {missing[0]} any more; give the data of the runs.")
    judge: Judge = part(task, needs=frozenset())
    _attach(judge, cfg)
    return judge, [by_id[query] for query in queries]


def _wins(
    ours: Answers, theirs: Answers, rows: Sequence[Row], judge: Judge, *, pairs: str
) -> tuple[FloatArray, FloatArray]:
    common = sorted(set(ours.seeds) & set(theirs.seeds))
    if not common:
        raise UserError(
            f"--ask: {ours.label} has the seeds {ours.seeds} and {theirs.label} {theirs.seeds}; answers of the same "
            "seed meet, so give runs with common seeds."
        )
    found = [
        compare(
            rows,
            ours.texts_SQ[ours.seeds.index(seed)],
            theirs.texts_SQ[theirs.seeds.index(seed)],
            judge,
            pairs=pairs,
        )
        for seed in common
    ]
    return np.stack([part["win_rate"] for part in found]), np.stack([part["order_disagreement"] for part in found])


def _attach(judge: Judge, cfg: Any) -> None:
    """Give the judge the reference policy where it asks for one."""
    spec = policy_spec(cfg.model, dataset=dataset_name(cfg.dataset))
    policy = tokenizer = None
    if judge.asks_reference:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        tokenizer = load_tokenizer(spec)
        policy = load_to_ask(spec)
    judge.attach(policy=policy, tokenizer=tokenizer, chat_template_kwargs=spec.chat_template_kwargs)
