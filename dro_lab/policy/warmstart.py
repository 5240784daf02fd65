"""Supervised warm start of the tiny policy, from scratch, in three phases.

1. ``chains``: right reasoning only, until the arithmetic is learned.
2. ``copy``: chains whose marks are random, and answers that state them; loss on the answer only. Without this phase
   the policy answers from the prompt and its references do not react to the reasoning.
3. ``noisy``: chains with the wanted error rate, answers that follow each chain's marks and style.

The loss is the cross-entropy with the grammar's own distribution at each place (soft targets), on completion tokens
only. A small share of chains is cut short or left out, so that prefixes of a chain and answers without reasoning are
in distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dro_lab.data.pararev_prompt import render_prompt
from dro_lab.data.twins import words
from dro_lab.data.twins.grammar import Piece
from dro_lab.data.twins.pararev import ParaRevTwin, sample_answer, sample_chain, sample_problem

FACT_WEIGHT = 4.0  # loss weight of digits and days: few tokens among many words, and hard to copy
_FACTS = {*words.DAYS, *(str(digit) for digit in range(10))}
OPTIONS = 12  # the most alternatives a place has
CUT_SHARE = 0.06  # chains cut after some lines, or left out


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
}


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

    def prompt(self, content: str, *, thinking: bool = True) -> list[int]:
        """The chat prompt's ids, generation prompt included."""
        messages = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence: prompt ids, completion pieces, and from which piece on the loss counts."""

    prompt: list[int]
    pieces: Sequence[Piece]
    first: int


def draw_example(knobs: ParaRevTwin, encoder: Encoder, phase: str, rng: np.random.Generator) -> Example:
    """An example of a phase, on a problem of the training split."""
    problem = sample_problem(knobs, "train", rng)
    even = bool(rng.random() < 0.2)  # some prompts carry the even-tone concern that the mild preset uses
    content = render_prompt(problem.paragraph(), problem.instruction(), words.EVEN_TONE if even else None)
    cut = phase == "noisy" and rng.random() < CUT_SHARE
    if phase == "chains" or (phase == "copy" and rng.random() < 0.25):
        chain = sample_chain(knobs, problem, rng, error_rate=0.0)
        return Example(encoder.prompt(content), chain.pieces, 0)
    lines = int(rng.integers(-1, len(problem.turns))) if cut else None
    error_rate = 0.9 if phase == "copy" else knobs.error_rate
    chain = sample_chain(knobs, problem, rng, error_rate=error_rate, lines=None if lines is None else max(lines, 0))
    answer = sample_answer(knobs, problem, chain, rng, even_tone=even)
    if lines == -1:  # thinking switched off: the template has closed the empty block already
        return Example(encoder.prompt(content, thinking=False), answer[1:], 0)
    first = len(chain.pieces) if phase == "copy" or cut else 0
    return Example(encoder.prompt(content), (*chain.pieces, *answer), first)


def collate(examples: Sequence[Example], encoder: Encoder) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Input ids and attention mask ``(B, T)``; positions whose next token is trained, as flat indices ``(N,)``; and
    the targets there: option ids and weighted shares ``(N, OPTIONS)``.
    """
    width = max(len(example.prompt) + len(example.pieces) for example in examples)
    ids = np.zeros((len(examples), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    flat, option_ids, shares = [], [], []
    for row, example in enumerate(examples):
        offset = len(example.prompt)
        tokens = [*example.prompt, *(encoder.id(piece.text) for piece in example.pieces)]
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        for place in range(example.first, len(example.pieces)):
            piece = example.pieces[place]
            options = piece.options or ((piece.text, 1.0),)
            weight = FACT_WEIGHT if piece.text.strip() in _FACTS else 1.0
            flat.append(row * width + offset + place - 1)
            padding = OPTIONS - len(options)
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
    knobs: ParaRevTwin,
    phases: Sequence[Phase],
    *,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Train ``model`` in place through the phases."""
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
            batch = collate([draw_example(knobs, encoder, phase.name, rng) for _ in range(phase.batch)], encoder)
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
