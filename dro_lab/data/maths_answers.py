"""Final answers of mathematics problems as text: the template they stand in, and where a text's final answer is.

Pure functions; nothing here raises on a model's output. The search for the answer takes time linear in the text;
`cleaned` and what follows it are for texts of at most `MAX_CHARS` characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from dro_lab.errors import UserError

TEMPLATES = {"boxed": "\\boxed{ANS}", "hash": "#### ANS", "plain": "ANS"}
"""The named answer templates; ``ANS`` stands for the answer."""

SLOT = "ANS"
MAX_CHARS = 1000
"""A longer final answer is compared as it stands."""

LINE_CHARS = 2000
"""Of a line without a box, so many last characters are looked at."""

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_ANNOUNCED = re.compile(r"\banswer\b\s*(?:is|:|=)\s*:?", re.IGNORECASE)
_FORMULA = re.compile(r"\$\$([^$]+)\$\$|(?<!\\)\$([^$\n]+)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
# A number as prose holds it: sign, currency, grouped digits, decimals, a fraction, a percent sign.
_NUMBER = re.compile(
    r"(?<![\w.,])[-+−]?\s?(?:\\?\$\s?)?[-−]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))"
    r"(?:\s?/\s?[0-9]+)?(?:\s?\\?%)?"
)
_WORD = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_LATEX_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z*]+\}|\\[A-Za-z]+")
_WITH_UNIT = re.compile(
    r"([-+]?\s?(?:[0-9]{1,99}(?:\.[0-9]{1,99})?|\.[0-9]{1,99}))\s*((?:[A-Za-z]{2,20}[ ./]*){1,3})(?:\^\s*\{?[23]\}?)?"
)
_NOT_UNITS = re.compile(
    r"\b(?:pi|sqrt|sin|cos|tan|log|ln|exp|inf|infinity|and|or|to|mod|base|choose|half|percent|pct|"
    r"dozen|hundred|thousand|million|billion|trillion)\b",
    re.IGNORECASE,
)
_NEGATED = str.maketrans({"−": "-", "–": "-", "\u00a0": " ", "\u202f": " ", "，": ",", "％": "%", "＄": "$", "\0": " "})
_GROUPED = re.compile(r"(?<![\w.])([0-9]{1,3})((?:(?:,|\{,\}|\\,|\\ |\\;|~| )[0-9]{3})+)(?![0-9])")
_GROUPED_BRACED = re.compile(r"(?<![\w.])([0-9]{1,3})((?:(?:\{,\}|\\,)[0-9]{3})+)(?![0-9])")
_PLAIN = re.compile(r"([-+]?)\s?([0-9]{1,1000})(?:\.([0-9]{0,1000}))?|([-+]?)\s?\.([0-9]{1,1000})")
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


# ------------------------------------------------------------------------------------------------ templates


@dataclass(frozen=True, slots=True)
class Template:
    """What stands before and behind the answer in a reference."""

    before: str
    after: str

    def filled(self, answer: str) -> str:
        """The template with the answer put in."""
        return self.before + answer + self.after

    @property
    def own(self) -> bool:
        """Whether it is a user's own text, whose words have to be looked for in an answer."""
        return self.filled(SLOT) not in TEMPLATES.values()


def template(value: object) -> Template:
    """The template of ``dataset.answer_template``: a name among `TEMPLATES`, or a text that holds ANS once.

    Raises:
        UserError: neither.
    """
    text = TEMPLATES.get(value, value) if isinstance(value, str) else ""
    if text.count(SLOT) != 1:
        names = ", ".join(f"{name} ({form})" for name, form in TEMPLATES.items())
        raise UserError(
            f"dataset.answer_template={value}: must be {names}, or a text that holds ANS exactly once. "
            f"Next: e.g. dataset.answer_template=boxed, or 'dataset.answer_template=\"The answer is ANS.\"'."
        )
    before, _, after = text.partition(SLOT)
    return Template(before, after)


# ------------------------------------------------------------------------------------------------ where the answer is


def last_boxed(text: str) -> str | None:
    """The content of the last closed ``\\boxed{...}`` that stands in no other box; None where there is none.

    ``\\fbox`` and ``\\framebox`` are boxes too, and ``\\boxed 5`` boxes what follows up to a blank or a sign that ends
    a formula. Boxes within the content are opened: ``\\boxed{\\boxed{5} + 1}`` holds ``{5} + 1``. A box that is never
    closed is none.
    """
    closing = _closing_braces(text)
    found, end = None, 0
    for box in _BOX.finditer(text):
        start = box.end()
        if box.start() < end:
            continue
        if text[start : start + 1] != "{":
            bare = re.compile(r"[^\s$\\,.;]{1,200}").match(text, start)
            found = bare[0] if bare else found
        elif start in closing:
            end = closing[start]
            found = text[start + 1 : end]
    return None if found is None else _BOX.sub("", found).strip()


def _closing_braces(text: str) -> dict[int, int]:
    """Where each brace that is closed is closed; escaped braces are none."""
    stack, pairs = [], {}
    for brace in _BRACES.finditer(text):
        if brace[0] == "{":
            stack.append(brace.start())
        elif brace[0] == "}" and stack:
            pairs[stack.pop()] = brace.start()
    return pairs


