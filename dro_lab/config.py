"""The typed root of the configuration, and the checks that need nothing heavy.

Hydra composes `conf/`; this module gives the run-wide keys their types (so ``seed=abc`` is refused by Hydra itself) and
cross-checks what no single component can see. It imports neither torch nor transformers: ``--help`` and ``--cfg job``
must stay fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dro_lab.checks import choice, flag, number, whole
from dro_lab.errors import UserError
from dro_lab.explain import NO_GROUPS
from dro_lab.resume import place
from dro_lab.resume.settings import checkpoint_settings
from dro_lab.sweep import config as sweep_config  # noqa: F401  (makes hydra/sweeper=dro_lab known)

if TYPE_CHECKING:
    from dro_lab.evaluation.settings import EvaluationSettings

GROUPS = (
    "reward",
    "gating",
    "filtering",
    "advantage",
    "algorithm",
    "dataset",
    "model",
    "rollout",
    "scorer",
    "judge",
    "evaluation",
    "health",
    "tracking",
    "launch",
    "scale",
)
"""The config groups of a run; `--help` has a line on each."""


@dataclass
class Root:
    """Run-wide keys. The groups are open here: each component checks its own keys."""

    seed: int = 0
    steps: int = 40
    threads: int | None = None  # torch's threads; null: what torch takes by itself
    outputs: str = "outputs"
    report: bool = True
    credit: str = "completion"
    scored_by: str = "current"
    lag: int = 16
    on_nonfinite: str = "stop"
    keep: str = "last"
    resume: str = "auto"
    checkpoint: Any = MISSING
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
    health: Any = MISSING
    tracking: Any = MISSING
    launch: Any = MISSING


ConfigStore.instance().store(name="root_schema", node=Root, provider="dro_lab")
place.register()  # here, since every process that reads the configuration imports this module, a launcher's workers too


def _open(node: dict[str, Any]) -> DictConfig:
    """A node that takes any further key: those of a function that the user names."""
    made = OmegaConf.create(node)
    made._set_flag("struct", False)
    return made


ConfigStore.instance().store(
    name="jsonl_functions",  # what conf/dataset/jsonl.yaml starts from; in no group, so that it is no option
    node=OmegaConf.create(
        {
            "metric": _open({"_target_": "dro_lab.data.metrics.reference_overlap"}),
            "check_program": _open({"_target_": None}),
        }
    ),
    provider="dro_lab",
)


def chosen_names(cfg: DictConfig, choices: Mapping[str, Any]) -> dict[str, str]:
    """The chosen option of each group; written into the configuration, so that a repeated run keeps them.

    Args:
        choices: Hydra's `runtime.choices`.
    """
    given = OmegaConf.to_container(cfg.names) if "names" in cfg else {}
    assert isinstance(given, dict)
    names = {group: str(given.get(group) or choices.get(group) or group) for group in GROUPS}
    with open_dict(cfg):
        cfg.names = {group: names[group] for group in GROUPS}
    return names


def _check_keep(keep: str, *, objective: str, settings: EvaluationSettings) -> None:
    """The best policy is chosen where it is not reported from, by what every evaluation measures."""
    choice("keep", keep, ("last", "best"), todo="last is the default")
    if keep == "best" and settings.split == "test":
        raise UserError(
            "keep=best with evaluation.split=test: a policy that is chosen on the rows it is reported on looks better "
            "than it is. Choose it on evaluation.split=validation, then evaluate it: steps=0 "
            "model.path=RUN/policy evaluation.split=test"
        )
    if keep == "best" and ("/" in objective or objective.startswith("win_rate")) and settings.extras != "every":
        raise UserError(
            f"keep=best with objective={objective}: not every evaluation measures it. Set evaluation.extras=every, or "
            "another objective, for example quality"
        )


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
    for group in GROUPS:
        if group in fields:
            _plain(group, cfg[group])
    whole("steps", cfg.steps, low=0, todo="0 evaluates only, 40 is the default")
    whole("seed", cfg.seed, low=0, high=2**32 - 1, todo="any of them; a run with the same seed gives the same numbers")
    if cfg.threads is not None:
        whole("threads", cfg.threads, low=1, todo="or null for torch's own choice")
    choice("credit", cfg.credit, ("completion", "causal"), todo="completion is the paper's")
    choice("scored_by", cfg.scored_by, ("current", "reference", "lagged"), todo="current is the paper's")
    whole("lag", cfg.lag, low=1, todo="optimizer steps between two copies under scored_by=lagged; 16 is the default")
    _check_batch(cfg.algorithm)
    _check_gate(cfg)
    _check_sampling(cfg)
    _check_shared(cfg)
    _check_scorer(cfg.scorer)
    from dro_lab.evaluation.settings import check_objective, evaluation_settings  # `--help` needs none of it

    evaluation = evaluation_settings(_plain("evaluation", cfg.evaluation))
    check_objective(cfg.objective, steps=cfg.steps, settings=evaluation)
    checkpoint_settings(cfg.checkpoint)
    choice("on_nonfinite", cfg.on_nonfinite, ("stop", "skip"), todo="stop is the default")
    _check_keep(cfg.keep, objective=cfg.objective, settings=evaluation)


def _plain(group: str, node: Any) -> dict[str, Any]:
    """A group's keys and values. Raises `UserError` where the group is not a mapping."""
    if not isinstance(node, DictConfig):
        raise UserError(f"{group}={node}: must hold keys and values. {NO_GROUPS}")
    values: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return values


