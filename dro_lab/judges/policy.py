"""The judge that asks the frozen reference policy itself, by the probabilities of its next token.

    p(yes) = sum of p over the yes-tokens / sum of p over the yes- and no-tokens

The DRO paper uses no external judge: the reference policy writes the rubrics and verifies them (arXiv 2506.13351).
Reading the next token's probabilities in the place of a sampled word is ours: it costs one forward, knows no sampling
noise, and gives a band in which the verdict is unknown. Comparisons are read from p("A") and p("B") alike.

A small policy is no judge: where the data set has a program for its checks, the metrics say how often they agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dro_lab.checks import flag, number, whole
from dro_lab.errors import UserError
from dro_lab.judges.agreement import Agreement
from dro_lab.judges.common import refuse_unverifiable, say
from dro_lab.judges.fence import CONTROL, literal_tokens
from dro_lab.judges.prompts import check_prompt, pair_prompt
from dro_lab.judges.protocol import NO, UNKNOWN, YES, Pair, Question
from dro_lab.types import Need, Task

NOTE = (
    "judge=policy: verdicts are the reference policy's own opinion of its answers, and a small policy is no judge: "
    "`python -m dro_lab.judge_audit judge=policy` measures what its verdicts are worth"
)
SMALL = 300_000_000
"""Parameters below which the run says that this policy is no judge (our choice)."""

Side = tuple[int, ...]


class PolicyJudge:
    """Asks the policy that `attach` gives it; before that it knows nothing.

    Args:
        task: for agreement with its program.
        threshold: p(yes) from which on the verdict is yes.
        unknown_band: verdicts with p(yes) within threshold ± half of it are unknown; comparisons likewise ties around
            one half.
        show_query: whether the judge sees the query.
        tokens_per_batch: padded tokens of one forward.
        tags: the reasoning's opening and closing tag.
    """

    name = "policy"
    asks_reference = True

    def __init__(
        self,
        task: Task,
        *,
        threshold: float,
        unknown_band: float,
        show_query: bool,
        tokens_per_batch: int,
        tags: tuple[str, str],
    ) -> None:
        self._threshold, self._half, self._show_query = threshold, unknown_band / 2, show_query
        self._tokens_per_batch, self._tags = tokens_per_batch, tags
        self._agreement = Agreement(task)
        self._counts = dict.fromkeys(("verdicts", "unknown_verdicts", "comparisons", "unknown_comparisons"), 0.0)
        self._counts["too_long"] = 0.0

    def attach(self, *, policy: Any, tokenizer: Any, chat_template_kwargs: Mapping[str, Any]) -> None:
        """Take the frozen reference policy.

        Raises:
            UserError: its tokenizer begins yes and no, or A and B, with the same tokens.
        """
        from dro_lab.models import context_length

        self._policy, self._tokenizer = policy, tokenizer
        self._kwargs = {**chat_template_kwargs, "enable_thinking": False}
        self._control = [CONTROL, *literal_tokens(tokenizer.get_added_vocab())]
        self._context = context_length(policy.config)
        self.yes_no = sides(tokenizer, ("yes", "Yes", "YES"), ("no", "No", "NO"))
        self.first_second = sides(tokenizer, ("A",), ("B",))
        size = sum(weight.numel() for weight in policy.parameters())
        if size < SMALL:
            say(f"judge=policy: this policy has {size / 1e6:.2g} million parameters and is no judge")

    def prompts(self, items: Sequence[Question] | Sequence[Pair]) -> list[list[int]]:
        """Token ids of what the policy is asked about each item, thinking switched off."""
        if not items:  # a step whose queries have no rubric
            return []
        rendered = self._tokenizer.apply_chat_template(
            [[{"role": "user", "content": self._text(item)}] for item in items],
            add_generation_prompt=True,
            tokenize=False,
            **self._kwargs,
        )
        closed = [self._thought_out(text) for text in rendered]
        return self._tokenizer(closed, add_special_tokens=False)["input_ids"] if closed else []

    def _text(self, item: Question | Pair) -> str:
        if isinstance(item, Pair):
            return pair_prompt(item, reply="word", control=self._control).text
        return check_prompt(item, reply="word", show_query=self._show_query, control=self._control).text

    def _thought_out(self, rendered: str) -> str:
        """With the reasoning closed, whatever the chat template made of the switch."""
        from dro_lab.scoring.split import ReasoningFormat, thinking_mode

        opening, closing = self._tags
        mode = thinking_mode(rendered, ReasoningFormat(open=opening, close=closing))
        if mode == "open":
            return f"{rendered.rstrip()}\n\n{closing}\n\n"
        if mode == "absent" and {opening, closing} <= set(self._tokenizer.get_added_vocab()):
            return f"{rendered}{opening}\n\n{closing}\n\n"
        return rendered

    def shares(self, prompts: Sequence[Sequence[int]], pair: tuple[Side, Side]) -> Tensor:
        """(prompts,) float32: the first side's probability as a share of both sides'; nan for a prompt that is longer
        than the policy's context."""
        from dro_lab.scoring.next_token import next_token_logps

        shares = torch.full((len(prompts),), torch.nan)
        fitting = [number for number, prompt in enumerate(prompts) if len(prompt) < self._context]
        self._counts["too_long"] += len(prompts) - len(fitting)
        if fitting:
            first, second = pair
            logps = next_token_logps(
                self._policy,
                [prompts[number] for number in fitting],
                [*first, *second],
                tokens_per_batch=self._tokens_per_batch,
            )
            ours, theirs = (part.logsumexp(1) for part in logps.split([len(first), len(second)], dim=1))
            shares[fitting] = torch.sigmoid(ours - theirs)
        return shares

    def verdicts(self, questions: Sequence[Question]) -> list[int]:
        """Yes from the threshold on, unknown inside the band around it."""
        found = [self._verdict(p) for p in self.shares(self.prompts(questions), self.yes_no).tolist()]
        self._agreement.add(questions, found)
        self._counts["verdicts"] += len(found)
        self._counts["unknown_verdicts"] += found.count(UNKNOWN)
        return found

    def _verdict(self, share: float) -> int:
        if math.isnan(share) or abs(share - self._threshold) < self._half:
            return UNKNOWN
        return YES if share >= self._threshold else NO

    def preferences(self, pairs: Sequence[Pair]) -> list[float]:
        """1 or 0 by the likelier letter; a tie inside the band around one half."""
        found = [self._preference(p) for p in self.shares(self.prompts(pairs), self.first_second).tolist()]
        self._counts["comparisons"] += len(found)
        self._counts["unknown_comparisons"] += sum(map(math.isnan, found))
        return found

    def _preference(self, share: float) -> float:
        if math.isnan(share):
            return math.nan
        return 0.5 if abs(share - 0.5) < self._half or share == 0.5 else float(share > 0.5)

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on."""
        return {"counts": self._counts, "agreement": self._agreement.carried()}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self._counts = dict(carried["counts"])
        self._agreement.resume(carried["agreement"])

    def metrics(self) -> Mapping[str, float]:
        return {**self._counts, **self._agreement.metrics()}


def sides(tokenizer: Any, first: Sequence[str], second: Sequence[str]) -> tuple[Side, Side]:
    """The tokens that stand for each of two words, in several spellings, with and without a space before.

    Whole-word tokens where both words have one; else the first token of each spelling. A token of both sides counts
    for neither.

    Raises:
        UserError: a side is left with none.
    """

    def spelled(words: Sequence[str], *, whole_word: bool) -> set[int]:
        ids = [tokenizer(space + word, add_special_tokens=False)["input_ids"] for word in words for space in ("", " ")]
        return {found[0] for found in ids if found and (len(found) == 1 or not whole_word)}

    for whole_word in (True, False):
        ours, theirs = spelled(first, whole_word=whole_word), spelled(second, whole_word=whole_word)
        if ours - theirs and theirs - ours:
            return tuple(sorted(ours - theirs)), tuple(sorted(theirs - ours))
    raise UserError(
        f"judge=policy: the policy's tokenizer begins {first[0]!r} and {second[0]!r} with the same tokens, so its next "
        "token says nothing; choose judge=exact or judge=openai, or another model"
    )


def check(
    *,
    threshold: float = 0.5,
    unknown_band: float = 0.0,
    show_query: bool = True,
    tokens_per_batch: int = 2048,
    reasoning_open: str = "<think>",
    reasoning_close: str = "</think>",
) -> None:
    """Raises `UserError` for values that make no sense."""
    number("judge.threshold", threshold, low=0.0, high=1.0, todo="0.5 is the default")
    number("judge.unknown_band", unknown_band, low=0.0, high=1.0, todo="0 decides always, 0.2 leaves out close calls")
    flag("judge.show_query", show_query, todo="true is the default")
    whole("judge.tokens_per_batch", tokens_per_batch, low=1, todo="2048 suits a CPU")


def prepare(task: Task, **_: Any) -> Task:
    """Whoever reads the numbers learns whose opinion they are."""
    return replace(task, notes=(*task.notes, NOTE))


def policy(
    task: Task,
    *,
    needs: Iterable[Need],
    threshold: float = 0.5,
    unknown_band: float = 0.0,
    show_query: bool = True,
    tokens_per_batch: int = 2048,
    reasoning_open: str = "<think>",
    reasoning_close: str = "</think>",
) -> PolicyJudge:
    """The reference policy as a judge.

    Raises:
        UserError: something needs the verifier and the data set has no metric.
    """
    refuse_unverifiable(task, needs, judge="policy")
    return PolicyJudge(
        task,
        threshold=threshold,
        unknown_band=unknown_band,
        show_query=show_query,
        tokens_per_batch=tokens_per_batch,
        tags=(reasoning_open, reasoning_close),
    )
