"""RaR-Medicine's rubric items as checks: which ten are kept, and what a good answer gets on a pitfall.

An item is ``{title, description, weight}``; its description opens with its category: "Essential Criteria:",
"Important Criteria:", "Optional Criteria:" (positive weights) or "Pitfall Criteria:" (negative weights). A pitfall's
statement names the fault in most items ("Does not mention X", "Recommends Y": a good answer gets no) and its avoidance
in others ("Avoids Y", "Does not confuse X with Y": a good answer gets yes), always with a negative weight: the wording
decides, by `pitfall_expects`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dro_lab.types import MAX_CHECKS, Check

ASKED = "Is this true of the answer: {}"

_CATEGORY = re.compile(r"^\s*(essential|important|optional|pitfall)\s+criteri(?:a|on)\s*:\s*", re.IGNORECASE)
_SUBJECT = r"^(?:the\s+)?(?:(?:answer|response|explanation|text|it)\s+)?"
_NOT = r"(?:does|do|is)(?:\s*not|n[’']t)\s+"
_WRONG = (
    r"(?:incorrect|mistaken|erroneous|wrong|false(?!\s+(?:posi|nega)tive)|inaccurate|unnecessar|premature|inappropriat|"
    r"irrelevant|unrelated|unsupported|invalid|harmful|unsafe|misleading|contradictory|overly|solely|improper)\w*"
)
_FAULT = (
    r"(?:mis\w+|over(?:look|stat|estimat|emphasi|simplif|generali|diagnos|treat)\w*|under(?:stat|estimat)\w*|"
    r"confus\w+|conflat\w+|mix(?:es|ing)?\b|contradict\w*|invent\w*|fabricat\w+|hallucinat\w+|ignor\w+|neglect\w*|omit\w*|"
    r"fail\w*|forget\w*|exaggerat\w+|dismiss\w*|assum\w+|imply|implies|jump\w*|rely|relies|attribut\w+|speculat\w+|"
    r"introduc\w+|claim\w*)"
)
_PUT_FORWARD = (
    r"(?:includ|provid|giv|offer|mak|stat|recommend|suggest|contain|add|us|draw|present|propos|prescrib|order)\w*"
)
_AS_A_RULE = re.compile(_SUBJECT + r"(?:must|should|may|can)(?:\s*not|n[’']t)?\b", re.IGNORECASE)
_AVOIDS = re.compile(
    _SUBJECT + r"(?:(?:clearly|explicitly)\s+)?(?:avoid|refrain|abstain|steer|guard|never)\w*\b", re.IGNORECASE
)
_DONE_RIGHT = re.compile(_SUBJECT + r"(?:correct|accurate|appropriate|proper)ly\b", re.IGNORECASE)
_NO_FAULT = re.compile(
    _SUBJECT + _NOT + rf"(?:(?:\w+ly\s+)?{_FAULT}|{_WRONG}|{_PUT_FORWARD}\s+(?:an?\s+|any\s+)?{_WRONG})", re.IGNORECASE
)


def pitfall_expects(statement: str) -> Literal["yes", "no"]:
    """What a good answer gets on a pitfall's statement (its category taken off).

    ``yes`` where the statement describes what a good answer does:

    1. it avoids, refrains from, never does something ("Avoids recommending X");
    2. it is put as a rule or as done right ("Should not recommend X", "Correctly distinguishes X from Y");
    3. it denies a fault ("Does not confuse X with Y", "Does not incorrectly state X", "Does not include irrelevant X").

    ``no`` for all else: a fault that is stated ("Recommends X", "Fails to mention X"), and the denial of something that
    is no fault, which is an omission ("Does not mention X", "Does not recommend X"). The rule is ours: the data set
    does not say which wording an item has, and a rule on words errs on some (validate the rubrics on the references).
    """
    text = " ".join(statement.split())
    good = any(pattern.match(text) for pattern in (_AVOIDS, _AS_A_RULE, _DONE_RIGHT, _NO_FAULT))
    return "yes" if good else "no"


def statement_of(description: str) -> tuple[str, str]:
    """``(category, statement)``: the category in lower case, "" where the description names none."""
    match = _CATEGORY.match(description)
    return (match[1].lower(), description[match.end() :].strip()) if match else ("", description.strip())


def checks_of_items(items: Sequence[Mapping[str, Any]]) -> tuple[list[Check], list[Check]]:
    """The rubric of one row that gates, and the checks that count in its score alone; both in file order.

    The first are the `MAX_CHECKS` items with the largest absolute weight, of equals the earlier. The check asks whether
    the statement is true of the answer, without its category, so that a judge is not told what to find; its id is the
    title (numbered where two items share one).

    Args:
        items: as `items_problem` accepts them.
    """
    ranked = sorted(range(len(items)), key=lambda place: (-abs(items[place]["weight"]), place))
    heaviest = set(ranked[:MAX_CHECKS])
    checks: list[Check] = []
    rest: list[Check] = []
    for place, item in enumerate(items):
        category, statement = statement_of(item["description"])
        weight = float(item["weight"])
        pitfall = weight < 0 or category == "pitfall"
        title = str(item.get("title") or f"check-{place + 1}").strip()
        taken = any(check.id == title for check in (*checks, *rest))
        (checks if place in heaviest else rest).append(
            Check(
                id=f"{title} ({place + 1})" if taken else title,
                text=ASKED.format(statement),
                weight=-abs(weight) if pitfall else weight,
                expect=pitfall_expects(statement) if pitfall else "yes",
            )
        )
    return checks, rest


def items_problem(items: object) -> str | None:
    """Why a row's ``rubric`` cannot be read, or None."""
    if not isinstance(items, Sequence) or isinstance(items, str):
        return f"rubric is {type(items).__name__}, must be a list of items"
    for number, item in enumerate(items, start=1):
        if not isinstance(item, Mapping):
            return f"rubric item {number} is {type(item).__name__}, must be an object with description and weight"
        description, weight = item.get("description"), item.get("weight")
        if not isinstance(description, str) or not statement_of(description)[1]:
            return f"rubric item {number} has no description"
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight != weight or weight == 0:
            return f"rubric item {number}: weight={weight!r}, must be a number other than 0"
    return None
