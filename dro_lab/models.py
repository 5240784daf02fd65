"""Loading a policy: tokenizer first (cheap, and where most mistakes show), weights once all else was checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dro_lab.checks import choice, flag, number, whole
from dro_lab.errors import UserError
from dro_lab.secrets import beginning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dro_lab.scoring.split import ReasoningFormat

DTYPES = ("float32", "bfloat16", "float16")


SHIPPED_DEFAULT = "pararev"
"""The data set whose shipped policy serves data sets that have none of their own."""


def shipped_policies() -> dict[str, Path]:
    """The folders of the policies that come with the package, by the data set whose twin they were warm-started on."""
    root = Path(str(resources.files("dro_lab.policy")))
    return {file.parent.name: file.parent for file in sorted(root.glob("*/config.json"))}


def shipped_policy(dataset: str | None = None) -> Path:
    """The folder of the data set's shipped policy; ParaRev's for a data set without one, and for None."""
    found = shipped_policies()
    return found.get(dataset or SHIPPED_DEFAULT, found[SHIPPED_DEFAULT])


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """Where a policy is and how its completions are laid out; see conf/model/tiny.yaml for the fields."""

    path: str
    revision: str | None
    dtype: str
    attn_implementation: str
    trust_remote_code: bool
    chat_template_kwargs: dict[str, Any]
    reasoning_open: str
    reasoning_close: str
    close_prefix: str
    close_suffix: str
    peft: str | None = None
    lora: dict[str, Any] = field(default_factory=dict)

    def peft_config(self) -> Any:
        """PEFT's configuration of the adapter that is trained; None where all weights are."""
        if self.peft is None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=self.lora["r"],
            lora_alpha=self.lora["alpha"],
            lora_dropout=self.lora["dropout"],
            target_modules=self.lora["target_modules"],
            task_type="CAUSAL_LM",
        )

    @property
    def local(self) -> bool:
        return Path(self.path).expanduser().is_dir()

    def reasoning_format(self, answer_marker: str) -> ReasoningFormat:
        """How completions are split, with the data set's answer marker."""
        from dro_lab.scoring.split import ReasoningFormat

        return ReasoningFormat(
            answer_marker=answer_marker,
            open=self.reasoning_open,
            close=self.reasoning_close,
            close_prefix=self.close_prefix,
            close_suffix=self.close_suffix,
        )

    @property
    def name(self) -> str:
        shipped = {str(folder): name for name, folder in shipped_policies().items()}
        return f"tiny, {shipped[self.path]} (shipped)" if self.path in shipped else self.path


def policy_spec(model: DictConfig, *, dataset: str | None = None) -> PolicySpec:
    """Check the `model` group.

    Args:
        model: the group.
        dataset: name of the data set, which chooses among the shipped policies where ``path`` is null.

    Raises:
        UserError: a key is unknown or missing, or the folder is not there or incomplete.
    """
    values: dict[str, Any] = OmegaConf.to_container(model, resolve=True)  # type: ignore[assignment]
    values = {"peft": None, "lora": {}, **values}  # records of earlier versions have neither
    allowed = set(PolicySpec.__dataclass_fields__)
    if unknown := sorted(set(values) - allowed):
        raise UserError(f"model.{unknown[0]}: unknown key; allowed are {', '.join(sorted(allowed))}")
    if missing := sorted(allowed - set(values)):
        raise UserError(f"model.{missing[0]} is not set; conf/model/tiny.yaml says what it means and its default")
    values["path"] = values["path"] if values["path"] is not None else str(shipped_policy(dataset))
    choice("model.dtype", values["dtype"], DTYPES, todo="float32 on a CPU, bfloat16 on a GPU")
    for key in ("path", "reasoning_open", "reasoning_close", "close_prefix", "close_suffix", "attn_implementation"):
        if not isinstance(values[key], str):
            raise UserError(f"model.{key}={values[key]}: must be a text; put quotes around it")
    if not isinstance(values["chat_template_kwargs"], dict):
        raise UserError(
            f"model.chat_template_kwargs={values['chat_template_kwargs']}: must hold keys and values, for example "
            "'model.chat_template_kwargs={enable_thinking: false}'"
        )
    flag("model.trust_remote_code", values["trust_remote_code"], todo="true runs code that comes with the model")
    if values["revision"] is not None and not isinstance(values["revision"], str):
        raise UserError(f"model.revision={values['revision']}: must be a commit, branch or tag as text, or null")
    if not values["reasoning_open"] or not values["reasoning_close"]:
        raise UserError(
            "model.reasoning_open and model.reasoning_close must not be empty, for example <think>, </think>"
        )
    _check_peft(values["peft"], values["lora"])
    spec = PolicySpec(**values)
    looks_like_path = spec.path.startswith((".", "/", "~")) or spec.path.count("/") > 1 or Path(spec.path).exists()
    if looks_like_path:
        _check_folder(Path(spec.path).expanduser())
    return spec


LORA = ("r", "alpha", "dropout", "target_modules")


