"""Who writes rubrics: a model at an endpoint, the reference policy, or nobody (the rows carry them already)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dro_lab.rubrics.checks import checks_of
from dro_lab.rubrics.writing import RESPONSE_FORMAT, VERSION, Written, parse, writing_prompt
from dro_lab.types import Row

NO_REPLY = None
"""In the place of a rubric: nothing came back, so nothing is kept and a later run asks again."""


class Writer(Protocol):
    """Writes a rubric for each row."""

    template: str  # version of what it is asked

    def write(self, rows: Sequence[Row]) -> list[Written | None]:
        """One rubric a row, in order; None where there was no reply."""
        ...


class FromRows:
    """The rubric that the data set itself brings."""

    template = "rows-1"

    def write(self, rows: Sequence[Row]) -> list[Written | None]:
        return [Written(checks_of(row.columns), (), "" if checks_of(row.columns) else "no rubric") for row in rows]


class FromEndpoint:
    """A model behind an OpenAI-compatible endpoint: the judge's own, with its limits, cache and counts.

    Args:
        endpoint: `dro_lab.judges.endpoint.Endpoint`.
        max_tokens: of a reply.
    """

    template = VERSION

    def __init__(self, endpoint: Any, *, max_tokens: int) -> None:
        self._endpoint, self._max_tokens = endpoint, max_tokens

    def write(self, rows: Sequence[Row]) -> list[Written | None]:
        from dro_lab.judges.endpoint import Call

        limit = "max_completion_tokens" if "max_completion_tokens" in self._endpoint.settings.options else "max_tokens"
        calls = [
            Call(
                template=VERSION,
                text=writing_prompt(row),
                response_format=RESPONSE_FORMAT,
                options={limit: self._max_tokens},
            )
            for row in rows
        ]
        return [_written(reply) for reply in self._endpoint.ask(calls)]


def _written(reply: Any) -> Written | None:
    if reply.failure == "refusal":
        return Written(malformed="the model refused")
    return NO_REPLY if reply.text is None else parse(reply.text)


class FromPolicy:
    """The reference policy, greedily. A tiny policy writes nothing that can be read."""

    template = VERSION

    def __init__(
        self,
        policy: Any,
        tokenizer: Any,
        *,
        chat_template_kwargs: Mapping[str, Any],
        context: int,
        max_tokens: int,
        batch: int = 8,
    ) -> None:
        self._policy, self._tokenizer, self._kwargs = policy, tokenizer, dict(chat_template_kwargs)
        self._context, self._max_tokens, self._batch = context, max_tokens, batch

    def write(self, rows: Sequence[Row]) -> list[Written | None]:
        texts: list[Written | None] = []
        for start in range(0, len(rows), self._batch):
            texts += self._some(rows[start : start + self._batch])
        return texts

    def _some(self, rows: Sequence[Row]) -> list[Written | None]:
        import torch

        from dro_lab.judges.fence import CONTROL, literal_tokens

        control = [CONTROL, *literal_tokens(self._tokenizer.get_added_vocab())]
        rendered = self._tokenizer.apply_chat_template(
            [[{"role": "user", "content": writing_prompt(row, control=control)}] for row in rows],
            add_generation_prompt=True,
            tokenize=False,
            **self._kwargs,
        )
        ids = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        fitting = [number for number, prompt in enumerate(ids) if len(prompt) + 1 < self._context]
        written: list[Written | None] = [Written(malformed="the prompt exceeds the policy's context")] * len(rows)
        if not fitting:
            return written
        padded = self._tokenizer.pad(
            {"input_ids": [ids[number] for number in fitting]}, padding_side="left", return_tensors="pt"
        ).to(self._policy.device)
        width = padded["input_ids"].shape[1]
        with torch.no_grad():
            made = self._policy.generate(
                **padded,
                do_sample=False,
                max_new_tokens=min(self._max_tokens, self._context - width),
                pad_token_id=self._tokenizer.pad_token_id,
            )
        for number, tokens in zip(fitting, made[:, width:], strict=True):
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            written[number] = parse(text.rsplit("</think>", 1)[-1])
        return written
