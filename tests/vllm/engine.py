"""Real vLLM on a CPU: what its CPU build needs before TRL can hand it weights. For tests alone.

On a CPU vLLM packs each linear layer's weights and leaves an empty parameter behind, so TRL's weight sync finds nothing
to load into; and a float32 checkpoint would become bfloat16.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.tiny import TEMPLATES, byte_tokenizer

ENGINE = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 64 * 2**20, "block_size": 32}


def plain_linear(layer: Any, remove_weight: bool) -> None:
    """In the place of vLLM's packing: weights stay where they can be loaded into."""
    layer.cpu_linear = torch.nn.functional.linear


def patch(monkeypatch: Any) -> None:
    """Engines of this process: float32, small, with weights that stay loadable."""
    import trl.generation.vllm_generation as generation
    import vllm.distributed.parallel_state as parallel
    import vllm.model_executor.layers.utils as layers

    monkeypatch.setattr(layers, "dispatch_cpu_unquantized_gemm", plain_linear)
    monkeypatch.setattr(parallel, "suppress_stdout", contextlib.nullcontext)  # it wants an output with a file number
    monkeypatch.setattr(generation, "LLM", functools.partial(generation.LLM, **ENGINE))


def save_policy(folder: Path, *, tied: bool = True) -> Path:
    """A random Qwen3 as a checkpoint folder; vLLM's attention on a CPU takes heads of 32 at least.

    Its prompt opens the reasoning, and its probabilities are sharp enough for R3 to have what to weigh.
    """
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATES["open"])
    return folder
