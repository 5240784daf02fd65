"""TRL's arguments from the `algorithm` group: what TRL notices only in the middle of a run is refused before it."""

from __future__ import annotations

import difflib
import importlib.util
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from dro_lab.components import instantiate_checked, target
from dro_lab.errors import UserError

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")
"""TRL 1.16 names an unknown one only when the first loss is computed."""

LAB_DECIDES = {
    "logging_steps": (1, "every step is logged, and evaluation.every counts logged steps"),
    "scale_rewards": ("group", "the lab's own advantages take the place of TRL's; choose with advantage=NAME"),
    "reward_weights": (None, "a run has one reward"),
}
"""Keys that would do nothing, or half of something, with another value."""

UNLESS_GIVEN = {
    "ddp_find_unused_parameters": False,  # each forward of the update uses every trained weight, an adapter's too
    "log_level_replica": "error",  # what the first process keeps to itself, the others do too
}
"""What the lab says where the configuration says nothing; only several processes notice."""

PLAIN = {int, float, bool, str, type(None)}


def arguments(node: DictConfig, *, output_dir: str, steps: int) -> Any:
    """Check the group's keys and values and build the arguments.

    Args:
        node: the `algorithm` group.
        output_dir: TRL's own folder (the lab writes nothing there).
        steps: optimizer steps; 0 evaluates only.

    Raises:
        UserError: a key that TRL does not have, a value of another type than TRL declares, or one that TRL refuses.
    """
    function = target("algorithm", node)
    if not is_dataclass(function):
        raise UserError(f"algorithm._target_={node['_target_']}: must be trl.GRPOConfig or a subclass of it")
    known = {field.name for field in fields(function)}
    hints = typing.get_type_hints(function)
    values: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    for key, value in values.items():
        if key.startswith("_") and key.endswith("_"):
            continue
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "its documentation lists the keys."
            raise UserError(f"algorithm.{key}={value}: {function.__name__} of TRL has no such key; {hint}")
        _check_type(f"algorithm.{key}", value, hints[key])
    for key, (fixed, why) in LAB_DECIDES.items():
        if values.get(key, fixed) != fixed:
            raise UserError(f"algorithm.{key}={values[key]}: must stay {fixed}: {why}")
    if values.get("loss_type", "dapo") not in LOSS_TYPES:
        raise UserError(f"algorithm.loss_type={values['loss_type']}: must be one of {', '.join(LOSS_TYPES)}")
    if values.get("use_vllm"):
        check_vllm()
        _check_server(values)
    check_precision(values)
    more = {key: value for key, value in UNLESS_GIVEN.items() if key in known and values.get(key) is None}
    return instantiate_checked("algorithm", node, output_dir=output_dir, max_steps=max(1, steps), **more)


def check_vllm() -> None:
    """Raise `UserError` unless vLLM is installed; it is looked for, not imported."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.use_vllm=true: vLLM is not installed; `pip install -e '.[vllm]'` on a machine with a GPU, or "
            "sample with rollout=hf (rollout.use_vllm=false)"
        )


def check_precision(values: Mapping[str, Any]) -> None:
    """Check that this machine computes in the precision that the `algorithm` group asks for.

    Raises:
        UserError: bf16 or fp16 without a GPU, or bf16 on a GPU that does not have it.
    """
    key = next((key for key in ("bf16", "bf16_full_eval", "fp16") if values.get(key)), None)
    if key is None or values.get("use_cpu"):
        return
    import torch
    from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

    if not torch.accelerator.is_available() and not is_torch_xla_available():
        raise UserError(
            f"algorithm.{key}=true: no GPU was found on this machine (scale=gpu, node and paper need one). Train here "
            "with scale=laptop, or give the command on a machine with a GPU; `python -m dro_lab.plan` says without one "
            "what a run would take"
        )
    if key.startswith("bf16") and not is_torch_bf16_gpu_available() and not is_torch_xla_available():
        raise UserError(
            f"algorithm.{key}=true: the GPU of this machine does not compute in bfloat16 (Ampere and later do); set "
            f"algorithm.{key}=false, or take another machine"
        )


def _check_server(values: Mapping[str, Any]) -> None:
    url = values.get("vllm_server_base_url")
    if values.get("vllm_mode") == "server" and url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            shown = url if "@" not in url else "(with a user or a password)"
            raise UserError(
                f"algorithm.vllm_server_base_url={shown}: must begin with http:// or https:// and name a host, without "
                "user and password, for example http://localhost:8000"
            )


def _check_type(key: str, value: Any, hint: Any) -> None:
    """Compare with the declared type where that is made of plain types; TRL itself sees to the others."""
    allowed = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) or typing.get_origin(hint) else {hint}
    if not allowed <= PLAIN:
        return
    accepted = allowed | ({int} if float in allowed else set())
    if type(value) not in accepted:
        names = ", ".join("null" if kind is type(None) else kind.__name__ for kind in sorted(allowed, key=str))
        raise UserError(f"{key}={value}: is a {type(value).__name__}; TRL takes {names}. Next: correct the value.")


def placeholder(name: str) -> Callable[..., list[float | None]]:
    """A placeholder that gives TRL's metrics the reward's name; `_calculate_rewards` never calls it."""

    def never_called(**_: Any) -> list[float | None]:
        raise RuntimeError("LabTrainer computes rewards itself; TRL must not call this function")

    never_called.__name__ = name
    return never_called
