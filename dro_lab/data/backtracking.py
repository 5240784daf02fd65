"""Phrases by which reasoning models turn back: to check, doubt or redo what they have just written.

The one list for all who ask: the evaluation's share of backtracking, and the procedural twin of maths, whose chains
turn back at a known rate and begin such segments with `TWIN_PHRASES`.
"""

from __future__ import annotations

import re

TWIN_PHRASES = ("Wait", "Hmm", "Actually", "Let me check")
"""How the twin's backtracking segments begin, as written there."""

PHRASES: tuple[str, ...] = (
    *(phrase.lower() for phrase in TWIN_PHRASES),
    "alternatively",
    "double check",
    "double-check",
    "hold on",
    "i made a mistake",
    "i made an error",
    "i need to check",
    "i should check",
    "i should double-check",
    "let me double check",
    "let me double-check",
    "let me go back",
    "let me re-check",
    "let me re-evaluate",
    "let me re-examine",
    "let me recalculate",
    "let me recheck",
    "let me recompute",
    "let me reconsider",
    "let me redo",
    "let me rethink",
    "let me start over",
    "let me think again",
    "let me try again",
    "let me verify",
    "let's check",
    "let's double-check",
    "let's verify",
    "no, that's not",
    "on second thought",
    "that can't be right",
    "that doesn't seem right",
    "that's not right",
)
"""Lower case, each once; a text is matched without regard to case, at word boundaries."""

# longest first, so that a phrase which begins with another one is taken whole
_PATTERN = re.compile(
    r"(?<!\w)(?:"
    + "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in sorted(PHRASES, key=len, reverse=True))
    + r")(?!\w)",
    re.IGNORECASE,
)


def count(text: str) -> int:
    """How many backtracking phrases the text holds, as whole words with any white space between them; they do not
    overlap. A typographic apostrophe counts as "'"."""
    return len(_PATTERN.findall(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))
