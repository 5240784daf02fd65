"""Supervised warm start of the tiny policy, from scratch, in three phases.

1. ``chains``: right reasoning only, until it is learned.
2. ``copy``: chains whose results are random, and answers that state them; loss on the answer only. Without this phase
   the policy answers from the prompt and its references do not react to the reasoning.
3. ``noisy``: chains with the wanted error rate, answers that follow each chain's results and style.

The loss is the cross-entropy with the grammar's own distribution at each place (soft targets), on completion tokens
only. The twins cut a small share of the chains short or leave them out (`Twin.draw`), so that prefixes of a chain and
answers without reasoning are in distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dro_lab.data.twins.protocol import Twin, TwinExample
from dro_lab.types import Prompt

FACT_WEIGHT = 4.0  # loss weight of the twin's fact words: few tokens among many words, and hard to copy


@dataclass(frozen=True, slots=True)
class Phase:
    """``steps`` updates of ``batch`` examples at peak learning rate ``lr``."""

    name: str
    steps: int
    batch: int
    lr: float


BUDGETS: dict[str, tuple[Phase, ...]] = {
    "full": (
        Phase("chains", 280, 64, 1e-2),
        Phase("copy", 120, 32, 7e-3),
        Phase("noisy", 320, 48, 5e-3),
    ),
    "small": (
        Phase("chains", 40, 32, 1e-2),
        Phase("copy", 20, 16, 7e-3),
        Phase("noisy", 20, 16, 5e-3),
    ),
    "tune": (Phase("noisy", 100, 48, 6e-3),),
}
"""``full``: from scratch. ``small``: a check that the recipe runs. ``tune``: from a checkpoint (``--start``)."""


def budget(twin: Twin, name: str) -> tuple[Phase, ...]:
    """The phases of a budget: the twin's own, else `BUDGETS`."""
    own: Any = getattr(twin, "budgets", {})
    return tuple(Phase(*phase) for phase in own[name]) if name in own else BUDGETS[name]


class Encoder:
    """Turns pieces into token ids, one token a piece."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._ids: dict[str, int] = {}

    def id(self, text: str) -> int:
        """The one token of a piece."""
        if text not in self._ids:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) != 1:
                raise ValueError(f"the piece {text!r} is {len(ids)} tokens: add it to vocabulary_texts")
            self._ids[text] = ids[0]
        return self._ids[text]

    def prompt(self, messages: Prompt, *, thinking: bool = True) -> list[int]:
        """The chat prompt's ids, generation prompt included."""
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        return list(self.tokenizer.encode(str(text), add_special_tokens=False))


def collate(
    examples: Sequence[TwinExample], encoder: Encoder, fact_words: frozenset[str]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Input ids and attention mask ``(B, T)``; positions whose next token is trained, as flat indices ``(N,)``; and
    the targets there: option ids and weighted shares ``(N, O)``, O the most alternatives that a place has.
    """
    prompts = [encoder.prompt(example.prompt, thinking=example.thinking) for example in examples]
    width = max(len(prompt) + len(example.pieces) for prompt, example in zip(prompts, examples, strict=True))
    alternatives = max(1, *(len(piece.options) for example in examples for piece in example.pieces))
    ids = np.zeros((len(examples), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    flat, option_ids, shares = [], [], []
    for row, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
        offset = len(prompt)
        tokens = [*prompt, *(encoder.id(piece.text) for piece in example.pieces)]
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        for place in range(example.first, len(example.pieces)):
            piece = example.pieces[place]
            options = piece.options or ((piece.text, 1.0),)
            weight = FACT_WEIGHT if piece.text.strip() in fact_words else 1.0
            flat.append(row * width + offset + place - 1)
            padding = alternatives - len(options)
            option_ids.append([encoder.id(text) for text, _ in options] + [0] * padding)
            shares.append([weight * share for _, share in options] + [0.0] * padding)
    return (
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.tensor(flat),
        torch.tensor(option_ids),
        torch.tensor(shares),
    )


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy with the soft targets, in nats per weighted token."""
    ids, mask, flat, option_ids, shares = batch
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state  # type: ignore[operator]
    logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[flat])  # type: ignore[operator]
    return -(logits.log_softmax(-1).gather(1, option_ids) * shares).sum() / shares.sum()


def _optimizers(model: nn.Module) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the weight matrices (it needs far fewer steps here than AdamW alone), AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        (torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), 1.0),
        (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0), 0.5),
    ]


def warm_start(
    model: nn.Module,
    encoder: Encoder,
    twin: Twin,
    knobs: Any,
    phases: Sequence[Phase],
    *,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Train ``model`` in place through the phases, on examples that the twin draws."""
    model.train()
    for number, phase in enumerate(phases):
        rng = np.random.default_rng([seed, number])
        optimizers = _optimizers(model)
        warmup = min(20, phase.steps // 4 + 1)
        total = 0.0
        for step in range(phase.steps):
            rise = min(1.0, (step + 1) / warmup)
            fall = 0.05 + 0.95 * min(1.0, 2 * (1 - step / phase.steps))  # constant, then linear to a twentieth
            for optimizer, share in optimizers:
                optimizer.param_groups[0]["lr"] = phase.lr * share * rise * fall
            examples = [twin.draw(knobs, phase.name, rng) for _ in range(phase.batch)]
            batch = collate(examples, encoder, twin.fact_words)
            loss = loss_of(model, batch)
            model.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, _ in optimizers:
                optimizer.step()
            total += float(loss.detach())
            if (step + 1) % 25 == 0 or step + 1 == phase.steps:
                count = (step % 25) + 1
                report(f"{phase.name} {step + 1}/{phase.steps} loss {total / count:.3f}")
                total = 0.0
    model.eval()
