"""The prefilter from a composed configuration to a file, a picture and a summary."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from dro_lab.build import Built, build
from dro_lab.errors import UserError
from dro_lab.lab import reset_process
from dro_lab.prefilter.choose import choose
from dro_lab.prefilter.file import Judged, content_of, read, write
from dro_lab.prefilter.settings import Choice, hashes, policy_identity, sampling_settings
from dro_lab.record.environment import command_line, git_state

Measurement = tuple[float, float | None]
"""sigma_bar and mean quality of a row."""


def prefilter(choice: Choice, cfg: DictConfig) -> Path:
    """Measure the training rows (or find what was measured), choose among them, write them down; returns the file.

    Raises:
        UserError: as a run does; or ``out`` holds something else.
    """
    reset_process(cfg)
    with tempfile.TemporaryDirectory() as folder:
        built = build(cfg, {}, Path(folder))
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    # the marker stands before the reference when it is scored; a loader may have one of its own
    settings = {**sampling_settings(plain, choice), "answer_marker": built.task.answer_marker}
    policy = policy_identity(built.spec)
    rows = built.task.splits["train"]
    sampled, whole = hashes(built.task.provenance, rows, policy, settings, choice)
    file = Path(choice.out or Path(cfg.outputs) / "prefilter" / f"{built.task.name}_{whole[:12]}.jsonl").expanduser()
    _say(f"data     {built.task.provenance}: {len(rows)} training rows")
    _say(f"policy   {policy['name']}")
    for note in built.task.notes:
        _say(f"note     {note}")
    if file.exists():
        header, judged = _same(file, whole, settings, choice)
        _say(f"reused   {file}: the same data, policy and settings; nothing was sampled (hash {whole[:12]})")
        _summary(file, judged, name=built.task.name, seconds=header["seconds"])
        return file
    header = {
        "provenance": asdict(built.task.provenance),
        "provenance_text": str(built.task.provenance),
        "policy": policy,
        "settings": settings,
        "keep_share": choice.keep_share,
        "rest_share": choice.rest_share,
        "sampling_hash": sampled,
        "hash": whole,
        "seed": cfg.seed,
        **git_state(),
        "command": command_line(),
        "notes": list(built.task.notes),
        "refused": len(built.task.refused),
    }
    before = time.perf_counter()
    earlier = _sampled_before(file.parent, sampled)
    if earlier is not None:
        _say(f"reused   the samples of {earlier[0]} (only the shares differ); nothing was sampled")
        measurements: list[Measurement] = [(row.sigma_bar, row.quality) for row in earlier[2]]
        seconds = earlier[1]["seconds"]
    else:
        measurements = _measure(built, settings)
        seconds = round(time.perf_counter() - before, 1)
    judged = _judge(built, measurements, choice, seed=cfg.seed)
    write(file, {**header, "rows": len(judged), "kept": sum(row.kept for row in judged), "seconds": seconds}, judged)
    from dro_lab.prefilter.histogram import draw  # matplotlib takes a second that nothing above needs

    draw(file.with_suffix(".png"), judged, source=f"{built.task.provenance}, {policy['name']}")
    _summary(file, judged, name=built.task.name, seconds=seconds)
    return file


def _same(file: Path, whole: str, settings: dict[str, Any], choice: Choice) -> tuple[dict[str, Any], list[Judged]]:
    header, judged = read(file, key="out")
    if header["hash"] != whole:
        shares = {"keep_share": choice.keep_share, "rest_share": choice.rest_share}
        old = {**header["settings"], **{key: header.get(key) for key in shares}}
        changed = [key for key, value in {**settings, **shares}.items() if old.get(key) != value]
        what = ", ".join(f"{key} {old.get(key)} there, {({**settings, **shares})[key]} now" for key in changed)
        raise UserError(
            f"out={file}: holds a prefilter made otherwise ({what or 'its data or its policy differ'}). "
            "Give another out=, leave it out (the name then follows the content), or remove the file."
        )
    return header, judged


def _sampled_before(folder: Path, sampled: str) -> tuple[Path, dict[str, Any], list[Judged]] | None:
    """A file in the folder that rests on the same samples."""
    for file in sorted(folder.glob("*.jsonl")):
        try:
            header, judged = read(file, key="out")
        except UserError:  # the folder may hold other files
            continue
        if header["sampling_hash"] == sampled:
            return file, header, judged
    return None


def _measure(built: Built, settings: dict[str, Any]) -> list[Measurement]:
    from dro_lab.prefilter.measure import measured

    rows = len(built.task.splits["train"])
    batches = math.ceil(rows / max(1, settings["batch_size"] // settings["rollouts"]))
    _say(f"sampling {rows} queries x {settings['rollouts']} rollouts in {batches} batches")
    found: list[Measurement] = []
    for batch in track(measured(built, settings), total=batches, description="prefilter", transient=True):
        found.extend(batch)
    return found


def _judge(built: Built, measurements: Sequence[Measurement], choice: Choice, *, seed: int) -> list[Judged]:
    why = choose(
        [sigma for sigma, _ in measurements], keep_share=choice.keep_share, rest_share=choice.rest_share, seed=seed
    )
    return [
        Judged(
            id=row.id,
            content=content_of(row),
            sigma_bar=round(sigma, 6),
            quality=None if value is None or math.isnan(value) else round(value, 6),
            kept=reason is not None,
            why=reason,
        )
        for row, (sigma, value), reason in zip(built.task.splits["train"], measurements, why, strict=True)
    ]


def _summary(file: Path, rows: Sequence[Judged], *, name: str, seconds: float) -> None:
    parts = {
        "largest sigma_bar": [row for row in rows if row.why == "top"],
        "drawn from the rest": [row for row in rows if row.why == "rest"],
        "do not train": [row for row in rows if not row.kept],
    }
    for title, part in parts.items():
        quality = [row.quality for row in part if row.quality is not None]
        mean = f", quality {sum(quality) / len(quality):.3f}" if quality else ""
        sigma = (
            f", sigma_bar {min(r.sigma_bar for r in part):.4f} to {max(r.sigma_bar for r in part):.4f}" if part else ""
        )
        _say(f"  {title:<20} {len(part):>6} rows{sigma}{mean}")
    kept = sum(row.kept for row in rows)
    _say(f"kept     {kept} of {len(rows)} rows: effective retention {kept / len(rows):.1%}; sampled in {seconds:.0f} s")
    _say(f"file     {file}")
    _say(f"picture  {file.with_suffix('.png')}")
    _say(f"train    python -m dro_lab.run dataset={name} filtering=static filtering.file={file}")


def _say(text: str) -> None:
    print(text, flush=True)
