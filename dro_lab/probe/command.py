"""The probe from a command line to findings, a table, a page and a file."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from dro_lab.build import Built, build, without_refill
from dro_lab.components import REFERENCE_NEED, component
from dro_lab.config import check
from dro_lab.data.__main__ import compose
from dro_lab.data.twins.knobs import dataset_name
from dro_lab.errors import UserError
from dro_lab.lab import reset_process
from dro_lab.prefilter.settings import policy_identity
from dro_lab.probe import examine, formula, running, tokens
from dro_lab.probe.advice import Advice, advise
from dro_lab.probe.contenders import OVERRIDES, Contender, composed, contenders
from dro_lab.probe.figures import curves
from dro_lab.probe.findings import Findings, TopToken
from dro_lab.probe.label import check_label
from dro_lab.probe.page import render
from dro_lab.probe.rollouts import Sampled, queries, sample_and_score
from dro_lab.probe.settings import Asked, Settings
from dro_lab.probe.table import show
from dro_lab.record.environment import command_line, git_state
from dro_lab.record.files import write_json
from dro_lab.record.rows import token_rows
from dro_lab.types import Need, Rewards

SIGMA_KEYS = ("top_share", "clip_low", "clip_high", "sigma_on", "include_eos")
"""Keys of `filtering=r3_variance` that decide sigma_bar."""
FORMAT = "dro_lab.probe/1"
WIDTH = 150  # of the table in a file or pipe
TOP_TOKENS, PER_QUERY = 12, 2
"""Tokens that the page shows, and of one query at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A probe's result; nothing is written yet."""

    findings: Findings
    advice: Advice


def folder_of(settings: Settings, cfg: DictConfig, dataset: str) -> Path:
    """The folder to write: ``probe.out``, or one by date in ``outputs``.

    Raises:
        UserError: it exists.
    """
    now = datetime.now()
    default = Path(cfg.outputs) / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}_probe_{dataset}_s{cfg.seed}"
    folder = Path(settings.out).expanduser() if settings.out else default
    if folder.exists():
        raise UserError(
            f"probe.out={folder}: is there already, and nothing is overwritten. Give another folder, leave it out (the "
            "name then follows the time), or remove it."
        )
    return folder


def base_configuration(asked: Asked, configs: Mapping[str, DictConfig]) -> tuple[DictConfig, DictConfig]:
    """The configuration that samples and scores, and the variance filter's own yaml.

    sigma follows R3's keys, so R3 is its reward, whether it is compared or not.
    """
    base = configs.get("r3") or compose([*OVERRIDES, *asked.overrides, "reward=r3"])
    check(base)
    given = [override for override in asked.overrides if not override.lstrip("+~").startswith("filtering")]
    r3 = [override for override in asked.reward_overrides if "r3" in configs and examine_key(configs["r3"], override)]
    variance = compose([*OVERRIDES, *given, "reward=r3", *r3, "filtering=r3_variance"])
    return base, variance.filtering


def examine_key(cfg: DictConfig, override: str) -> bool:
    """Whether R3's yaml has the key of ``reward.KEY=VALUE``."""
    key = override.partition("=")[0].lstrip("+~").removeprefix("reward.")
    return OmegaConf.select(cfg.reward, key, default=None) is not None


def probe(asked: Asked, configs: Mapping[str, DictConfig], base: DictConfig, variance: DictConfig) -> Probed:
    """Sample, score and examine.

    Raises:
        UserError: as a run does; or the split has no rows.
    """
    settings, started = asked.settings, time.perf_counter()
    reset_process(base)
    names = {group: _option(base, group) for group in ("gating", "filtering", "judge")} | {"reward": "r3"}
    with tempfile.TemporaryDirectory() as folder:
        built = build(base, names, Path(folder))
    sigma = {key: value for key, value in _plain(variance).items() if key in SIGMA_KEYS}
    fallback = component("filtering", without_refill(variance), name="r3_variance")
    own = [_initial(part.needs) for part in (built.pipeline.gate, built.pipeline.filter, fallback)]
    measured_anyway = frozenset[Need]().union(REFERENCE_NEED, *own)
    judge = component("judge", base.judge, name=names["judge"], supplied=frozenset({"needs"}))
    rivals = contenders(dict(configs), built.task, lambda task, needs: judge(task, needs=needs), measured_anyway)
    check_label(built.task, built.judge.name, settings)
    rows = queries(built, settings, seed=base.seed)
    _announce(built, rivals, rows, settings)
    needs = [REFERENCE_NEED, *own, *(rival.needs for rival in rivals if rival.call is not None)]
    sampled = sample_and_score(built, rows, needs, settings, seed=base.seed)
    setting = _setting(base, built, asked, settings)
    findings = _findings(sampled, rivals, built, settings, sigma=sigma, fallback=fallback, setting=setting, cfg=base)
    setting["seconds"] = round(time.perf_counter() - started, 1)
    return Probed(findings=findings, advice=advise(findings))


