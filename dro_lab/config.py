"""The typed root of the configuration, and the checks that need nothing heavy.

Hydra composes `conf/`; this module gives the run-wide keys their types (so ``seed=abc`` is refused by Hydra itself) and
cross-checks what no single component can see. It imports neither torch nor transformers: ``--help`` and ``--cfg job``
must stay fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dro_lab.errors import UserError

GROUPS = {
    "reward": "how a rollout is scored",
    "gating": "which groups may teach at all",
    "filtering": "which groups carry enough signal",
    "advantage": "how rewards become advantages",
    "algorithm": "TRL's GRPOConfig, key by key",
    "dataset": "prompts, references and their metric",
    "model": "the policy",
    "rollout": "how completions are sampled",
    "scorer": "how reference tokens are scored",
    "judge": "who judges an answer's quality",
    "evaluation": "held-out rows, samples and intervals",
    "tracking": "where a run is mirrored",
    "scale": "model, data source, batch sizes and steps for a machine",
}


@dataclass
class Root:
    """Run-wide keys. The groups are open here: each component checks its own keys."""

    seed: int = 0
    steps: int = 40
    threads: int | None = None  # torch's threads; null: what torch takes by itself
    outputs: str = "outputs"
    objective: str = "quality"
    names: dict[str, str] = field(default_factory=dict)  # the chosen option of each group; filled by run.py
    reward: Any = MISSING
    gating: Any = MISSING
    filtering: Any = MISSING
    advantage: Any = MISSING
    algorithm: Any = MISSING
    dataset: Any = MISSING
    model: Any = MISSING
    rollout: Any = MISSING
    scorer: Any = MISSING
    judge: Any = MISSING
    evaluation: Any = MISSING
    tracking: Any = MISSING


ConfigStore.instance().store(name="root_schema", node=Root, provider="dro_lab")


def check(cfg: DictConfig) -> None:
    """Refuse what can be refused before anything heavy is imported.

    Raises:
        UserError: naming the key, the value got, what is allowed and what to do.
    """
    fields = set(Root.__dataclass_fields__)
    unknown = sorted(set(map(str, cfg)) - fields)
    if unknown:
        raise UserError(
            f"unknown key{'s' if len(unknown) > 1 else ''} {', '.join(unknown)} at the root of the configuration: "
            f"allowed are {', '.join(sorted(fields))}. A misspelt `+group=name` lands here too; see --help."
        )
    try:
        OmegaConf.merge(OmegaConf.structured(Root), cfg)
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {error}") from error
    for key in Root.__dataclass_fields__:
        if OmegaConf.is_missing(cfg, key) or cfg.get(key, "absent") == "absent":
            raise UserError(f"{key} is not set: choose an option with `{key}=NAME` (see --help)")
    if cfg.steps < 0:
        raise UserError(f"steps={cfg.steps}: must be 0 (evaluate only) or more")
    if not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed}: must lie in [0, 4294967295]")
    if cfg.threads is not None and cfg.threads < 1:
        raise UserError(f"threads={cfg.threads}: must be at least 1, or null for torch's own choice")
    _check_batch(cfg.algorithm)
    _check_sampling(cfg.algorithm)
    _check_evaluation(cfg.evaluation)


def _check_batch(algorithm: DictConfig) -> None:
    group, batch = algorithm.num_generations, algorithm.per_device_train_batch_size
    accumulation = algorithm.get("gradient_accumulation_steps", 1)
    for key, value in (("num_generations", group), ("per_device_train_batch_size", batch)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"algorithm.{key}={value!r}: must be a whole number")
    if group < 2:
        raise UserError(
            f"algorithm.num_generations={group}: a group needs at least 2 rollouts, since advantages compare "
            "rollouts of one prompt. Use 8 or 16."
        )
    if batch < 1:
        raise UserError(f"algorithm.per_device_train_batch_size={batch}: must be at least {group} (one group)")
    per_generation = batch * (algorithm.get("steps_per_generation") or accumulation)
    if per_generation % group:
        raise UserError(
            f"algorithm.num_generations={group} does not divide the rollouts of one sampling round "
            f"(per_device_train_batch_size {batch} x {per_generation // batch} = {per_generation}): a group would be "
            f"split. Set per_device_train_batch_size to a multiple of {group}."
        )


def _check_sampling(algorithm: DictConfig) -> None:
    if algorithm.max_completion_length is None or algorithm.max_completion_length < 1:
        raise UserError(f"rollout.max_completion_length={algorithm.max_completion_length}: must be at least 1 token")
    if algorithm.temperature <= 0:
        raise UserError(f"rollout.temperature={algorithm.temperature}: must be positive; 1.0 is the default")
    if not 0 < algorithm.top_p <= 1:
        raise UserError(f"rollout.top_p={algorithm.top_p}: must lie in (0, 1]")
    if algorithm.learning_rate < 0:
        raise UserError(f"algorithm.learning_rate={algorithm.learning_rate}: must be 0 or more")


def _check_evaluation(evaluation: DictConfig) -> None:
    for key in ("prompts", "samples", "every", "bootstrap", "batch_size"):
        if evaluation[key] < 1:
            raise UserError(f"evaluation.{key}={evaluation[key]}: must be at least 1")
    if not 0 < evaluation.confidence < 1:
        raise UserError(f"evaluation.confidence={evaluation.confidence}: must lie in (0, 1), for example 0.9")
    if evaluation.split not in ("validation", "test", "train"):
        raise UserError(f"evaluation.split={evaluation.split!r}: must be validation, test or train")


def outputs_root(cfg: DictConfig) -> Path:
    """The folder that holds all runs and the tracker's database, absolute."""
    return Path(cfg.outputs).expanduser().absolute()