def _check_peft(peft: Any, lora: Any) -> None:
    if peft is None:
        return
    choice("model.peft", peft, ("lora",), todo="or null, which trains all weights")
    if not isinstance(lora, dict) or set(lora) != set(LORA):
        raise UserError(f"model.lora={lora}: must hold the keys {', '.join(LORA)}; conf/model/tiny.yaml has them")
    whole("model.lora.r", lora["r"], low=1, todo="16 is the default")
    whole("model.lora.alpha", lora["alpha"], low=1, todo="twice model.lora.r is the default")
    number("model.lora.dropout", lora["dropout"], low=0.0, high=0.9, todo="0 is the default")
    modules = lora["target_modules"]
    named = isinstance(modules, list) and modules and all(isinstance(name, str) for name in modules)
    if modules != "all-linear" and not named:
        raise UserError(
            f"model.lora.target_modules={modules}: must be all-linear, or a list of names such as [q_proj, v_proj]"
        )
    if named and "lm_head" in modules:
        raise UserError(
            f"model.lora.target_modules={modules}: TRL reads the LM head's weight itself, so an adapter on it would "
            "never be trained; leave lm_head out"
        )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"model.path={folder}: no such folder. Give a folder in Hugging Face format, or a hub name.")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"model.path={folder}: holds an adapter alone. Give the folder above it, where a run saves the policy with "
            "the adapter merged, or merge it into its model (PEFT's merge_and_unload) and give the result."
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model.path={folder}: no config.json, so it is no checkpoint in Hugging Face format. "
            "Give the folder that holds config.json, the tokenizer and *.safetensors."
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(
            f"model.path={folder}: no tokenizer (tokenizer.json, tokenizer.model or vocab.json). "
            "Copy the tokenizer of the base model into the folder."
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model.path={folder}: no *.safetensors file, and only safetensors weights are loaded. Save the model "
            "with save_pretrained, which writes them."
        )


def _unloadable(spec: PolicySpec, error: Exception) -> UserError:
    reason = beginning((str(error).strip().splitlines() or [""])[0], 200)
    todo = (
        "A file in the folder is damaged, or another model.* key does not fit it."
        if spec.local
        else "Check the name and the network, download it first and give the folder, or use the shipped policy with "
        "model=tiny."
    )
    return UserError(f"model.path={spec.path}: could not be loaded ({type(error).__name__}: {reason}). {todo}")


REACH_SECONDS = 5.0
"""How long the hub may take to answer before a model is looked for among the downloaded ones."""


@cache
def _hub_answers() -> bool:
    """Whether the hub can be reached: the hub's own client would try again and again for most of a minute."""
    import socket
    import threading
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    parts = urlsplit(constants.ENDPOINT)
    reached: list[bool] = []

    def ask() -> None:
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=REACH_SECONDS).close()
            reached.append(True)
        except OSError:
            reached.append(False)

    # a name lookup knows no timeout: it may block in a thread of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return bool(reached and reached[0])


def _source(spec: PolicySpec) -> dict[str, Any]:
    """Where transformers shall look: the folder, the hub, or without a network what was downloaded before."""
    return {
        "pretrained_model_name_or_path": str(Path(spec.path).expanduser()) if spec.local else spec.path,
        "revision": spec.revision,
        "trust_remote_code": spec.trust_remote_code,
        "local_files_only": spec.local or not (_proxied() or _hub_answers()),
    }


def _proxied() -> bool:
    """Behind a proxy a direct connection says nothing about the hub."""
    from urllib.request import getproxies

    return "https" in getproxies()


def load_tokenizer(spec: PolicySpec) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, checked for what sampling in groups needs.

    Raises:
        UserError: not loadable, no chat template, no pad or end-of-sequence token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**_source(spec))
    except Exception as error:  # transformers raises many types here; the user needs one sentence
        raise _unloadable(spec, error) from error
    tokenizer.padding_side = "left"
    if not tokenizer.chat_template:
        raise UserError(
            f"model.path={spec.path}: the tokenizer has no chat template, so prompts cannot be rendered. Use an "
            "instruction-tuned checkpoint or put a chat_template.jinja into the folder."
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.path={spec.path}: the tokenizer has no eos_token; set it in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"model.path={spec.path}: the tokenizer has no pad token, which batches of rollouts need. Set pad_token "
            'in tokenizer_config.json, for example to an unused token such as "<|endoftext|>".'
        )
    if not tokenizer.is_fast:
        raise UserError(f"model.path={spec.path}: needs a fast tokenizer (tokenizer.json), which gives token offsets")
    return tokenizer


def knows_twins_only(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a policy descends from a shipped one: it has its vocabulary, which was made from a twin's text."""
    vocabulary = tokenizer.get_vocab()
    for folder in shipped_policies().values():
        shipped = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        words = {**shipped["model"]["vocab"], **{token["content"]: token["id"] for token in shipped["added_tokens"]}}
        if vocabulary == words:
            return True
    return False


def load_config(spec: PolicySpec) -> Any:
    """The model's configuration (context length, ...)."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(**_source(spec))
    except Exception as error:
        raise _unloadable(spec, error) from error


def context_length(config: Any) -> int:
    """Tokens the policy can attend to."""
    text_config = config.get_text_config()
    return int(getattr(text_config, "max_position_embeddings", 0) or getattr(text_config, "n_positions", 0) or 2048)


def load_weights(spec: PolicySpec) -> PreTrainedModel:
    """The policy itself; safetensors only.

    Raises:
        UserError: not loadable.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            **_source(spec),
            dtype=getattr(torch, spec.dtype),
            attn_implementation=spec.attn_implementation,
            use_safetensors=True,
        )
    except Exception as error:
        raise _unloadable(spec, error) from error


def load_to_ask(spec: PolicySpec) -> PreTrainedModel:
    """The policy for questions alone: in evaluation mode, without gradients, on the accelerator where there is one (a
    run's trainer moves its policy there by itself).

    Raises:
        UserError: not loadable.
    """
    import torch
    from torch import nn

    model = load_weights(spec).eval()
    model.requires_grad_(False)
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None:
        nn.Module.to(model, device)
    return model
