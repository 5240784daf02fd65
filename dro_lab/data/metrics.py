"""Quality of an answer against a row, in [0, 1]. Nothing here raises on model output; nan = cannot be judged."""

from __future__ import annotations

import math
import re
from difflib import SequenceMatcher

from dro_lab.types import Row

TOLERANCE = 0.02

# Sign, currency, digits with or without thousands commas, decimals, exponent, percent sign.
_NUMBER = re.compile(
    r"(?<![\w.,])(?P<sign>[-+−–]?)(?:(?:US)?(?P<currency>[$€£])\s?(?P<inner>[-−–]?)\s?)?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?P<exponent>[eE][-+]?[0-9]{1,3})?(?P<percent>\s?(?:%|percent\b))?"
)
# All of a text is one negative number: "(12.4)", "$ ( 12.4 )", "- 12.4 %".
_ALONE = re.compile(r"\s*\$?\s*(?:\(\s*\$?\s*[0-9.,]+\s*%?\s*\)\s*%?|[-−–]\s+\$?\s*[0-9.,]+\s*%?)\s*\.?\s*")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_ANNOUNCED = re.compile(r"\banswer\b\s*(?:is|:|=)", re.IGNORECASE)
_WORDS = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def reference_overlap(answer: str, row: Row) -> float:
    """Surface similarity to the reference: ``2 M / (n + m)``, M = words in matching blocks of the two word sequences.

    Words are runs of letters and digits or single other signs, in lower case; the blocks are difflib's
    (Ratcliff/Obershelp). It says how much of the reference's wording comes back in order. It is not a judgement of the
    revision: a copy of the unrevised paragraph scores high, a good revision in other words scores low. The DRO paper
    judges long-form answers by win rate against the base policy instead.
    """
    given, wanted = _tokens(answer), _tokens(row.reference)
    if not wanted:
        return math.nan
    return SequenceMatcher(None, given, wanted, autojunk=False).ratio()


def exact_match(answer: str, row: Row) -> float:
    """1 where answer and reference are the same text up to case and runs of white space, else 0."""
    return float(" ".join(answer.split()).casefold() == " ".join(row.reference.split()).casefold())


def numeric_accuracy(answer: str, row: Row) -> float:
    """FinQA's free-text accuracy: 1 where the answer's number x is within 2% of ``row.columns["exe_ans"]``, else 0.

    The percent forms x, x/100 and 100x all count; the sign must agree; a true value of 0 takes |x| <= 1e-5. "yes" and
    "no" must be equal: the answer may hold one of the two words only. Which number of a longer answer counts:
    `final_number`. nan where the row has no judgeable truth. Source: DRO (arXiv 2506.13351), FinQA accuracy with 2%
    tolerance; the rule for picking the number is ours.
    """
    truth = row.columns.get("exe_ans")
    if isinstance(truth, str):
        if truth not in ("yes", "no"):
            return math.nan
        return float({word.lower() for word in _WORDS.findall(_final_part(answer))} == {truth})
    if not isinstance(truth, int | float) or isinstance(truth, bool) or not math.isfinite(truth):
        return math.nan
    value = final_number(answer)
    return 0.0 if value is None else float(agrees(value, float(truth)))


def agrees(value: float, truth: float) -> bool:
    """Whether x, x/100 or 100x lies within 2% of the truth (within 1e-5 of a truth of 0)."""
    allowed = TOLERANCE * abs(truth) if truth else 1e-5
    return any(abs(form - truth) <= allowed * (1 + 1e-9) for form in (value, value / 100, value * 100))


def final_number(text: str) -> float | None:
    """The number that a free-text answer ends on, as written ("34.7%" is 34.7, "$1.3 million" is 1.3), or None.

    Looked for in the last ``\\boxed{}``, else behind the last "answer is" or "answer:" if a number stands there, else
    in the whole text. There the last number counts, where bare years (1900 to 2099) are passed over as long as another
    number is left. "- 5" within a longer text is a list item, not a negative number; alone it is negative, and so is a
    text that is one number in parentheses, as in accounting.
    """
    part = _final_part(text)
    found = list(_NUMBER.finditer(part))
    if not found:
        return None
    plain = [match for match in found if not _is_year(match)]
    match = (plain or found)[-1]
    number = float(match["digits"].replace(",", "") + (match["exponent"] or ""))
    if not math.isfinite(number):
        return None
    negative = match["sign"] in ("-", "−", "–") or bool(match["inner"])
    alone = len(found) == 1 and _ALONE.fullmatch(part) is not None
    return -number if negative or alone else number


def _final_part(text: str) -> str:
    boxed = _BOXED.findall(text)
    if boxed:
        return str(boxed[-1]).replace("\\%", "%").replace("\\$", "$")
    announced = list(_ANNOUNCED.finditer(text))
    if announced:
        rest = text[announced[-1].end() :]
        if _NUMBER.search(rest) or _WORDS.search(rest):
            return rest
    return text


def _is_year(match: re.Match[str]) -> bool:
    bare = not (match["sign"] or match["currency"] or match["inner"] or match["exponent"] or match["percent"])
    return bare and re.fullmatch(r"(?:19|20)[0-9]{2}", match["digits"]) is not None


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())
