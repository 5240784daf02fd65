"""The one way a ContractNLI row, real or procedural, is put to the policy."""

from __future__ import annotations

from collections.abc import Sequence

INSTRUCTION = (
    "Does the contract entail the hypothesis, contradict it, or not mention it? Answer with JSON alone: "
    '{"label": "Entailment|Contradiction|NotMentioned", "evidence": [numbers of the spans that prove it]}'
)
LABEL_INSTRUCTION = (
    "Does the contract entail the hypothesis, contradict it, or not mention it? Answer with JSON alone: "
    '{"label": "Entailment|Contradiction|NotMentioned"}'
)
GAP = "[...]"


def render_prompt(spans: Sequence[tuple[int, str]], hypothesis: str) -> str:
    """The user message: what is asked, the numbered spans in the contract's order, the hypothesis.

    Args:
        spans: ``(number, text)``, the number counting all spans of the contract from 0; a line ``[...]`` stands where
            numbers are left out, and at the beginning if number 0 is.
        hypothesis: the statement to judge.
    """
    lines, expected = [INSTRUCTION, "Contract:"], 0
    for number, text in spans:
        if number != expected:
            lines.append(GAP)
        lines.append(f"[{number}] {' '.join(text.split())}")
        expected = number + 1
    return "\n".join([*lines, f"Hypothesis: {hypothesis.strip()}"])


def render_whole(contract: str, hypothesis: str) -> str:
    """The user message for data whose contracts have no numbered spans: the answer is the label alone."""
    return "\n".join([LABEL_INSTRUCTION, "Contract:", contract.strip(), f"Hypothesis: {hypothesis.strip()}"])
