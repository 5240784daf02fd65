"""The ways to score, each a function without arguments, and how many tokens each one reads.

`shared` is the project's scorer; all others are yardsticks. Every way gives the references' log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from dro_lab.scoring.head import through_head
from dro_lab.scoring.plain import PlainEngine
from dro_lab.scoring.shared import SharedEngine
from dro_lab.scoring.tree import Branch, Candidate, Stem, Tree, TreeScores
from experiments.scoring_cost.model import Shape, Texts

TOKENS_PER_BATCH, LM_HEAD_CHUNK = 2048, 1024  # the scorer's defaults
Arm = Callable[[], object]


def all_of(entropies: Sequence[float]) -> list[int]:
    """Chooses every candidate."""
    return list(range(len(entropies)))


def branching_tree(shape: Shape, texts: Texts, k: int) -> Tree:
    """The end of every reasoning, k prefixes of it, and with k > 0 the reference right behind the prompt."""
    return Tree(
        prompts=[texts.prompt],
        roots=[Branch(0, (), texts.reference) if k else None],
        stems=[
            Stem(
                prompt=0,
                ids=ids,
                end=Branch(shape.reasoning, (), texts.reference),
                candidates=[Candidate(place, Branch(place, (), texts.reference)) for place in shape.places(k)],
            )
            for ids in texts.stems
        ],
    )


@dataclass(frozen=True, slots=True)
class Arms:
    """All ways to score one shape's texts under one model."""

    model: PreTrainedModel
    shape: Shape
    texts: Texts

    @classmethod
    def of(cls, model: PreTrainedModel, shape: Shape) -> Arms:
        return cls(model, shape, Texts.of(shape))

    def shared(self, k: int) -> Arm:
        """The project's scorer: R3 for k = 0, REPRO otherwise."""
        engine = SharedEngine(tokens_per_batch=TOKENS_PER_BATCH, lm_head_chunk=LM_HEAD_CHUNK)
        tree = branching_tree(self.shape, self.texts, k)
        return lambda: self._score(engine, tree)

    def plain(self, rows: int) -> Arm:
        """One forward of prompt + reasoning + answer a rollout: no prompt shared, no cache, logits at the reference
        only."""
        return self.prefix(self.shape.reasoning, rows)

    def prefix(self, after: int, rows: int) -> Arm:
        """One unpadded forward a rollout of prompt + ``after`` tokens of the reasoning + answer."""
        shape, end = self.shape, Branch(after, (), self.texts.reference)
        tree = Tree(
            prompts=[self.texts.prompt],
            roots=[None],
            stems=[Stem(prompt=0, ids=ids, fixed=[end]) for ids in self.texts.stems],
        )
        engine = PlainEngine(
            tokens_per_batch=rows * (shape.prompt + after + shape.reference - 1), lm_head_chunk=LM_HEAD_CHUNK
        )
        return lambda: self._score(engine, tree)

    def floor(self, rows: int) -> Arm:
        """Plain forwards over the distinct tokens: the prompt once, and reasoning + answer of every rollout, which see
        no prompt."""
        end = Branch(0, (), self.texts.reference)
        tree = Tree(prompts=self.texts.stems, roots=[end] * self.shape.rollouts, stems=[])
        length = self.shape.reasoning + self.shape.reference
        engine = PlainEngine(tokens_per_batch=rows * length, lm_head_chunk=LM_HEAD_CHUNK)

        def run() -> None:
            with torch.no_grad():
                self.model.base_model(input_ids=self._tensor([self.texts.prompt]), use_cache=False)
            self._score(engine, tree)

        return run

    def per_prefix(self, k: int, rows: int) -> Arm:
        """One unpadded forward per prefix: k and the end for every rollout, the baseline once."""
        arms = [self.prefix(after, rows) for after in (*self.shape.places(k), self.shape.reasoning)]
        root = Tree(prompts=[self.texts.prompt], roots=[Branch(0, (), self.texts.reference)], stems=[])
        engine = PlainEngine(tokens_per_batch=1, lm_head_chunk=LM_HEAD_CHUNK)

        def run() -> None:
            self._score(engine, root)
            for arm in arms:
                arm()

        return run

    def released(self, k: int, rows: int) -> Arm:
        """As the released code does: k + 2 forwards for every rollout (the baseline too), all padded to full length.
        Unlike there, logits are taken at the reference only."""
        arms = [self.padded(after, rows) for after in (0, *self.shape.places(k), self.shape.reasoning)]

        def run() -> None:
            for arm in arms:
                arm()

        return run

    def padded(self, after: int, rows: int) -> Arm:
        """One forward a rollout of a prefix and the answer, padded on the right to the length of the whole."""
        texts, whole = self.texts, self.shape.whole
        length = self.shape.prompt + after + self.shape.reference
        ids = [[*texts.prompt, *stem[:after], *texts.reference, *[0] * (whole - length)] for stem in texts.stems]
        ids_BT = self._tensor(ids)
        mask_BT = (torch.arange(whole, device=ids_BT.device) < length).long().expand(len(ids), -1)
        looks = slice(length - self.shape.reference - 1, length - 1)

        def run() -> None:
            with torch.no_grad():
                for part, mask in zip(ids_BT.split(rows), mask_BT.split(rows), strict=True):
                    hidden = self.model.base_model(input_ids=part, attention_mask=mask, use_cache=False)
                    self._head(hidden.last_hidden_state[:, looks])

        return run

    def cached(self, rows: int) -> Arm:
        """As `plain`, with a cache that is filled and dropped."""
        ids_BT = self._tensor([[*self.texts.prompt, *stem, *self.texts.reference] for stem in self.texts.stems])

        def run() -> None:
            with torch.no_grad():
                for part in ids_BT.split(rows):
                    found = self.model.base_model(input_ids=part, use_cache=True)
                    self._head(found.last_hidden_state[:, -self.shape.reference - 1 : -1])
                    del found  # one cache at a time

        return run

    def _score(self, engine: SharedEngine | PlainEngine, tree: Tree) -> TreeScores:
        with torch.no_grad():
            return engine.score(self.model, tree, all_of, ranks=False)

    def _head(self, hidden_BRD: torch.Tensor) -> torch.Tensor:
        targets_R = torch.tensor(self.texts.reference, device=hidden_BRD.device)
        hidden_ND, target_N = hidden_BRD.flatten(0, 1), targets_R.repeat(len(hidden_BRD))
        return through_head(self.model, hidden_ND, target_N, chunk=LM_HEAD_CHUNK, ranks=False)

    def _tensor(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(ids, device=self.model.device)


# ------------------------------------------------------------------------------------------------------------ counts


def distinct_tokens(shape: Shape, k: int) -> int:
    """The prompt once, every reasoning, and the reference behind each end, each prefix and (k > 0) the prompt."""
    root = shape.reference if k else 0
    return shape.prompt + root + shape.rollouts * (shape.reasoning + (k + 1) * shape.reference)


def tokens(shape: Shape, arm: str) -> int:
    """Tokens that an arm reads, by its name in `experiments.scoring_cost.headline`; padding counts."""
    name, _, number = arm.partition(" k=")
    k = int(number or 0)
    if name == "plain":
        return shape.rollouts * shape.whole
    if name == "released":
        return shape.rollouts * (k + 2) * shape.whole
    if name == "per prefix":
        around = shape.prompt + shape.reference
        return around + shape.rollouts * sum(around + after for after in (*shape.places(k), shape.reasoning))
    return distinct_tokens(shape, k)  # floor, R3, REPRO
