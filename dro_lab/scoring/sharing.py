"""Can this model's texts be read once and continued in many ways? Said once a kind of model, with the reason if not."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from dro_lab.scoring.head import plain_head
from dro_lab.scoring.plain import PlainEngine
from dro_lab.scoring.shared import SharedEngine
from dro_lab.scoring.tree import Branch, Candidate, Stem, Tree, TreeScores
from dro_lab.secrets import beginning

LOG = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Of the trial, in nats; other dtypes: `LOW_PRECISION`."""
LOW_PRECISION = 0.25


class Sharing:
    """Decides, once for each class and configuration of a model, which engine scores it.

    Args:
        wanted: False always takes the plain engine.
    """

    def __init__(self, shared: SharedEngine, plain: PlainEngine, *, wanted: bool = True) -> None:
        self._shared, self._plain, self._wanted = shared, plain, wanted
        self._reasons: dict[tuple[object, ...], str | None] = {}

    def engine(self, model: PreTrainedModel) -> SharedEngine | PlainEngine:
        """The engine for this model, which is in evaluation mode with gradients off."""
        if not self._wanted:
            return self._plain
        kind = (type(model), model.config.name_or_path, model.config._attn_implementation, model.dtype)
        if kind not in self._reasons:
            self._reasons[kind] = found = self.reason(model)
            if found:
                LOG.warning(
                    "scorer: %s: %s; every branch is read as a whole sequence instead, which gives equal numbers and "
                    "takes longer",
                    type(model).__name__,
                    found,
                )
        return self._shared if self._reasons[kind] is None else self._plain

    def reason(self, model: PreTrainedModel) -> str | None:
        """Why the model cannot be scored by the shared engine; None: it can."""
        return _of_config(model) or self._of_trial(model)

    def _of_trial(self, model: PreTrainedModel) -> str | None:
        """Score one small tree both ways: the one test that no list of architectures can replace."""
        tree = _trial(model.config.get_text_config().vocab_size)
        first_two = [0, 1]
        want = self._plain.score(model, tree, lambda _: first_two, ranks=False)
        try:
            got = self._shared.score(model, tree, lambda _: first_two, ranks=False)
        except Exception as error:  # whatever a model does with a cache and a mask that it does not know
            return f"its cache cannot be continued in branches ({type(error).__name__}: {beginning(str(error), 120)})"
        apart = max(float((a - b).abs().max()) for a, b in zip(_all(got), _all(want), strict=True))
        if not apart <= TOLERANCE.get(model.dtype, LOW_PRECISION):
            return f"continuing its cache in branches gives other numbers (by {apart:.2g} nats in a trial)"
        return None


def _of_config(model: PreTrainedModel) -> str | None:
    config = model.config.get_text_config()
    if not plain_head(model):
        return "its logits are not the output of its LM head alone"
    if (attention := model.config._attn_implementation) not in ("sdpa", "eager"):
        return f"attention {attention!r} takes no mask of branches (sdpa and eager do)"
    others = sorted(set(getattr(config, "layer_types", None) or []) - {"full_attention"})
    if others:
        return f"it has layers of {', '.join(others)}"
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return f"it has a sliding window of {config.sliding_window} tokens"
    return None


def _trial(vocabulary: int) -> Tree:
    """Two prompts and three stems of unequal lengths, with every kind of branch."""

    def ids(start: int, count: int) -> list[int]:
        return [(7 * n + start) % vocabulary for n in range(count)]

    def stem(prompt: int, start: int, count: int) -> Stem:
        places = (1, count // 2)
        return Stem(
            prompt=prompt,
            ids=ids(start, count),
            end=Branch(count, ids(3, 1), ids(11, 3)),
            fixed=[Branch(count, ids(2, 2), ids(11, 3), hides=True)],
            candidates=[Candidate(place, Branch(place, (), ids(11, 3))) for place in places],
        )

    return Tree(
        prompts=[ids(1, 4), ids(2, 6)],
        roots=[Branch(0, ids(3, 1), ids(11, 3)), Branch(0, (), ids(12, 2))],
        stems=[stem(0, 5, 6), stem(1, 6, 9), stem(0, 7, 4)],
    )


def _all(scores: TreeScores) -> Sequence[torch.Tensor]:
    found = [root for root in scores.roots if root is not None]
    for stem in scores.stems:
        found += [*([stem.end] if stem.end is not None else []), *stem.fixed, *stem.candidates]
        found.append(torch.tensor(stem.entropies)[:, None])
    return found
