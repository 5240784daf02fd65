"""FinQA's pages and answers as text: pure functions, used by `dro_lab.data.finqa`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from dro_lab.data.metrics import agrees, final_number

_WHOLE_NUMBER = re.compile(
    r"\(?\s*[-+−]?\s*\$?\s*[-−]?\s*(?:[0-9][0-9,]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*%?\s*\)?"
)


def table_text(table: Sequence[Sequence[str]]) -> str:
    """One line a row, cells separated by " | "."""
    return "\n".join(" | ".join(cell.strip() for cell in row) for row in table)


def page_prompt(
    pre: Sequence[str], table: Sequence[Sequence[str]], post: Sequence[str], question: str, *, limit: int | None = None
) -> tuple[str, bool]:
    """The user message (text before, table, text after, question) and whether text was cut.

    With a ``limit`` in characters, sentences leave one by one, always the one farthest from the table (of two equally
    far the one after it), until the message fits or no text is left. Table and question stay whole.
    """
    before, after = [s.strip() for s in pre if s.strip()], [s.strip() for s in post if s.strip()]
    cut = False
    while limit is not None and (before or after) and len(_message(before, table, after, question)) > limit:
        cut = True
        if len(after) >= len(before):
            after.pop()
        else:
            before.pop(0)
    return _message(before, table, after, question), cut


def _message(before: Sequence[str], table: Sequence[Sequence[str]], after: Sequence[str], question: str) -> str:
    parts = (" ".join(before), table_text(table), " ".join(after), f"Question: {question.strip()}")
    return "\n\n".join(part for part in parts if part)


def clean_answer(answer: object) -> str:
    """The annotator's answer without the stray escapes of the published files ("4.9\\\\n" is "4.9")."""
    text = str(answer) if isinstance(answer, str | int | float) and not isinstance(answer, bool) else ""
    return re.sub(r"\\+n", " ", text).strip()


def true_value(value: object) -> float | str | None:
    """The truth as the metric takes it: a finite number, "yes" or "no"; None where the value is none of them.

    A text counts where all of it is one number; a percent sign divides by 100, as FinQA's own reader does.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    text = clean_answer(value).lower()
    if text in ("yes", "no"):
        return text
    if not _WHOLE_NUMBER.fullmatch(text):
        return None
    number = final_number(text)
    return number / 100 if number is not None and "%" in text else number


def agreed_reference(answer: str, truth: float | str | None) -> str:
    """The reference text: the annotator's answer where it agrees with the truth under the metric, else the truth."""
    if truth is None:
        return answer
    if isinstance(truth, str):
        return truth
    number = final_number(answer) if answer else None
    if number is not None and agrees(number, truth):
        return answer
    short = f"{truth:.5f}".rstrip("0").rstrip(".")
    return short if float(short) == truth else repr(truth)