def _check_batch(node: Any) -> None:
    algorithm = _plain("algorithm", node)
    group: Any = algorithm.get("num_generations")
    batch: Any = algorithm.get("per_device_train_batch_size")
    whole(
        "algorithm.num_generations",
        group,
        low=2,
        todo="advantages compare the rollouts of one prompt; 8 or 16 are usual",
    )
    whole(
        "algorithm.per_device_train_batch_size",
        batch,
        low=1,
        todo=f"a multiple of algorithm.num_generations={group} is one or more whole groups",
    )
    for key in ("steps_per_generation", "gradient_accumulation_steps"):
        if algorithm.get(key) is not None:
            whole(f"algorithm.{key}", algorithm[key], low=1, todo="1 is the default")
    rounds: int = algorithm.get("steps_per_generation") or algorithm.get("gradient_accumulation_steps") or 1
    if batch * rounds % group:
        fits = group // math.gcd(batch, group)
        raise UserError(
            f"algorithm.num_generations={group} does not divide the rollouts of one sampling round of a process "
            f"(algorithm.per_device_train_batch_size {batch} x {rounds} = {batch * rounds}): a group would be "
            f"split. Set algorithm.per_device_train_batch_size to a multiple of {group}, or "
            f"algorithm.gradient_accumulation_steps to a multiple of {fits}."
        )


def _check_gate(cfg: DictConfig) -> None:
    mu: Any = _plain("gating", cfg.gating).get("mu", 1)
    group = cfg.algorithm.num_generations
    if type(mu) is int and mu > group:
        raise UserError(
            f"gating.mu={mu}: more than the {group} rollouts of a group (algorithm.num_generations), so no check could "
            "ever be covered; 1 is the default"
        )


FROM_ELSEWHERE = {
    "max_steps": "steps",
    "seed": "seed",
    "max_completion_length": "rollout.max_completion_length",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "use_vllm": "rollout.use_vllm",
    "chat_template_kwargs": "model.chat_template_kwargs",
}
"""Keys of `algorithm` that other keys decide, since other parts of a run read those too."""


def _check_shared(cfg: DictConfig) -> None:
    for key, source in FROM_ELSEWHERE.items():
        given, decided = cfg.algorithm.get(key), OmegaConf.select(cfg, source)
        if given != decided:
            raise UserError(f"algorithm.{key}={given}: is decided by {source} (now {decided}); set {source} instead")


ROLLOUT = ("use_vllm", "max_completion_length", "temperature", "top_p", "mask_malformed_completions")


def _check_sampling(cfg: DictConfig) -> None:
    rollout = _plain("rollout", cfg.rollout)
    if unknown := sorted(set(rollout) - set(ROLLOUT)):
        raise UserError(
            f"rollout.{unknown[0]}={rollout[unknown[0]]}: unknown key; allowed are {', '.join(ROLLOUT)}. "
            f"TRL's other sampling keys go under algorithm, for example +algorithm.top_k=50."
        )
    whole("rollout.max_completion_length", rollout.get("max_completion_length"), low=1, todo="96 suits the tiny policy")
    flag("rollout.mask_malformed_completions", rollout.get("mask_malformed_completions"), todo="false is the default")
    number("rollout.temperature", rollout.get("temperature"), low=0.0, todo="1.0 is the default")
    if rollout["temperature"] == 0:
        raise UserError("rollout.temperature=0: must be above 0, or every rollout of a group is the same; try 1.0")
    number("rollout.top_p", rollout.get("top_p"), low=0.0, high=1.0, todo="1.0 keeps every token")
    if rollout["top_p"] == 0:
        raise UserError("rollout.top_p=0: must be above 0 and at most 1; 1.0 keeps every token")
    number("algorithm.learning_rate", _plain("algorithm", cfg.algorithm).get("learning_rate"), low=0.0, todo="try 1e-4")


OWN_FORWARDS = ("tokens_per_batch", "lm_head_chunk", "share")
SCORER: dict[str, tuple[str, ...]] = {"hf": OWN_FORWARDS, "vllm": ("read_prefix_cache", *OWN_FORWARDS)}


def _check_scorer(node: Any) -> None:
    scorer = _plain("scorer", node)
    engine = scorer.pop("engine", "hf")
    choice("scorer.engine", engine, tuple(SCORER), todo="choose with scorer=hf or scorer=vllm")
    if unknown := sorted(set(scorer) - set(SCORER[engine])):
        raise UserError(
            f"scorer.{unknown[0]}={scorer[unknown[0]]}: unknown key; allowed are {', '.join(SCORER[engine])}"
        )
    for key in ("tokens_per_batch", "lm_head_chunk"):
        if key in scorer:
            whole(f"scorer.{key}", scorer[key], low=1, todo="conf/scorer/hf.yaml says what it means")
