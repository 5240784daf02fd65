"""Times R3's scorer against one plain forward over the same sequences, inside the benchmark's own steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from dro_lab.scoring.head import evaluating
from dro_lab.scoring.reference import ReferenceScorer


@dataclass
class ScoringProbe:
    """``pairs``: seconds of the scorer and of the forward, one pair a step."""

    scorer: ReferenceScorer
    pairs: list[tuple[float, float]] = field(default_factory=list)
    _pending: list[tuple[float, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def attach(cls, trainer: Any) -> ScoringProbe:
        """Time the trainer's scorer from now on."""
        scorer = trainer.scoring.scorer
        probe, original = cls(scorer), scorer.score

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            scores = original(*args, **kwargs)
            probe._pending.append((time.perf_counter() - start, args, kwargs))
            return scores

        scorer.score = timed
        return probe

    def settle(self) -> None:
        """Run the plain forward on what was scored in the last step, outside the step's own time."""
        for seconds, args, kwargs in self._pending:
            self.pairs.append((seconds, plain_forward(self.scorer, *args, **kwargs)))
        self._pending.clear()


def plain_forward(
    scorer: ReferenceScorer, model: Any, prompt_ids_P: Any, reasoning_ids_PG: Any, references_P: Any, **kwargs: Any
) -> float:
    """Seconds of one forward over prompt + reasoning + closing + reference, all rollouts in one padded batch, with the
    LM head and a float32 log-softmax on the reference's positions. Building the batch is not counted."""
    closings = kwargs["closings_PG"]
    rows, counts = [], []
    for p, reference in enumerate(references_P):
        for g, reasoning in enumerate(reasoning_ids_PG[p]):
            head, tail = scorer.encode(reference, closings[p][g])
            rows.append([*prompt_ids_P[p], *reasoning, *head, *tail])
            counts.append(len(tail))
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    index = [(b, t) for b, (row, n) in enumerate(zip(rows, counts, strict=True)) for t in range(len(row) - n, len(row))]
    b, t = (torch.tensor(axis) for axis in zip(*index, strict=True))
    with torch.no_grad(), evaluating(model):
        start = time.perf_counter()
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[b, t - 1]
        logits = model.get_output_embeddings()(hidden).float()
        logits.log_softmax(-1).gather(1, ids[b, t][:, None])
        return time.perf_counter() - start
