"""Loading a policy: tokenizer first (cheap, and where most mistakes show), weights once all else was checked."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dro_lab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dro_lab.scoring.split import ReasoningFormat

DTYPES = ("float32", "bfloat16", "float16")


def shipped_policy() -> Path:
    """The folder of the policy that comes with the package."""
    return Path(str(resources.files("dro_lab.policy").joinpath("tiny")))


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

    @property
    def local(self) -> bool:
        return Path(self.path).is_dir()

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
        return "tiny (shipped)" if Path(self.path) == shipped_policy() else self.path


def policy_spec(model: DictConfig) -> PolicySpec:
    """Check the `model` group.

    Raises:
        UserError: a key is unknown or missing, or the folder is not there or incomplete.
    """
    values: dict[str, Any] = OmegaConf.to_container(model, resolve=True)  # type: ignore[assignment]
    allowed = set(PolicySpec.__dataclass_fields__)
    if wrong := sorted(set(values) ^ allowed):
        raise UserError(f"model: unknown or missing keys {', '.join(wrong)}; allowed are {', '.join(sorted(allowed))}")
    values["path"] = str(values["path"]) if values["path"] is not None else str(shipped_policy())
    if values["dtype"] not in DTYPES:
        raise UserError(f"model.dtype={values['dtype']!r}: must be one of {', '.join(DTYPES)}")
    if not values["reasoning_open"] or not values["reasoning_close"]:
        raise UserError(
            "model.reasoning_open and model.reasoning_close must not be empty, for example <think>, </think>"
        )
    spec = PolicySpec(**values)
    looks_like_path = spec.path.startswith((".", "/", "~")) or spec.path.count("/") > 1 or Path(spec.path).exists()
    if looks_like_path:
        _check_folder(Path(spec.path).expanduser())
    return spec


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"model.path={folder}: no such folder. Give a folder in Hugging Face format, or a hub name.")
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path={folder}: no config.json, so it is no checkpoint in Hugging Face format")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(
            f"model.path={folder}: no tokenizer (tokenizer.json, tokenizer.model or vocab.json). "
            "Copy the tokenizer of the base model into the folder."
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"model.path={folder}: no *.safetensors file; only safetensors weights are loaded")


def _hub_error(spec: PolicySpec, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0][:200]
    return UserError(
        f"model.path={spec.path}: could not be loaded ({type(error).__name__}: {reason}). Check the name and the "
        "network, download it first and give the folder, or use the shipped policy with model=tiny."
    )


def load_tokenizer(spec: PolicySpec) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, checked for what sampling in groups needs.

    Raises:
        UserError: not loadable, no chat template, no pad or end-of-sequence token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code, local_files_only=spec.local
        )
    except Exception as error:  # transformers raises many types here; the user needs one sentence
        raise _hub_error(spec, error) from error
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


def load_config(spec: PolicySpec) -> Any:
    """The model's configuration (context length, ...)."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code, local_files_only=spec.local
        )
    except Exception as error:
        raise _hub_error(spec, error) from error


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
            spec.path,
            revision=spec.revision,
            dtype=getattr(torch, spec.dtype),
            attn_implementation=spec.attn_implementation,
            trust_remote_code=spec.trust_remote_code,
            local_files_only=spec.local,
            use_safetensors=True,
        )
    except Exception as error:
        raise _hub_error(spec, error) from error
