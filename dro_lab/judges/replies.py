"""Reading what an endpoint replied, strictly: a verdict is what was asked for and nothing else, or it is unknown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dro_lab.judges.protocol import NO, UNKNOWN, YES

VERDICTS: Mapping[str, int] = {"yes": YES, "no": NO, "unknown": UNKNOWN}
PREFERENCES: Mapping[str, float] = {"A": 1.0, "B": 0.0, "tie": 0.5}


def schema(key: str, allowed: Mapping[str, Any]) -> dict[str, Any]:
    """``response_format`` of a chat request: an object with one key, which takes one of the allowed words."""
    return {
        "type": "json_schema",
        "json_schema": {
            "name": key,
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {key: {"type": "string", "enum": list(allowed)}},
                "required": [key],
                "additionalProperties": False,
            },
        },
    }


THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
FENCED = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)


def choice_of(text: str, key: str, allowed: Mapping[str, Any]) -> str | None:
    """The allowed word that a reply chooses; None where it does not choose exactly one.

    Taken: the JSON object that was asked for (also inside a code block, or after a closed block of thoughts), or one
    of the words alone. Not taken: prose around it, further keys, a key that stands twice, half an object.
    """
    text = THOUGHT.sub("", text).strip()
    if found := FENCED.match(text):
        text = found[1].strip()
    word: object = text.strip("\"'`*. ")
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            return None
        if len(pairs) != 1 or pairs[0][0] != key:
            return None
        word = pairs[0][1]
    if not isinstance(word, str):
        return None
    return next((name for name in allowed if name.casefold() == word.strip().casefold()), None)
