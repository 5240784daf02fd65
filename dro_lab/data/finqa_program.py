"""FinQA's program language: reading, running and grading programs such as ``subtract(5829, 5735), divide(#0, 5735)``.

A program is a list of steps, each one operation on two arguments:

- ``add subtract multiply divide exp greater``: an argument is a number ("5829", "$ 12", "36%", "1,234.5"), a constant
  (``const_100``, ``const_m1`` = -1) or the result of an earlier step (``#0`` is the first); ``greater`` gives yes or
  no;
- ``table_max table_min table_sum table_average``: the first argument names a row of the table by its first cell, the
  second (``none``) is not read. Of a cell counts what stands before the first "(": "-8683 ( 8683 )" is -8683.

The last step's result is the answer, rounded to 5 places; *execution accuracy* asks whether it equals ``exe_ans``.
Source: Chen et al., "FinQA" (EMNLP 2021), section 4, and the behaviour of its published evaluator. Of two rows with one
name the last counts, as there. Deviations: row names may hold commas and brackets (its reader cuts such names apart and
calls the program invalid); a result that is no finite real number is an error, and so are words that only Python takes
for numbers ("nan", "1_000").
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ARITHMETIC = ("add", "subtract", "multiply", "divide", "exp", "greater")
TABLE = ("table_max", "table_min", "table_sum", "table_average")
PLACES = 5
LONGEST = 500  # characters of a step's arguments: a policy that repeats "add(" must not cost quadratic time

Table = Sequence[Sequence[str]]
Value = float | str
"""A finite number, or "yes" or "no"."""

_START = re.compile(rf"\b({'|'.join((*TABLE, *ARITHMETIC))})\s*\(")
_BETWEEN = re.compile(r"\s*\)\s*,\s*")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


class ProgramError(ValueError):
    """The text is no program, or the program cannot be run; says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation with its two arguments as written."""

    operation: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.operation}({self.first}, {self.second})"


def parse(program: str) -> tuple[Step, ...]:
    """The steps of a program.

    Raises:
        ProgramError: an unknown operation, a missing bracket or argument, or text between steps.
    """
    text = program.strip()
    found = _steps(text, 0)
    if not found:
        raise ProgramError(f"{_short(text)!r} does not begin with an operation ({', '.join((*ARITHMETIC, *TABLE))})")
    steps, end = found
    if end != len(text):
        raise ProgramError(f"after step {len(steps)} stands {_short(text[end:])!r}, expected `, operation(a, b)`")
    return steps


def find_program(text: str) -> str | None:
    """The last program that stands in a text, or None."""
    last, place = None, 0
    while match := _START.search(text, place):
        found = _steps(text, match.start())
        place = match.end()
        if found:
            last = ", ".join(map(str, found[0]))
            place = found[1]
    return last


def execute(program: str | Sequence[Step], table: Table = ()) -> Value:
    """The result of the last step, rounded to 5 places, or "yes" or "no".

    Args:
        program: the text, or its steps.
        table: the row's table; a row's name is its first cell.

    Raises:
        ProgramError: as `parse`; or an argument is no number, a step is referred to before it ran, a row is not in the
            table or holds other things than numbers, or a result is not a finite real number.
    """
    rows = {line[0].strip(): line[1:] for line in table if line}
    results: list[Value] = []
    for step in parse(program) if isinstance(program, str) else program:
        results.append(_run(step, results, rows))
    last = results[-1]
    return last if isinstance(last, str) else round(last, PLACES)


def execution_match(program: str | None, table: Table, truth: Value) -> bool:
    """Whether the program runs and gives exactly the truth, both rounded to 5 places. Never raises."""
    if program is None:
        return False
    try:
        result = execute(program, table)
    except ProgramError:
        return False
    if isinstance(result, str) or isinstance(truth, str):
        return result == truth
    return result == round(truth, PLACES)


def number(text: str) -> float | None:
    """A number as programs and tables write it: "1,234", "$ 12", "36%" (0.36), "const_100", "const_m1" (-1)."""
    plain = text.replace(",", "").replace("$", "").strip()
    if plain.startswith("const_"):
        plain = re.sub(r"^m", "-", plain.removeprefix("const_"))
    percent = "%" in plain
    plain = plain.replace("%", "").strip()
    if not _NUMBER.fullmatch(plain):
        return None
    value = float(plain)
    if not math.isfinite(value):
        return None
    return value / 100.0 if percent else value


def _steps(text: str, start: int) -> tuple[tuple[Step, ...], int] | None:
    """The steps that stand at ``start`` one behind the other, and where they end."""
    steps: list[Step] = []
    end = start
    place: int | None = start
    while place is not None and (match := _START.match(text, place)):
        closing = _closing(text, match.end())
        arguments = text[match.end() : closing]
        first, comma, second = arguments.rpartition(", " if ", " in arguments else ",")
        if closing < 0 or not comma or not first.strip() or not second.strip():
            break
        steps.append(Step(match[1], first.strip(), second.strip()))
        end = closing + 1
        between = _BETWEEN.match(text, closing)
        place = between.end() if between else None
    return (tuple(steps), end) if steps else None


def _closing(text: str, start: int) -> int:
    """Where the bracket closes that was opened before ``start``; -1 where it does not within `LONGEST` characters."""
    depth = 1
    for place in range(start, min(len(text), start + LONGEST)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return -1


def _run(step: Step, results: Sequence[Value], rows: Mapping[str, Sequence[str]]) -> Value:
    if step.operation in TABLE:
        cells = rows.get(step.first)
        if cells is None:
            raise ProgramError(f"{step}: no row of the table is called {step.first!r}")
        values = [number(cell.split("(")[0]) for cell in cells]
        if not values or None in values:
            raise ProgramError(f"{step}: the row holds {_short(str(list(cells)))}, not only numbers")
        known = [value for value in values if value is not None]
        return _finite(step, _OF_A_ROW[step.operation](known))
    first, second = (_argument(step, text, results) for text in (step.first, step.second))
    if step.operation == "greater":
        return "yes" if first > second else "no"
    try:
        match step.operation:
            case "add":
                return _finite(step, first + second)
            case "subtract":
                return _finite(step, first - second)
            case "multiply":
                return _finite(step, first * second)
            case "divide":
                return _finite(step, first / second)
            case _:
                return _finite(step, first**second)
    except (ZeroDivisionError, OverflowError) as error:
        raise ProgramError(f"{step}: {error}") from error


def _argument(step: Step, text: str, results: Sequence[Value]) -> float:
    if reference := re.fullmatch(r"#\s*([0-9]+)", text):
        place = int(reference[1])
        if place >= len(results):
            raise ProgramError(f"{step}: {text} refers to a step that has not run (so far {len(results)})")
        value = results[place]
        if isinstance(value, str):
            raise ProgramError(f"{step}: {text} is {value!r}, not a number")
        return value
    found = number(text)
    if found is None:
        raise ProgramError(f"{step}: {text!r} is not a number, a constant or #k")
    return found


def _finite(step: Step, value: object) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        raise ProgramError(f"{step}: {value!r} is not a finite real number")
    return value


_OF_A_ROW: Mapping[str, Callable[[Sequence[float]], float]] = {
    "table_max": max,
    "table_min": min,
    "table_sum": sum,
    "table_average": lambda values: sum(values) / len(values),
}


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