def final_answer(text: str, form: Template | None = None) -> str | None:
    """The part of an answer that is compared with the truth; None where there is none.

    The first of these that is there: what stands in a template of the user's own (its last occurrence); the last box;
    what stands behind the last ``####``; behind the last "answer is" or "answer:" the first formula or number; the last
    line, where all of it is one expression or name, else the last formula or number in it; the last number at all. Of
    several boxed answers the last counts, alone.
    """
    if form is not None and form.own and (inner := _in_template(text, form)):
        return inner
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed or None
    if "####" in text:
        return _line(text.rsplit("####", 1)[1], "first") or None
    announced = list(_ANNOUNCED.finditer(text))
    if announced and (rest := _line(text[announced[-1].end() :], "first")) and (found := _expression(rest, first=True)):
        return found
    numbers = _NUMBER.findall(text[-10 * LINE_CHARS :])
    last = _line(text, "last")
    if numbers and len(last.split()) > 1 and not re.search(r"[0-9\\]", last):
        return numbers[-1].strip()  # "That is all."
    return _expression(last) or (numbers[-1].strip() if numbers else None)


def _in_template(text: str, form: Template) -> str | None:
    before, after = form.before.strip(), form.after.strip()
    if before and before not in text:
        return None
    rest = text.rsplit(before, 1)[1] if before else text
    if after and after in rest:
        rest = rest.split(after, 1)[0] if before else rest.rsplit(after, 1)[0]
    elif not before:
        return None
    inner = _line(rest, "first" if before else "last")
    return last_boxed(inner) or inner or None


def _line(text: str, which: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return (lines[0][:LINE_CHARS] if which == "first" else lines[-1][-LINE_CHARS:]).strip() if lines else ""


def _expression(line: str, *, first: bool = False) -> str | None:
    """The expression of one line: all of it where it reads as one, else its first or last formula or number."""
    line = line.strip().strip("*").strip()
    if is_expression(line):
        return line
    found = [(m.start(), m.end(), next(filter(None, m.groups()))) for m in _FORMULA.finditer(line)]
    found = [(start, end, inner) for start, end, inner in found if is_expression(inner)]
    found += [
        (m.start(), m.end(), m[0])
        for m in _NUMBER.finditer(line)
        if not any(start <= m.start() and m.end() <= end for start, end, _ in found)
    ]
    if not found:
        return None
    return min(found)[2] if first else max(found, key=lambda item: item[1])[2]


def is_expression(line: str) -> bool:
    """Whether a line is one expression, a number with its unit, or a name, and no sentence with an expression in it."""
    bare = _LATEX_COMMAND.sub(" ", _TEXT_COMMAND.sub(" ", line)).strip("$ .")
    words = list(_WORD.finditer(bare))
    if not words:
        return bool(line)
    number = re.search(r"[0-9]", bare)
    return len(words) <= 3 and (number is None or number.start() < words[0].start()) and "=" not in bare


def said_yes_or_no(text: str) -> str | None:
    """The last "yes" or "no" of a text, in lower case."""
    found = _YES_NO.findall(text[-LINE_CHARS:])
    return found[-1].lower() if found else None


# ------------------------------------------------------------------------------------------------ one form


def cleaned(answer: str) -> str:
    """An answer without what changes nothing: dollar signs, spacing commands, thousands separators, a closing full
    stop, ``\\left`` and ``\\right``, stars of emphasis, braces around all of it, and a unit written in plain words."""
    text = answer.translate(_NEGATED).strip()
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])|\\!\s*|\\displaystyle(?![A-Za-z])", "", text)
    text = re.sub(r"^\\[(\[](.*)\\[)\]]$", r"\1", text, flags=re.DOTALL).strip()
    text = re.sub(r"\\?\$", "", text).strip().strip("*=").strip().rstrip(".").rstrip()
    while text.startswith("{") and text.endswith("}") and _closing_braces(text).get(0) == len(text) - 1:
        text = text[1:-1].strip()
    if (words := _TEXT_COMMAND.fullmatch(text)) and re.search(r"[0-9]", words[1]):
        text = words[1].strip()  # \text{5 cm}
    # In (12,102) the comma parts two numbers; only those that LaTeX writes within one number do not.
    grouped = _GROUPED_BRACED if re.search(r"[(\[]|\\\{", text) else _GROUPED
    text = grouped.sub(lambda match: match[1] + re.sub(r"[^0-9]", "", match[2]), text)
    unit = _WITH_UNIT.fullmatch(text)
    return unit[1] if unit and not _NOT_UNITS.search(unit[2]) else text


def plain_number(text: str) -> Fraction | None:
    """The exact value of a text that is one whole or decimal number; None for anything else."""
    match = _PLAIN.fullmatch(text)
    if match is None:
        return None
    sign, whole, decimals = (match[1], match[2], match[3] or "") if match[2] else (match[4], "0", match[5])
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    return -value if sign == "-" else value


def words_of(text: str) -> str | None:
    """The words of an answer that is a text (``\\text{Evelyn}``, ``\\text{(C)}``, yes), in lower case; None where the
    text is no such answer. Only letters count, so ``(C)`` equals ``C``."""
    inner = _TEXT_COMMAND.sub(r"\1", text)
    if re.search(r"[0-9\\^_+*/=<>{}]", inner):
        return None
    words = re.findall(r"[^\W\d_]+", inner.casefold())
    return " ".join(words) or None


def is_text(text: str) -> bool:
    """Whether a true answer is words and no formula: it stands in ``\\text{}``, is yes or no, or a choice's letter."""
    inner = text.strip()
    in_command = _TEXT_COMMAND.fullmatch(inner.strip("()")) is not None
    return words_of(inner) is not None and (
        in_command
        or inner.casefold() in ("yes", "no", "true", "false")
        or re.fullmatch(r"\([A-Z]\)", inner) is not None
    )
