"""What a writer of rubrics is asked, word for word, and the strict reading of what it writes.

After DRO (arXiv 2506.13351): at most ten yes/no checks for a query, from prompt and reference. The words are ours, and
checks are asked for one way round, so that a good answer gets yes. A change of a wording is a change of its version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dro_lab.gating._json import strict_json
from dro_lab.judges.fence import CONTROL, enclose, fence_for, neutral
from dro_lab.judges.prompts import RULE, query_text
from dro_lab.judges.replies import FENCED, THOUGHT
from dro_lab.types import MAX_CHECKS, Check, Row

VERSION = "rubric-1"
MAX_CHARS = 400
"""Characters of one check at most."""
SHOWN = 160
"""Characters that are kept of a reply that cannot be read."""

WRITE = """\
You write a rubric: yes/no questions by which answers to one query will be checked. {rule}

{query}

{reference}

The reference is an answer that is known to be good. Write at most {most} questions about an answer to this query. \
Each asks for one thing that a good answer must have, in substance, not in wording; can be answered with yes or no \
from the answer alone; is answered with yes for the reference; and ends with a question mark. No two ask for the same.
Reply with one JSON object and nothing else: {{"checks": ["Does the answer ...?", "Is ...?"]}}"""

RESPONSE_FORMAT: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "rubric",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"checks": {"type": "array", "items": {"type": "string"}}},
            "required": ["checks"],
            "additionalProperties": False,
        },
    },
}


def writing_prompt(row: Row, *, control: Sequence[re.Pattern[str]] = (CONTROL,)) -> str:
    """The message that asks for one query's rubric. Prompt and reference are material: fenced, no instructions."""
    query, reference = neutral(query_text(row.prompt), control), neutral(row.reference, control)
    fence = fence_for([query, reference])
    return WRITE.format(
        rule=RULE.format(fence=fence),
        query=enclose("query", query, fence),
        reference=enclose("reference", reference, fence),
        most=MAX_CHECKS,
    )


@dataclass(frozen=True, slots=True)
class Written:
    """What was read from a reply. ``malformed`` says why nothing was ("" where something was)."""

    checks: tuple[Check, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()  # (text, reason)
    malformed: str = ""
    reply: str = ""  # the beginning of what could not be read


def parse(text: str) -> Written:
    """Read a reply strictly: one object ``{"checks": [text, ...]}``, also in a code block or behind closed thoughts.

    The whole is malformed with prose around the object, half an object, other or repeated keys, no check, or more than
    ten. Single checks are dropped that are no text, no question, too long, or there already.
    """
    written = _parsed(text)
    return replace(written, reply=text[:SHOWN]) if written.malformed else written


def _parsed(text: str) -> Written:
    text = THOUGHT.sub("", text).strip()
    if found := FENCED.match(text):
        text = found[1].strip()
    try:
        value = strict_json(text)
    except ValueError:
        return Written(malformed="half a JSON object" if text.startswith("{") else "not one JSON object")
    if not isinstance(value, dict) or set(value) != {"checks"} or not isinstance(value["checks"], list):
        return Written(malformed='not of the form {"checks": [...]}')
    if len(value["checks"]) > MAX_CHECKS:
        return Written(malformed=f"more than {MAX_CHECKS} checks")
    if not value["checks"]:
        return Written(malformed="no checks")
    checks: list[Check] = []
    dropped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for item in value["checks"]:
        reason = _unusable(item, seen)
        if reason:
            dropped.append((str(item)[:MAX_CHARS], reason))
            continue
        seen.add(_folded(item))
        checks.append(Check(id=f"check-{len(checks) + 1}", text=" ".join(item.split())))
    return Written(tuple(checks), tuple(dropped), "" if checks else "no usable check")


def _unusable(item: object, seen: set[str]) -> str:
    if not isinstance(item, str):
        return "is no text"
    if not item.strip().endswith("?"):
        return "is no question"
    if len(item) > MAX_CHARS:
        return f"is longer than {MAX_CHARS} characters"
    return "stands there already" if _folded(item) in seen else ""


def _folded(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
