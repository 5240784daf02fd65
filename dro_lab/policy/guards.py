"""What a warm start must have reached: a warm start can fail silently, and then every reward looks bad.

The figures are measured without `dro_lab.scoring`, by sampling, splitting and one plain forward pass written out here.
They say whether the policy is fit for the scorer and the splitter, so they must not lean on them: a fault in either
would pass a failed warm start, or refuse a good one. This code knows only the twin's layout and serves no training run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dro_lab.data.twins.pararev import ANSWER_MARKER, ParaRevTwin, make_rows, quality
from dro_lab.errors import UserError
from dro_lab.types import Row

MAX_COMPLETION = 96


@dataclass(frozen=True, slots=True)
class Guards:
    """Figures of a warm-started policy on held-out rows.

    ``greedy_quality``: of greedy answers. ``sampled_quality``: of answers sampled at temperature 1.
    ``state_copy``: share of days at which a sampled answer states the mark that its own reasoning states.
    ``reflective_sigma``: mean over rows and fact digits of the standard deviation over the row's rollouts of the
    digit's probability. ``wording_sigma``: the same of all other reference tokens. ``unfinished``: share of sampled
    completions without end of sequence within 96 tokens.
    """

    greedy_quality: float
    sampled_quality: float
    state_copy: float
    reflective_sigma: float
    wording_sigma: float
    unfinished: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


LIMITS = {
    "greedy_quality": (0.8, 1.0),
    "sampled_quality": (0.15, 0.5),
    "state_copy": (0.9, 1.0),
    "reflective_sigma": (0.3, 1.0),
    "unfinished": (0.0, 0.05),
}


def check_guards(guards: Guards) -> None:
    """Raise where a figure is out of its limits, naming all that are.

    Raises:
        UserError: the warm start failed.
    """
    failed = [
        f"{name} = {getattr(guards, name):.3f}, must lie in [{low}, {high}]"
        for name, (low, high) in LIMITS.items()
        if not low <= getattr(guards, name) <= high
    ]
    if failed:
        raise UserError(
            "the warm start failed: " + "; ".join(failed) + ". Train longer (--budget full, --scale-steps 1.5), "
            "try another --seed, or undo the changed knobs."
        )


def prompt_text(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    """The rendered prompt of a row, generation prompt included."""
    messages = [dict(message) for message in row.prompt]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    rollouts: int,
    seed: int,
    greedy: bool = False,
) -> list[list[str]]:
    """``rollouts`` completions for every row, decoded, with the end-of-sequence token where there is one."""
    prompts = [prompt_text(tokenizer, row) for row in rows]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    ids = encoded["input_ids"].repeat_interleave(rollouts, 0)
    mask = encoded["attention_mask"].repeat_interleave(rollouts, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=MAX_COMPLETION,
            pad_token_id=tokenizer.pad_token_id,
            # 0: the whole distribution (the library's default keeps 50 tokens)
            **({"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}),
        )
    texts = [str(tokenizer.decode(row)).replace(str(tokenizer.pad_token), "") for row in out[:, ids.shape[1] :]]
    return [texts[start : start + rollouts] for start in range(0, len(texts), rollouts)]


def split_completion(text: str) -> tuple[str, str]:
    """Reasoning and answer of a completion whose prompt has opened the thinking block."""
    reasoning, _, answer = text.partition("</think>")
    return reasoning, answer.strip().removesuffix("<|im_end|>")


@torch.no_grad()
def reference_probs(
    model: Any, tokenizer: PreTrainedTokenizerBase, row: Row, reasonings: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Probability of every reference token after each reasoning, ``(G, R)``, and which tokens are facts, ``(R,)``."""
    prompt = prompt_text(tokenizer, row)
    encoded = tokenizer(row.reference, add_special_tokens=False, return_offsets_mapping=True)
    reference, offsets = encoded["input_ids"], encoded["offset_mapping"]
    spans = row.columns["truth_spans"]
    truth = torch.tensor([any(low < stop and start < high for low, high in spans) for start, stop in offsets])
    probabilities = []
    for reasoning in reasonings:
        head = tokenizer.encode(f"{prompt}{reasoning}</think>{ANSWER_MARKER}", add_special_tokens=False)
        logits = model(input_ids=torch.tensor([head + reference])).logits[0, len(head) - 1 : -1].float()
        probabilities.append(logits.softmax(-1).gather(1, torch.tensor(reference)[:, None])[:, 0])
    return torch.stack(probabilities), truth


def copied_share(reasoning: str, answer: str, days: Sequence[str]) -> list[bool]:
    """For every day whose mark the reasoning states: does the answer state the same one?"""
    said = {day: re.findall(rf"\b{day} (\d)\n", reasoning) for day in days}
    return [re.findall(rf"\b{day} (\d)\b", answer)[:1] == marks[-1:] for day, marks in said.items() if marks]


def measure(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    knobs: ParaRevTwin,
    *,
    rows: int = 64,
    rollouts: int = 8,
    seed: int = 0,
) -> Guards:
    """The guard figures on ``rows`` validation rows with ``rollouts`` samples each (half of them for the sigmas)."""
    model.eval()
    held_out = make_rows(knobs, "validation", rows, seed=seed)
    greedy = sample(model, tokenizer, held_out, rollouts=1, seed=seed, greedy=True)
    sampled = sample(model, tokenizer, held_out, rollouts=rollouts, seed=seed)
    qualities, copies, reflective, wording, unfinished = [], [], [], [], []
    for number, (row, texts) in enumerate(zip(held_out, sampled, strict=True)):
        days = [day for day, _ in row.columns["facts"]]
        parts = [split_completion(text) for text in texts]
        qualities += [quality(answer, row) for _, answer in parts]
        unfinished += [not text.endswith("<|im_end|>") for text in texts]
        copies += [same for reasoning, answer in parts for same in copied_share(reasoning, answer, days)]
        if number % 2 == 0:
            probabilities, truth = reference_probs(model, tokenizer, row, [reasoning for reasoning, _ in parts])
            sigma = probabilities.std(0, correction=0)
            reflective.append(sigma[truth].mean())
            wording.append(sigma[~truth].mean())
    greedy_scores = [quality(split_completion(texts[0])[1], row) for row, texts in zip(held_out, greedy, strict=True)]
    return Guards(
        greedy_quality=sum(greedy_scores) / len(greedy_scores),
        sampled_quality=sum(qualities) / len(qualities),
        state_copy=sum(copies) / max(1, len(copies)),
        reflective_sigma=float(torch.stack(reflective).mean()),
        wording_sigma=float(torch.stack(wording).mean()),
        unfinished=sum(unfinished) / len(unfinished),
    )
