"""What decides a prefilter's numbers, and the hashes by which its file is found again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dro_lab import checks
from dro_lab.errors import UserError
from dro_lab.models import PolicySpec
from dro_lab.prefilter.file import content_of, digest
from dro_lab.types import Provenance, Row

SIGMA_KEYS = ("top_share", "clip_low", "clip_high", "sigma_on", "include_eos")
"""Keys of `filtering=r3_variance` that decide sigma_bar."""

SAMPLING_KEYS = ("top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation", "bf16", "fp16")
"""Keys of `algorithm` that decide what is sampled and how it is scored, beside those under `rollout`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The command's own keys."""

    rollouts: int = 16
    keep_share: float = 0.1
    rest_share: float = 0.1
    out: str | None = None

    def __post_init__(self) -> None:
        checks.whole(
            "rollouts", self.rollouts, low=2, todo="sigma compares the rollouts of one query; 16 is the default"
        )
        checks.share("keep_share", self.keep_share, todo="0.1 keeps the tenth with the largest sigma_bar")
        checks.number("rest_share", self.rest_share, low=0, high=1, todo="0.1 adds a tenth of the others, 0 none")
        if self.out is not None and (not isinstance(self.out, str) or not self.out.strip()):
            raise UserError(f"out={self.out}: must be the path of the file to write, or be left out")


def sampling_settings(cfg: Any, choice: Choice) -> dict[str, Any]:
    """Everything but data and policy that decides sigma_bar. ``cfg``: the composed configuration as plain values."""
    algorithm, filtering = cfg["algorithm"], cfg["filtering"]
    return {
        "rollouts": choice.rollouts,
        "seed": cfg["seed"],
        "batch_size": cfg["evaluation"]["batch_size"],
        "rollout": cfg["rollout"],
        "sampling": {key: algorithm[key] for key in SAMPLING_KEYS if key in algorithm},
        "sigma": {key: filtering[key] for key in SIGMA_KEYS},
    }


def policy_identity(spec: PolicySpec) -> dict[str, Any]:
    """Name and settings of the policy; of a folder also the hash of its weights, tokenizer and template."""
    identity = {key: value for key, value in asdict(spec).items() if key != "path" or not spec.local}
    if spec.local:
        folder = Path(spec.path).expanduser()
        names = sorted({*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.jinja")})
        identity["files"] = {file.name: _sha256(file) for file in names if file.name != "build.json"}
    return {"name": spec.name, **identity}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def hashes(
    provenance: Provenance, rows: Sequence[Row], policy: Mapping[str, Any], settings: Mapping[str, Any], choice: Choice
) -> tuple[str, str]:
    """``(hash of what is sampled, hash of the file)``: shares choose among what was sampled, and need no new samples.

    The location of the data and the name of the policy's folder count for nothing: rows and weights themselves do.
    """
    sampled = digest(
        {
            "dataset": provenance.dataset,
            "rows": [[row.id, content_of(row)] for row in rows],
            "policy": {key: value for key, value in policy.items() if key != "name"},
            "settings": settings,
        }
    )
    return sampled, digest([sampled, choice.keep_share, choice.rest_share])
