"""What is scored here: random ids of fixed lengths under a random Qwen3 of 6 layers and width 512."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

SMALL_VOCABULARY, LARGE_VOCABULARY = 4096, 151_936


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Lengths in tokens, and rollouts of the one prompt."""

    prompt: int = 128
    reasoning: int = 512
    reference: int = 32
    rollouts: int = 8
    vocabulary: int = SMALL_VOCABULARY

    @property
    def whole(self) -> int:
        """Tokens of prompt + reasoning + answer."""
        return self.prompt + self.reasoning + self.reference

    def places(self, k: int) -> list[int]:
        """Where the k prefixes end: evenly spaced within the reasoning."""
        return [self.reasoning * (n + 1) // (k + 1) for n in range(k)]


def random_model(vocabulary: int, device: str) -> PreTrainedModel:
    """The same weights on every call."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model: PreTrainedModel = Qwen3ForCausalLM(config)
    return model.to(torch.device(device)).eval()  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Texts:
    """Random ids; every rollout has a reasoning of its own, all have one reference."""

    prompt: list[int]
    stems: list[list[int]]
    reference: list[int]

    @classmethod
    def of(cls, shape: Shape) -> Texts:
        generator = torch.Generator().manual_seed(0)

        def ids(count: int) -> list[int]:
            return torch.randint(0, shape.vocabulary, (count,), generator=generator).tolist()

        return cls(ids(shape.prompt), [ids(shape.reasoning) for _ in range(shape.rollouts)], ids(shape.reference))
