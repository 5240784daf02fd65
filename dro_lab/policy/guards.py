"""What a warm start must have reached: a warm start can fail silently, and then every reward looks bad.

The figures are measured without `dro_lab.scoring`, by sampling, splitting and one plain forward pass written out here.
They say whether the policy is fit for the scorer and the splitter, so they must not lean on them: a fault in either
would pass a failed warm start, or refuse a good one. This code knows only the twins' layout and serves no training run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dro_lab.data.twins.grammar import CLOSING
from dro_lab.data.twins.load import make_rows
from dro_lab.data.twins.protocol import Twin
from dro_lab.errors import UserError
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Row


@dataclass(frozen=True, slots=True)
class Guards:
    """Figures of a warm-started policy on held-out rows.

    ``greedy_quality``: of greedy answers. ``sampled_quality``: of answers sampled at temperature 1.
    ``state_copy``: share of the results in a sampled reasoning that its own answer states too. ``reflective_sigma``:
    mean over rows and reflective reference tokens (those that depend on the reasoning's result) of the standard
    deviation over the row's rollouts of the token's probability. ``wording_sigma``: the same of all other reference
    tokens. ``unfinished``: share of sampled completions without end of sequence within ``Twin.max_completion`` tokens.
    ``checks_met``: share of the rubric's checks that sampled answers meet (0 where rows carry no rubric).
    """

    greedy_quality: float
    sampled_quality: float
    state_copy: float
    reflective_sigma: float
    wording_sigma: float
    unfinished: float
    checks_met: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


LIMITS = {
    "greedy_quality": (0.8, 1.0),
    "sampled_quality": (0.15, 0.5),
    "state_copy": (0.9, 1.0),
    "reflective_sigma": (0.3, 1.0),
    "unfinished": (0.0, 0.05),
}


def limits_of(twin: Twin) -> dict[str, tuple[float, float]]:
    """`LIMITS`, with the twin's own where it has some."""
    own: Mapping[str, tuple[float, float]] = getattr(twin, "limits", {})
    return {**LIMITS, **own}


def check_guards(guards: Guards, limits: Mapping[str, tuple[float, float]] = LIMITS) -> None:
    """Raise where a figure is out of its limits, naming all that are.

    Raises:
        UserError: the warm start failed.
    """
    failed = [
        f"{name} = {getattr(guards, name):.3f}, must lie in [{low}, {high}]"
        for name, (low, high) in limits.items()
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
    max_completion: int,
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
            max_new_tokens=max_completion,
            pad_token_id=tokenizer.pad_token_id,
            # 0: the whole distribution (the library's default keeps 50 tokens)
            **({"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}),
        )
    texts = [str(tokenizer.decode(row)).replace(str(tokenizer.pad_token), "") for row in out[:, ids.shape[1] :]]
    return [texts[start : start + rollouts] for start in range(0, len(texts), rollouts)]


def split_completion(text: str, answer_marker: str = "") -> tuple[str, str]:
    """Reasoning and answer of a completion whose prompt has opened the thinking block."""
    reasoning, _, answer = text.partition("</think>")
    answer = answer.strip().removesuffix("<|im_end|>")
    return reasoning, answer.removeprefix(answer_marker.strip()).strip() if answer_marker else answer


@torch.no_grad()
def reference_probs(
    model: Any, tokenizer: PreTrainedTokenizerBase, row: Row, reasonings: Sequence[str], answer_marker: str = ""
) -> tuple[Tensor, Tensor]:
    """Probability of every reference token after each reasoning, ``(G, R)``, and which are reflective, ``(R,)``."""
    prompt = prompt_text(tokenizer, row)
    encoded = tokenizer(row.reference, add_special_tokens=False, return_offsets_mapping=True)
    reference, offsets = encoded["input_ids"], encoded["offset_mapping"]
    spans = row.columns["truth_spans"]
    truth = torch.tensor([any(low < stop and start < high for low, high in spans) for start, stop in offsets])
    probabilities = []
    for reasoning in reasonings:
        head = tokenizer.encode(f"{prompt}{reasoning}</think>{CLOSING}{answer_marker}", add_special_tokens=False)
        logits = model(input_ids=torch.tensor([head + reference])).logits[0, len(head) - 1 : -1].float()
        probabilities.append(logits.softmax(-1).gather(1, torch.tensor(reference)[:, None])[:, 0])
    return torch.stack(probabilities), truth


def checks_met(twin: Twin, row: Row, answer: str) -> list[bool]:
    """For every check of the row's rubric that the twin's program decides: does the answer meet it?"""
    asked = [(check, twin.decide(answer, row, check)) for check in checks_of(row.columns)]
    return [(verdict == 1) == (check.expect == "yes") for check, verdict in asked if verdict >= 0]


def measure(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    twin: Twin,
    knobs: Any,
    *,
    rows: int = 64,
    rollouts: int = 8,
    seed: int = 0,
    split: str = "validation",
) -> Guards:
    """The guard figures on ``rows`` held-out rows with ``rollouts`` samples each (every second row for the sigmas)."""
    model.eval()
    marker = twin.answer_marker
    held_out = make_rows(twin, knobs, split, rows, seed=seed)
    draw = partial(sample, model, tokenizer, held_out, max_completion=twin.max_completion, seed=seed)
    greedy, sampled = draw(rollouts=1, greedy=True), draw(rollouts=rollouts)
    qualities, copies, met, reflective, wording, unfinished = [], [], [], [], [], []
    for number, (row, texts) in enumerate(zip(held_out, sampled, strict=True)):
        parts = [split_completion(text, marker) for text in texts]
        qualities += [twin.quality(answer, row) for _, answer in parts]
        unfinished += [not text.endswith("<|im_end|>") for text in texts]
        copies += [same for reasoning, answer in parts for same in twin.copied(reasoning, answer, row)]
        met += [one for _, answer in parts for one in checks_met(twin, row, answer)]
        if number % 2 == 0:
            reasonings = [reasoning for reasoning, _ in parts]
            probabilities, truth = reference_probs(model, tokenizer, row, reasonings, marker)
            sigma = probabilities.std(0, correction=0)
            reflective.append(sigma[truth].mean())
            wording.append(sigma[~truth].mean())
    greedy_scores = [
        twin.quality(split_completion(texts[0], marker)[1], row) for row, texts in zip(held_out, greedy, strict=True)
    ]
    return Guards(
        greedy_quality=sum(greedy_scores) / len(greedy_scores),
        sampled_quality=sum(qualities) / len(qualities),
        state_copy=sum(copies) / max(1, len(copies)),
        reflective_sigma=float(torch.stack(reflective).nanmean().nan_to_num()),
        wording_sigma=float(torch.stack(wording).nanmean().nan_to_num()),
        unfinished=sum(unfinished) / len(unfinished),
        checks_met=sum(met) / max(1, len(met)),
    )
