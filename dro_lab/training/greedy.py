"""Greedy decoding by the engine and settings that training samples with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RANDOM = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}
"""transformers' keys of sampling at its own defaults, of which greedy decoding reads none: another value it warns of,
and for None it takes that of the model."""


@contextmanager
def greedy_decoding(trainer: Any) -> Iterator[None]:
    """Within, TRL's trainer generates the likeliest token at each place; all else stays (length, penalty, engine)."""
    if trainer.use_vllm:
        engine = trainer.vllm_generation
        before, engine.temperature = engine.temperature, 0.0  # vLLM's word for greedy
        try:
            yield
        finally:
            engine.temperature = before
        return
    config, given = trainer.generation_config, trainer.generation_kwargs
    greedy = copy.deepcopy(config)
    for key, value in RANDOM.items():
        setattr(greedy, key, value)
    trainer.generation_config, trainer.generation_kwargs = greedy, {**given, **RANDOM}
    try:
        yield
    finally:
        trainer.generation_config, trainer.generation_kwargs = config, given