def _initial(needs: frozenset[Need]) -> frozenset[Need]:
    from dataclasses import replace

    return frozenset(replace(need, policy="current") for need in needs)


def _option(cfg: DictConfig, group: str) -> str:
    """The chosen option's name, by its function's: compose keeps no choices."""
    return str(cfg[group].get("_target_", group)).rsplit(".", 1)[-1]


def _plain(node: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(node, resolve=True)
    return dict(values)


def _findings(
    sampled: Sampled,
    rivals: list[Contender],
    built: Built,
    settings: Settings,
    *,
    sigma: Mapping[str, Any],
    fallback: Any,
    setting: dict[str, Any],
    cfg: DictConfig,
) -> Findings:
    quality = examine.quality_finding(sampled)
    rounds = cfg.algorithm.get("steps_per_generation") or cfg.algorithm.get("gradient_accumulation_steps") or 1
    prompts = max(1, cfg.algorithm.per_device_train_batch_size * rounds // cfg.algorithm.num_generations)
    scale = examine.scale_of(sampled, settings, prompts=prompts)
    clip = (float(sigma["clip_low"]), float(sigma["clip_high"]))
    token, parts = tokens.token_finding(sampled.stats, _truth(sampled, built), settings, clip=clip)
    measured, failed = examine.measure(sampled, rivals)
    found = examine.reward_findings(sampled, measured, parts=parts, quality=quality, scale=scale, built=built)
    r3_keys = next((rival.keys for rival in rivals if rival.is_r3), _r3_keys(sigma))
    omegas = examine.omega_findings(sampled, settings.omegas, r3_keys, parts=parts, quality=quality, scale=scale)
    grid = [each.omega for each in omegas]
    by_label = formula.smallest_as_good(grid, [_or_inf(each.steps) for each in omegas]) if quality.name else None
    rewards = measured[0].rewards if measured else Rewards(outcome_PG=torch.zeros(sampled.groups.shape))
    kept = running.filter_finding(sampled, built, rewards, sigma, fallback)
    return Findings(
        setting=setting,
        quality=quality,
        rewards=[*found, *failed],
        omegas=omegas,
        omega_measured=by_label,
        omega_formula=formula.smallest_as_good(grid, [_or_inf(each.steps_formula) for each in omegas]),
        formula_notes=tokens.formula_notes(token),
        tokens=token,
        filter=kept,
        gate="" if built.pipeline.gate.name == "none" else built.pipeline.gate.name,
        cost=running.cost_finding(sampled),
        top_tokens=_top_tokens(sampled, built),
        queries=_queries(sampled, measured, kept.sigma_bars, kept.kept),
        g=scale.g,
        prompts=prompts,
        notes=[*built.task.notes, *([f"{len(built.task.refused)} rows were refused"] if built.task.refused else [])],
    )


def _or_inf(steps: float | None) -> float:
    return math.inf if steps is None or math.isnan(steps) else steps


def _r3_keys(sigma: Mapping[str, Any]) -> dict[str, Any]:
    return {key: sigma[key] for key in ("clip_low", "clip_high", "sigma_on", "include_eos")}


def _truth(sampled: Sampled, built: Built) -> Tensor | None:
    """Reference tokens inside the rows' truth_spans; None where any row has none."""
    if any(columns.get("truth_spans") is None for columns in sampled.groups.columns_P):
        return None
    mask_PR = sampled.stats.reference_mask_PR
    assert mask_PR is not None
    truth_PR = torch.zeros_like(mask_PR)
    nothing = Rewards(outcome_PG=torch.zeros(sampled.groups.shape))
    for p in range(len(mask_PR)):
        for row in token_rows(
            sampled.groups, sampled.stats, nothing, tokenizer=built.tokenizer, prompts=[p], split="probe"
        ):
            truth_PR[p, row["position"]] = bool(row["truth"])
    return truth_PR


def _top_tokens(sampled: Sampled, built: Built) -> list[TopToken]:
    """The tokens with the largest sigma, at most two of a query, each with its surroundings."""
    probs_PGR, mask_PR = tokens.probabilities(sampled.stats)
    ids_PR = sampled.stats.reference_ids_PR
    assert ids_PR is not None
    truth_PR = _truth(sampled, built)
    sigma_PR = probs_PGR.std(1, correction=0).where(mask_PR, -1.0)
    best_PT = sigma_PR.topk(min(PER_QUERY, sigma_PR.shape[1])).indices
    places = [(float(sigma_PR[p, j]), p, int(j)) for p in range(len(sigma_PR)) for j in best_PT[p] if mask_PR[p, j]]

    def text(ids: Tensor) -> str:
        return str(built.tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    found = []
    for sigma, p, j in sorted(places, reverse=True)[:TOP_TOKENS]:
        length = int(mask_PR[p].sum())
        found.append(
            TopToken(
                query=str(sampled.rows[p].id),
                before=text(ids_PR[p, max(0, j - 14) : j]),
                token=text(ids_PR[p, j : j + 1]),
                after=text(ids_PR[p, j + 1 : min(length, j + 8)]),
                sigma=sigma,
                mean_prob=float(probs_PGR[p, :, j].mean()),
                known=None if truth_PR is None else bool(truth_PR[p, j]),
            )
        )
    return found


def _queries(sampled: Sampled, measured: Any, sigma_bars: Any, kept: Any) -> list[dict[str, Any]]:
    """One entry a query."""
    from dro_lab.probe import measures

    label_PG = sampled.label.values_PG
    ranks = {
        item.contender.name: measures.rank_correlation(item.rewards.outcome_PG, label_PG).tolist() for item in measured
    }
    spreads = {item.contender.name: measures.spread(item.rewards.outcome_PG).tolist() for item in measured}
    means, stds = label_PG.double().nanmean(1).tolist(), measures.spread(label_PG).tolist()
    return [
        {
            "id": str(row.id),
            "sigma_bar": sigma_bars[p],
            "kept": kept[p],
            "quality": means[p],
            "quality_spread": stds[p],
            "rank": {name: values[p] for name, values in ranks.items()},
            "spread": {name: values[p] for name, values in spreads.items()},
        }
        for p, row in enumerate(sampled.rows)
    ]


def _setting(cfg: DictConfig, built: Built, asked: Asked, settings: Settings) -> dict[str, Any]:
    return {
        "dataset": built.task.name,
        "provenance": str(built.task.provenance),
        "kind": built.task.provenance.kind,
        "policy": built.spec.name,
        "policy_identity": policy_identity(built.spec),
        "split": settings.split,
        "rows": settings.rows,
        "rollouts": settings.rollouts,
        "max_completion_length": int(cfg.rollout.max_completion_length),
        "temperature": float(cfg.rollout.temperature),
        "seed": int(cfg.seed),
        "settings": asdict(settings),
        "overrides": [override for override in asked.overrides if not override.startswith(("dataset=", "outputs="))],
        "command": command_line(),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        **git_state(),
    }


def _announce(built: Built, rivals: list[Contender], rows: Any, settings: Settings) -> None:
    there = f"{len(rows)} of {len(built.task.splits[settings.split])} {settings.split} rows"
    print(f"data     {built.task.provenance}: {there}")
    print(f"policy   {built.spec.name}")
    for note in built.task.notes:
        print(f"note     {note}")
    print(
        f"probe    {len(rows)} queries x {settings.rollouts} rollouts; rewards {', '.join(r.name for r in rivals)}",
        flush=True,
    )


def probe_and_write(asked: Asked) -> Path:
    """Probe, write the folder whole or not at all, and print the table; returns the folder.

    Raises:
        UserError: bad input, before anything is sampled.
    """
    configs = composed(asked)
    base, variance = base_configuration(asked, configs)
    folder = folder_of(asked.settings, base, _data_name(base))
    probed = probe(asked, configs, base, variance)
    write(folder, probed)
    show(probed.findings, probed.advice, Console(width=None if sys.stdout.isatty() else WIDTH))
    print()
    print(f"page     {folder / 'probe.html'}")
    print(f"record   {folder / 'probe.json'}")
    if probed.advice.command:
        print(f"train    {probed.advice.command}")
    return folder


def write(folder: Path, probed: Probed) -> None:
    """``probe.json``, ``probe.html`` and ``figures/`` in a new folder; nothing where something fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
        partial = Path(made) / "probe"
        drawn = curves(probed.findings, partial / "figures")
        partial.mkdir(exist_ok=True)
        write_json(partial / "probe.json", as_json(probed))
        (partial / "probe.html").write_text(render(probed.findings, probed.advice, drawn), encoding="utf-8")
        partial.rename(folder)


def as_json(probed: Probed) -> dict[str, Any]:
    """Everything, as plain values."""
    return {"format": FORMAT, "advice": asdict(probed.advice), **asdict(probed.findings)}


def _data_name(cfg: DictConfig) -> str:
    return dataset_name(cfg.dataset) or "data"
