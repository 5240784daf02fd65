"""The audit from a composed configuration to a table and a JSON file."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dro_lab.build import load_task
from dro_lab.components import component
from dro_lab.config import check
from dro_lab.data.__main__ import compose
from dro_lab.data.twins.knobs import dataset_name
from dro_lab.errors import UserError
from dro_lab.explain import explain
from dro_lab.judge_audit.cases import cases
from dro_lab.judge_audit.figures import Figure
from dro_lab.judge_audit.measure import exact_figures, order_figures, verdict_figures
from dro_lab.judge_audit.preferences import preference_figures, read
from dro_lab.judge_audit.settings import Audit
from dro_lab.judges.protocol import Judge
from dro_lab.models import load_to_ask, load_tokenizer, policy_spec
from dro_lab.record.environment import git_state, versions
from dro_lab.record.files import write_json
from dro_lab.types import Task


def run(audit: Audit, overrides: Sequence[str], *, arguments: Sequence[str], console: Console | None = None) -> Path:
    """Audit the judge; returns the JSON file.

    Raises:
        UserError: as a run does; there is no judge; no row can be asked about; or ``audit.out`` exists already.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    cfg = _composed(overrides)
    name = str(cfg.judge.get("_target_", "")).rsplit(".", 1)[-1]
    if name == "none":
        raise UserError("judge=none: there is nothing to audit; choose judge=exact, policy or openai")
    part = component("judge", cfg.judge, name=name, supplied=frozenset({"needs"}))
    people = None if audit.preferences is None else read(audit.preferences)
    task = part.prepare(load_task(cfg))
    out = _out(audit, cfg, name, task)
    rows = task.splits.get(audit.split)
    if not rows:
        raise UserError(f"audit.split={audit.split}: {task.name} has no rows in it; it has {', '.join(task.splits)}")
    if people is not None and name == "exact" and (task.name != "pararev" or task.provenance.kind == "twin"):
        raise UserError(
            f"audit.preferences={audit.preferences}: judge=exact compares by the metric of {task.provenance}, which "
            "knows only its own rows; take dataset=pararev with dataset.source=FILE, or another judge"
        )
    drawn, unusable = cases(task, rows, count=audit.rows, seed=audit.seed)
    if not drawn:
        raise UserError(
            f"dataset={task.name}: no row of {audit.split} has a check that its reference meets and a wrong answer "
            "does not, so there is nothing to ask; choose another split or data set"
        )
    judge: Judge = part(task, needs=frozenset())
    _quiet(cfg)
    policy = _attach(judge, cfg)
    notes = [*task.notes, *([f"{unusable} rows have no check that separates; others were drawn"] if unusable else [])]
    console.print(f"judge    {name}{f' ({policy})' if policy else ''}", markup=False)
    console.print(f"data     {task.provenance}: {len(drawn)} rows of {audit.split}", markup=False)
    decides = name != "exact" or task.check_program is not None
    if not decides:
        notes.append("judge=exact: this data set has no program for checks, so only its comparisons are measured")
    for note in notes:
        console.print(f"note     {note}", markup=False)
    figures = [
        *(verdict_figures(judge, drawn, audit) if decides else []),
        *order_figures(judge, drawn, audit),
        *exact_figures(judge, drawn, task, audit),
        *(preference_figures(judge, people[0], audit) if people else []),
    ]
    _table(console, figures, audit)
    metrics = dict(judge.metrics())
    counts = ", ".join(f"{key} {value:g}" for key, value in metrics.items() if value)
    console.print(f"counts   {counts or 'none'}", markup=False)
    content = {
        "command": shlex.join(["python", "-m", "dro_lab.judge_audit", *arguments]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **git_state(),
        "versions": versions(),
        "seeds": {"audit": audit.seed, "seed": cfg.seed},
        "audit": asdict(audit),
        "judge": {"name": name, **_plain(cfg.judge)},
        "policy": policy,
        "dataset": asdict(task.provenance),
        "rows": [case.row.id for case in drawn],
        "rows_without_a_separating_check": unusable,
        "notes": notes,
        "preferences": None
        if people is None
        else {"sha256": people[2], "judgements": len(people[0]), "refused": [asdict(row) for row in people[1]]},
        "figures": [asdict(figure) for figure in figures],
        "judge_metrics": metrics,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, content)
    if people and people[1]:
        first = people[1][0]
        console.print(
            f"refused  {len(people[1])} rows of {audit.preferences}: {first.where}: {first.reason}", markup=False
        )
    console.print(f"record   {out}", markup=False)
    return out


def _composed(overrides: Sequence[str]) -> DictConfig:
    try:
        cfg: DictConfig = compose(overrides)
        check(cfg)
        OmegaConf.resolve(cfg.judge)
    except OmegaConfBaseException as error:
        raise UserError(explain(error) or str(error)) from error
    return cfg


def _plain(node: Any) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return values


def _out(audit: Audit, cfg: DictConfig, judge: str, task: Task) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(audit.out or f"{cfg.outputs}/judge_audit/{judge}_{task.name}_{stamp}.json").expanduser()
    if path.exists():
        raise UserError(f"audit.out={path}: exists already, and a record is never overwritten; give another file")
    return path


def _quiet(cfg: DictConfig) -> None:
    """As a run does: the number of threads, and no chatter between the lines."""
    import torch
    from transformers.utils import logging as transformers_logging

    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _attach(judge: Judge, cfg: DictConfig) -> str | None:
    """Give the judge the policy that it asks for; returns its name."""
    spec = policy_spec(cfg.model, dataset=dataset_name(cfg.dataset))
    policy = tokenizer = None
    if judge.asks_reference:
        tokenizer = load_tokenizer(spec)
        policy = load_to_ask(spec)
    judge.attach(policy=policy, tokenizer=tokenizer, chat_template_kwargs=spec.chat_template_kwargs)
    return spec.name if judge.asks_reference else None


def _table(console: Console, figures: Sequence[Figure], audit: Audit) -> None:
    table = Table(box=None, pad_edge=False, title=None)
    for heading, justify in (
        ("", "left"),
        ("share", "right"),
        ("interval", "right"),
        ("n", "right"),
        ("unknown", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    part = None
    for figure in figures:
        if figure.part != part:
            part = figure.part
            table.add_row(Text(part, style="bold"))
        interval = "" if math.isnan(figure.low) else f"[{figure.low:.3f}, {figure.high:.3f}]"
        value = "-" if math.isnan(figure.value) else f"{figure.value:.3f}"
        words = (f"  {figure.name}", value, interval, str(figure.n), str(figure.unknown or ""))
        table.add_row(*map(Text, words))  # as they stand: no markup
    console.print()
    console.print(table)
    console.print(
        f"[{audit.confidence:.0%} intervals; unknown verdicts are not in n, and in a gate never count as yes]",
        markup=False,
    )
