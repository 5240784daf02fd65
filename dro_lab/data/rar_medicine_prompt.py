"""The one way a RaR-Medicine row, real or procedural, is put to the policy."""

from __future__ import annotations

ASKED = "Answer in full sentences."


def render_prompt(question: str) -> str:
    """The user message of one row: the question, and that a text is wanted, not a letter or a word."""
    return f"Question: {question}\n{ASKED}"
