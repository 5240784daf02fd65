"""The one way a ParaRev row, real or procedural, is put to the policy."""

from __future__ import annotations


def render_prompt(paragraph: str, instruction: str, concerns: str | None = None) -> str:
    """The user message of one row: the paragraph, what to revise, and the reviewer's concerns where there are any.

    Args:
        paragraph: the paragraph before revision.
        instruction: what the revision should do.
        concerns: further wishes of the reviewer; None or empty leaves the line out.
    """
    lines = [f"Paragraph: {paragraph}", f"Revise: {instruction}"]
    if concerns:
        lines.append(f"Concerns: {concerns}")
    return "\n".join(lines)
