"""Plain words for a run that looks wrong: pure functions of what is already measured, each said once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Alarms:
    """Watches the step metrics and evaluations of one run.

    Thresholds are deliberately coarse: an alarm asks the user to look, it does not judge.
    """

    raised: dict[str, str] = field(default_factory=dict)
    _zero_signal_steps: int = 0
    _nothing_kept_steps: int = 0
    _first_reasoning: float | None = None

    def step(self, metrics: Mapping[str, float | None]) -> list[str]:
        """New alarms of a logged training step, as sentences."""
        found: dict[str, str] = {}

        def value(key: str) -> float:
            number = metrics.get(key)
            return math.nan if number is None else float(number)

        if value("rollouts/truncated_share") > 0.5:
            found["truncated"] = (
                f"over half of the rollouts ({value('rollouts/truncated_share'):.0%}) hit the completion limit; "
                "raise rollout.max_completion_length"
            )
        if value("rollouts/malformed_share") > 0.5:
            found["malformed"] = (
                f"{value('rollouts/malformed_share'):.0%} of the rollouts never close their reasoning or miss the "
                "answer marker; check model.reasoning_close and dataset.answer_marker"
            )
        self._zero_signal_steps = self._zero_signal_steps + 1 if value("groups/zero_signal_share") >= 1.0 else 0
        if self._zero_signal_steps >= 5:
            found["zero_signal"] = "five steps in a row no group had any spread in its rewards: nothing is learned"
        self._nothing_kept_steps = self._nothing_kept_steps + 1 if value("rollouts/kept_share") == 0 else 0
        if self._nothing_kept_steps >= 5:
            found["starved"] = (
                "five steps in a row every rollout was dropped by gate, filter or mask: nothing is learned"
            )
        if value("reward/unscorable_share") > 0.5:
            found["unscorable"] = "over half of the rollouts could not be scored; their advantage is 0"
        if any(
            isinstance(metrics.get(k), float) and not math.isfinite(metrics[k] or 0.0) for k in ("loss", "grad_norm")
        ):
            found["non_finite"] = "the loss or the gradient is not finite: lower algorithm.learning_rate"
        entropy = value("entropy")
        if entropy < 0.01:
            found["entropy"] = f"the policy's entropy is {entropy:.3f}: it has stopped exploring"
        reasoning = value("rollouts/reasoning_tokens")
        if math.isfinite(reasoning):
            if self._first_reasoning is None:
                self._first_reasoning = reasoning
            elif reasoning < 0.3 * self._first_reasoning:
                found["short_reasoning"] = (
                    f"reasoning shrank from {self._first_reasoning:.0f} to {reasoning:.0f} tokens: the policy may be "
                    "answering without working it out"
                )
        return self._new(found)

    def evaluation(self, quality: float, start: float) -> list[str]:
        """New alarms of an evaluation."""
        found = {}
        if math.isfinite(quality) and math.isfinite(start) and quality < start - 0.1:
            found["worse"] = f"quality on held-out rows fell from {start:.2f} to {quality:.2f} since the start"
        return self._new(found)

    def _new(self, found: Mapping[str, str]) -> list[str]:
        fresh = {key: text for key, text in found.items() if key not in self.raised}
        self.raised.update(fresh)
        return list(fresh.values())
