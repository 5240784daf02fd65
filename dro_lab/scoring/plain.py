"""The plain way: one whole sequence ``prompt | prefix | head | targets`` a branch, without a cache.

For models whose cache cannot do what `dro_lab.scoring.shared` asks of it, and the yardstick for those that can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dro_lab.scoring.head import entropies, entropies_through_head, plain_head, target_logps, through_head
from dro_lab.scoring.tree import Branch, Choose, StemScores, Tree, TreeScores


@dataclass(frozen=True, slots=True)
class PlainRow:
    """One row of a forward: input ids, and the positions that are looked at, from ``first`` on."""

    ids: list[int]
    places: list[int]
    targets: list[int]  # what the places predict; empty: their entropy is asked for
    hidden: tuple[int, int] = (0, 0)  # positions [start, end) that attention does not see


class PlainEngine:
    """Scores a tree by one sequence a branch.

    Args:
        tokens_per_batch: padded tokens of one forward.
        lm_head_chunk: positions that go through the LM head at once.
    """

    def __init__(self, *, tokens_per_batch: int, lm_head_chunk: int) -> None:
        self._tokens_per_batch, self._lm_head_chunk = tokens_per_batch, lm_head_chunk

    def score(self, model: PreTrainedModel, tree: Tree, choose: Choose, *, ranks: bool) -> TreeScores:
        """The scores of all branches; the model is in evaluation mode and gradients are off."""
        scores = TreeScores(roots=[None] * len(tree.prompts), stems=[StemScores() for _ in tree.stems])
        self._choose(model, tree, choose, scores)
        rows: list[tuple[list[Any], int, PlainRow]] = []  # where a result goes: a list, and its place in it
        for number, root in enumerate(tree.roots):
            if root is not None:
                rows.append((scores.roots, number, _whole(tree.prompts[number], (), root)))
        ends: list[Tensor | None] = [None] * len(tree.stems)
        for number, (stem, found) in enumerate(zip(tree.stems, scores.stems, strict=True)):
            prompt = tree.prompts[stem.prompt]
            if stem.end is not None:
                rows.append((ends, number, _whole(prompt, stem.ids, stem.end)))
            found.fixed = [torch.empty(0)] * len(stem.fixed)
            rows += [(found.fixed, n, _whole(prompt, stem.ids, branch)) for n, branch in enumerate(stem.fixed)]
            chosen = [stem.candidates[n].branch for n in found.chosen]
            found.candidates = [torch.empty(0)] * len(chosen)
            rows += [(found.candidates, n, _whole(prompt, stem.ids, branch)) for n, branch in enumerate(chosen)]
        results = self._run(model, [sequence for _, _, sequence in rows], ranks=ranks)
        for (into, place, _), result in zip(rows, results, strict=True):
            into[place] = result
        for found, end in zip(scores.stems, ends, strict=True):
            found.end = end
        return scores

    def _choose(self, model: PreTrainedModel, tree: Tree, choose: Choose, scores: TreeScores) -> None:
        asking = [number for number, stem in enumerate(tree.stems) if stem.candidates]
        sequences = []
        for stem in (tree.stems[number] for number in asking):
            prompt = tree.prompts[stem.prompt]
            last = max(candidate.place for candidate in stem.candidates)
            places = [len(prompt) - 1 + candidate.place for candidate in stem.candidates]
            sequences.append(PlainRow([*prompt, *stem.ids[:last]], places, []))
        for number, found in zip(asking, self._run(model, sequences, ranks=False), strict=True):
            scores.stems[number].entropies = found.tolist()
            scores.stems[number].chosen = list(choose(scores.stems[number].entropies))

    def _run(self, model: PreTrainedModel, sequences: Sequence[PlainRow], *, ranks: bool) -> list[Tensor]:
        """Each sequence's targets (or, without any, entropies), in the order given."""
        found: list[Tensor] = [torch.empty(0)] * len(sequences)
        plain = plain_head(model)
        for batch in self._batches(sequences, plain):
            results = self._forward(model, [sequences[n] for n in batch], plain, ranks)
            for number, result in zip(batch, results, strict=True):
                found[number] = result
        return found

    def _batches(self, sequences: Sequence[PlainRow], plain: bool) -> Iterator[list[int]]:
        """Micro-batches of similar length, within the bounds on tokens and, where needed here, on logits."""
        batch: list[int] = []
        first = 0
        for number in sorted(range(len(sequences)), key=lambda number: len(sequences[number].ids)):
            begin, width = min(sequences[number].places), len(sequences[number].ids)  # sorted: the newest is longest
            rows, first = len(batch) + 1, min(first, begin) if batch else begin
            logits = 0 if plain else rows * (width - first)
            if batch and (rows * width > self._tokens_per_batch or logits > self._lm_head_chunk):
                yield batch
                batch, first = [], begin
            batch.append(number)
        if batch:
            yield batch

    def _forward(self, model: PreTrainedModel, batch: list[PlainRow], plain: bool, ranks: bool) -> Sequence[Tensor]:
        device = model.device
        width = max(len(sequence.ids) for sequence in batch)
        rows = [sequence.ids + [0] * (width - len(sequence.ids)) for sequence in batch]
        lengths_B1 = torch.tensor([[len(sequence.ids)] for sequence in batch], device=device)
        # padding stands on the right: the default positions are right, and causal attention never sees it
        places_T = torch.arange(width, device=device)
        mask_BT = (places_T < lengths_B1).long()
        inputs: dict[str, Any] = {"attention_mask": mask_BT, "use_cache": False}
        inputs["input_ids"] = torch.tensor(rows, device=device)
        if any(sequence.hidden[1] for sequence in batch):
            hidden_B2 = torch.tensor([sequence.hidden for sequence in batch], device=device)
            inputs["attention_mask"] = mask_BT * ~((places_T >= hidden_B2[:, :1]) & (places_T < hidden_B2[:, 1:]))
            inputs["position_ids"] = places_T.expand(len(batch), -1)
        counts = [len(sequence.places) for sequence in batch]
        row_N = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(counts)).to(device)
        place_N = torch.tensor([place for sequence in batch for place in sequence.places], device=device)
        target_N = torch.tensor([token for sequence in batch for token in sequence.targets], device=device)
        asks_entropy = not batch[0].targets
        if plain:
            hidden_ND = model.base_model(**inputs).last_hidden_state[row_N, place_N]
            if asks_entropy:
                found = torch.tensor(entropies_through_head(model, hidden_ND, chunk=self._lm_head_chunk))
            else:
                found = through_head(model, hidden_ND, target_N, chunk=self._lm_head_chunk, ranks=ranks)
        else:  # the model rescales or caps its logits: take them from its own forward
            first = min(min(sequence.places) for sequence in batch)
            logits_NV = model(**inputs, logits_to_keep=width - first).logits[row_N, place_N - first]
            found = (entropies(logits_NV) if asks_entropy else target_logps(logits_NV, target_N, ranks=ranks)).cpu()
        return found.split(counts)


def _whole(prompt: Sequence[int], stem: Sequence[int], branch: Branch) -> PlainRow:
    prefix = [*prompt, *stem[: branch.after]]
    first = len(prefix) + len(branch.head) - 1
    return PlainRow(
        ids=[*prefix, *branch.inputs],
        places=list(range(first, first + len(branch.targets))),
        targets=list(branch.targets),
        hidden=(len(prompt), len(prefix)) if branch.hides else (0, 0),
    )
