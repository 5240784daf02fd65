"""The numbers of a decoder-only transformer (gated MLP, grouped heads) that memory and FLOPs depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dro_lab.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a policy.

    ``qk_norm`` and ``qkv_bias`` say which small parameters a layer has beside its matrices (Qwen3 the one, Qwen2 the
    other).
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    qk_norm: bool = False
    qkv_bias: bool = False

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer's matrices: query, key, value, output, and the three of the MLP."""
        attention = 2 * self.hidden * self.heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head(self) -> int:
        """Parameters of the LM head, also where it is the embedding."""
        return self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """All parameters, as ``model.num_parameters()`` counts them."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        body = self.layers * (self.layer_matrices + norms + biases) + self.hidden
        return body + self.head * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all matrices of the layers: ``rank * (inputs + outputs)`` each."""
        inner, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden + inner) + 2 * (self.hidden + kv)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))

    @property
    def kv_per_token(self) -> int:
        """Numbers of keys and values that one token leaves in the cache."""
        return 2 * self.layers * self.kv_heads * self.head_dim


KNOWN: Mapping[str, ModelShape] = {
    "Qwen/Qwen3-0.6B": ModelShape(
        layers=28,
        hidden=1024,
        heads=16,
        kv_heads=8,
        head_dim=128,
        intermediate=3072,
        vocab=151936,
        tied=True,
        qk_norm=True,
    ),
    "Qwen/Qwen3-1.7B": ModelShape(
        layers=28,
        hidden=2048,
        heads=16,
        kv_heads=8,
        head_dim=128,
        intermediate=6144,
        vocab=151936,
        tied=True,
        qk_norm=True,
    ),
    "Qwen/Qwen3-8B": ModelShape(
        layers=36,
        hidden=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate=12288,
        vocab=151936,
        tied=False,
        qk_norm=True,
    ),
    "Qwen/Qwen3-14B": ModelShape(
        layers=40,
        hidden=5120,
        heads=40,
        kv_heads=8,
        head_dim=128,
        intermediate=17408,
        vocab=151936,
        tied=False,
        qk_norm=True,
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": ModelShape(
        layers=28,
        hidden=3584,
        heads=28,
        kv_heads=4,
        head_dim=128,
        intermediate=18944,
        vocab=152064,
        tied=False,
        qkv_bias=True,
    ),
}
"""The models of ``conf/model``, so that a plan needs no network."""

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers are laid out as `ModelShape` counts them."""


def shape_of(path: str, *, revision: str | None = None) -> ModelShape:
    """The shape of a checkpoint folder or of a model on the hub; only its ``config.json`` is read.

    Raises:
        UserError: the configuration cannot be read, or is of a model that is laid out otherwise.
    """
    if not Path(path).expanduser().is_dir() and path in KNOWN:
        return KNOWN[path]
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path,
            revision=revision,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.path={path}: its config.json cannot be read ({str(error).strip().splitlines()[0]}). Give a folder "
            f"in Hugging Face format, a hub name that can be reached, or one of {', '.join(KNOWN)}"
        ) from None
    return shape_from(config, path=path)


def shape_from(config: Any, *, path: str = "") -> ModelShape:
    """The shape that a transformers configuration describes.

    Raises:
        UserError: the model's type is none of `FAMILIES`.
    """
    if config.model_type not in FAMILIES:
        raise UserError(
            f"model.path={path}: model_type is {config.model_type!r}; the plan counts dense models of the types "
            f"{', '.join(FAMILIES)}. Choose one of those, or start the run without a plan"
        )
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        qk_norm=config.model_type == "qwen3",
        qkv_bias=config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False)),
    )
