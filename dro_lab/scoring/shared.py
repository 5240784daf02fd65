"""Each text once: prompts, then reasonings against the prompts' keys and values, then branches against both.

Three kinds of forward, all without a token that was read before:

1. *prompts* (all but the last token), with the roots behind them: one row a prompt;
2. *stems*: the prompt's last token, the reasoning and the end branch, against the prompt's kept keys and values: one
   row a rollout. Entropies come from this forward;
3. *branches*: all chosen branches of a rollout side by side in one row, each seeing the prompt, its prefix of the
   reasoning and itself (a 4D mask), at the positions that it would have in a sequence of its own.

The prompt's last token begins the stem so that whatever is predicted first comes from forward 2. Only scored positions
go through the LM head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from dro_lab.scoring.head import entropies_through_head, through_head
from dro_lab.scoring.tree import Branch, Choose, Stem, StemScores, Tree, TreeScores


class ClosedLayer(DynamicLayer):
    """Keys and values of one layer that are complete: what is read later sees them and leaves nothing behind."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:  # nothing was read before
            return key_states, value_states
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def select(cache: Cache | None, rows: Tensor | slice, width: int, *, closed: bool) -> Cache:
    """The first ``width`` columns of some rows; a slice of rows is a view."""
    kind = ClosedLayer if closed else DynamicLayer
    selected = Cache(layer_class_to_replicate=kind)
    for layer in layers_of(cache):
        made = kind()
        made.keys, made.values = layer.keys[rows, :, :width], layer.values[rows, :, :width]
        made.dtype, made.device, made.is_initialized = layer.dtype, layer.device, True
        selected.layers.append(made)
    return selected


def layers_of(cache: Cache | None) -> list[Any]:
    """The layers, each with keys and values (batch, heads, columns, dimensions)."""
    return [] if cache is None else list(cache.layers)


@dataclass(frozen=True, slots=True)
class Pass:
    """Rows ``[start, stop)`` of a chunk and, for each, the branches that are read in one forward."""

    start: int
    stop: int
    branches: list[list[int]]


class SharedEngine:
    """Scores a tree with every text read once. Needs a model for which `dro_lab.scoring.sharing.reason` finds nothing.

    Args:
        tokens_per_batch: padded tokens of one forward, those that are only attended to not counted.
        lm_head_chunk: positions that go through the LM head at once.
    """

    def __init__(self, *, tokens_per_batch: int, lm_head_chunk: int) -> None:
        self._tokens_per_batch, self._lm_head_chunk = tokens_per_batch, lm_head_chunk

    def score(self, model: PreTrainedModel, tree: Tree, choose: Choose, *, ranks: bool) -> TreeScores:
        """The scores of all branches; the model is in evaluation mode and gradients are off."""
        scores = TreeScores(roots=[None] * len(tree.prompts), stems=[StemScores() for _ in tree.stems])
        by_prompt: list[list[int]] = [[] for _ in tree.prompts]
        for number, stem in enumerate(tree.stems):
            by_prompt[stem.prompt].append(number)
        for batch in self._prompt_batches(tree, by_prompt):
            cache, width = self._prompts(model, tree, batch, scores, ranks=ranks)
            stems = [number for prompt in batch for number in by_prompt[prompt]]
            place_of = {prompt: place for place, prompt in enumerate(batch)}
            for chunk in self._chunks([_stem_length(tree.stems[n]) for n in stems], stems):
                self._stems(model, tree, chunk, place_of, cache, width, choose, scores, ranks=ranks)
        return scores

    # -------------------------------------------------------------------------------- batches

    def _prompt_batches(self, tree: Tree, by_prompt: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Prompts of similar length whose rollouts fit in one forward; a prompt with many stands alone."""
        longest = [max((_stem_length(tree.stems[n]) for n in numbers), default=0) for numbers in by_prompt]
        batch: list[int] = []
        rows = width = 0
        for prompt in sorted(range(len(tree.prompts)), key=lambda prompt: len(tree.prompts[prompt])):
            more, wider = rows + len(by_prompt[prompt]), max(width, longest[prompt])
            if batch and more * wider > self._tokens_per_batch:
                yield batch
                batch, more, wider = [], len(by_prompt[prompt]), longest[prompt]
            batch.append(prompt)
            rows, width = more, wider
        if batch:
            yield batch

    def _chunks(self, lengths: Sequence[int], stems: Sequence[int]) -> Iterator[list[int]]:
        chunk: list[int] = []
        for place in sorted(range(len(stems)), key=lambda place: lengths[place]):
            if chunk and (len(chunk) + 1) * lengths[place] > self._tokens_per_batch:
                yield chunk
                chunk = []
            chunk.append(stems[place])
        if chunk:
            yield chunk

    def _passes(self, lengths: Sequence[Sequence[int]], seen: int) -> Iterator[Pass]:
        """Branches by row, given their lengths, in forwards of at most so many tokens (or one branch).

        Branches side by side are masked from each other, but attention computes what is masked: a row's branches
        together are no longer than half of the ``seen`` columns before them, unless the forward would be small.
        """
        longest = max((length for row in lengths for length in row), default=0)
        if not longest:
            return
        rows = max(1, min(len(lengths), self._tokens_per_batch // longest))
        for start in range(0, len(lengths), rows):
            block = lengths[start : start + rows]
            room = self._tokens_per_batch // len(block)
            budget = max(longest, min(room, max(seen // 2, room // 2)))
            waiting = [_packed(row, budget) for row in block]
            for turn in range(max(map(len, waiting))):
                yield Pass(start, start + len(block), [row[turn] if turn < len(row) else [] for row in waiting])

    # -------------------------------------------------------------------------------- forwards

    def _prompts(
        self, model: PreTrainedModel, tree: Tree, batch: Sequence[int], scores: TreeScores, *, ranks: bool
    ) -> tuple[Cache | None, int]:
        """Keys and values of the prompts without their last tokens, and how many columns that are; roots are scored."""
        rows, looks = [], []
        for row, prompt in enumerate(batch):
            ids, root = list(tree.prompts[prompt]), tree.roots[prompt]
            if root is not None:
                first = len(ids) + len(root.head) - 1
                looks += [(row, first + n) for n in range(len(root.targets))]
            rows.append(ids[:-1] if root is None else [*ids, *root.inputs])
        if not any(rows):
            return None, 0
        width = max(len(tree.prompts[prompt]) for prompt in batch) - 1
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        hidden_BTD = self._read(model, rows, past_key_values=cache, attention_mask=None)
        roots = [(prompt, root) for prompt in batch if (root := tree.roots[prompt]) is not None]
        found = self._targets(model, hidden_BTD, looks, [root for _, root in roots], ranks=ranks)
        for (prompt, _), result in zip(roots, found, strict=True):
            scores.roots[prompt] = result
        return cache, width

    def _stems(
        self,
        model: PreTrainedModel,
        tree: Tree,
        chunk: Sequence[int],
        place_of: dict[int, int],
        prompts: Cache | None,
        width: int,
        choose: Choose,
        scores: TreeScores,
        *,
        ranks: bool,
    ) -> None:
        """Read the rollouts of a chunk, score their ends, choose among their candidates and score the branches."""
        stems = [tree.stems[number] for number in chunk]
        rows = [_stem_row(tree, stem) for stem in stems]
        device = model.device
        seen_B = torch.tensor([len(tree.prompts[stem.prompt]) - 1 for stem in stems], device=device)
        source_B = torch.tensor([place_of[stem.prompt] for stem in stems], device=device)
        branching = any(stem.fixed or stem.candidates for stem in stems)
        cache = select(prompts, source_B, width, closed=not branching)
        total = max(map(len, rows))
        places_S = torch.arange(total, device=device)
        mask_B1SK = _beside(seen_B, width, places_S[:, None] >= places_S)
        # padding stays at the row's last position: behind a long prompt a wide row would pass the model's last one
        last_B1 = seen_B[:, None] + torch.tensor([[len(row) - 1] for row in rows], device=device)
        hidden_BSD = self._read(
            model,
            rows,
            past_key_values=cache,
            attention_mask=_as_asked(model, mask_B1SK) if width else None,
            position_ids=torch.minimum(seen_B[:, None] + places_S, last_B1),
        )
        ending = [(row, stem.end) for row, stem in enumerate(stems) if stem.end is not None]
        looks = [(row, len(stems[row].ids) + len(e.head) + n) for row, e in ending for n in range(len(e.targets))]
        found = self._targets(model, hidden_BSD, looks, [end for _, end in ending], ranks=ranks)
        for (row, _), result in zip(ending, found, strict=True):
            scores.stems[chunk[row]].end = result
        self._entropies(model, hidden_BSD, stems, [scores.stems[number] for number in chunk], choose)
        del hidden_BSD
        if not branching:
            return
        # what follows sees the stems, but neither the ends nor the padding behind them
        kept = width + 1 + max(len(stem.ids) for stem in stems)
        self._branches(
            model,
            stems,
            [scores.stems[number] for number in chunk],
            first_tokens=[row[0] for row in rows],
            cache=select(cache, slice(None), kept, closed=True),
            seen_B=seen_B,
            width=width,
            ranks=ranks,
        )

    def _entropies(
        self,
        model: PreTrainedModel,
        hidden_BSD: Tensor,
        stems: Sequence[Stem],
        into: Sequence[StemScores],
        choose: Choose,
    ) -> None:
        looks = [(row, candidate.place) for row, stem in enumerate(stems) for candidate in stem.candidates]
        if not looks:
            return
        row_N, place_N = torch.tensor(looks, device=hidden_BSD.device).unbind(1)
        values = iter(entropies_through_head(model, hidden_BSD[row_N, place_N], chunk=self._lm_head_chunk))
        for stem, found in zip(stems, into, strict=True):
            if stem.candidates:
                found.entropies = [next(values) for _ in stem.candidates]
                found.chosen = list(choose(found.entropies))

    def _branches(
        self,
        model: PreTrainedModel,
        stems: Sequence[Stem],
        into: Sequence[StemScores],
        *,
        first_tokens: Sequence[int],
        cache: Cache,
        seen_B: Tensor,
        width: int,
        ranks: bool,
    ) -> None:
        """Score the fixed and the chosen branches against the keys and values of prompt and stem."""
        wanted = [
            [
                _with_head(branch, [first, *stem.ids])
                for branch in (*stem.fixed, *(stem.candidates[n].branch for n in found.chosen))
            ]
            for stem, found, first in zip(stems, into, first_tokens, strict=True)
        ]
        results: list[list[Tensor]] = [[torch.empty(0)] * len(row) for row in wanted]
        columns = layers_of(cache)[0].keys.shape[-2] - width  # of the stems, the prompt's last token included
        for turn in self._passes([[len(branch.inputs) for branch in row] for row in wanted], columns + width):
            rows = range(turn.start, turn.stop)
            taken = [[wanted[row][n] for n in numbers] for row, numbers in zip(rows, turn.branches, strict=True)]
            layout = _layout(taken, columns, seen_B[turn.start : turn.stop], width)
            hidden_BQD = self._read(
                model,
                [[token for branch in row for token in branch.inputs] for row in taken],
                past_key_values=select(cache, slice(turn.start, turn.stop), columns + width, closed=True),
                attention_mask=_as_asked(model, layout.mask_B1QK),
                position_ids=layout.positions_BQ,
            )
            flat = [branch for row in taken for branch in row]
            found = iter(self._targets(model, hidden_BQD, layout.looks, flat, ranks=ranks))
            for row, numbers in zip(rows, turn.branches, strict=True):
                for number in numbers:
                    results[row][number] = next(found)
        for stem, scored, tensors in zip(stems, into, results, strict=True):
            scored.fixed, scored.candidates = tensors[: len(stem.fixed)], tensors[len(stem.fixed) :]

    def _read(self, model: PreTrainedModel, rows: Sequence[Sequence[int]], **inputs: Any) -> Tensor:
        """Hidden states (B, T, D); rows are padded on the right."""
        width = max(map(len, rows))
        ids_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
        hidden_BTD: Tensor = model.base_model(input_ids=ids_BT, use_cache=True, **inputs).last_hidden_state
        return hidden_BTD

    def _targets(
        self,
        model: PreTrainedModel,
        hidden_BTD: Tensor,
        looks: Sequence[tuple[int, int]],
        branches: Iterable[Branch],
        *,
        ranks: bool,
    ) -> Sequence[Tensor]:
        """The scores of branches whose targets are predicted at ``(row, position)`` ``looks``, in their order."""
        branches = list(branches)
        if not branches:
            return []
        row_N, place_N = torch.tensor(looks, device=hidden_BTD.device).unbind(1)
        target_N = torch.tensor([token for branch in branches for token in branch.targets], device=hidden_BTD.device)
        found = through_head(model, hidden_BTD[row_N, place_N], target_N, chunk=self._lm_head_chunk, ranks=ranks)
        return found.split([len(branch.targets) for branch in branches])


# ------------------------------------------------------------------------------------------------ rows and masks


def _stem_row(tree: Tree, stem: Stem) -> list[int]:
    """The prompt's last token, the stem, and the end behind it."""
    end = [] if stem.end is None else stem.end.inputs
    return [tree.prompts[stem.prompt][-1], *stem.ids, *end]


def _stem_length(stem: Stem) -> int:
    """Tokens of `_stem_row`."""
    return 1 + len(stem.ids) + (0 if stem.end is None else len(stem.end.inputs))


def _with_head(branch: Branch, row: Sequence[int]) -> Branch:
    """The branch in terms of the row (which begins with the prompt's last token), with at least one token of head: a
    branch without any reads the token before it again, in the place of the one that is kept."""
    if branch.head:
        return Branch(branch.after + 1, branch.head, branch.targets, branch.hides)
    return Branch(branch.after, [row[branch.after]], branch.targets, branch.hides)


def _packed(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Numbers of a row's branches in order, in packs of at most ``budget`` tokens."""
    packs: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if not packs or length > room:
            packs.append([])
            room = budget
        packs[-1].append(number)
        room -= length
    return packs


def _beside(seen_B: Tensor, width: int, mask_SK: Tensor) -> Tensor:
    """(B or 1, 1, S, width + K): the prompts' own columns, and ``mask_SK`` (or ``mask_BSK``) behind them."""
    prompt_B1W = torch.arange(width, device=seen_B.device) < seen_B[:, None, None]
    if mask_SK.dim() == 2 and bool((seen_B == seen_B[0]).all()):
        prompt_B1W = prompt_B1W[:1]
    rest_BSK = mask_SK.expand(len(prompt_B1W), -1, -1)
    return torch.cat([prompt_B1W.expand(-1, rest_BSK.shape[1], -1), rest_BSK], -1)[:, None]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Branches side by side: what each token may see, its position, and where the targets are predicted."""

    mask_B1QK: Tensor
    positions_BQ: Tensor
    looks: list[tuple[int, int]]


def _layout(rows: Sequence[Sequence[Branch]], columns: int, seen_B: Tensor, width: int) -> _Layout:
    """``columns``: of the stems; ``width``: of the prompts."""
    total = max(sum(len(branch.inputs) for branch in row) for row in rows)
    # per token: its branch's number, its place within it, the stem's columns before it, and how many of them it sees
    number_BQ, place_BQ, after_BQ, sees_BQ = (torch.zeros(len(rows), total, dtype=torch.int64) for _ in range(4))
    number_BQ -= 1
    looks = []
    for row, branches in enumerate(rows):
        start = 0
        for number, branch in enumerate(branches):
            stop = start + len(branch.inputs)
            number_BQ[row, start:stop] = number
            place_BQ[row, start:stop] = torch.arange(stop - start)
            after_BQ[row, start:stop] = branch.after
            sees_BQ[row, start:stop] = 1 if branch.hides else branch.after  # 1: the prompt's last token
            looks += [(row, start + len(branch.head) - 1 + n) for n in range(len(branch.targets))]
            start = stop
    device = seen_B.device
    number_BQ, place_BQ, after_BQ, sees_BQ = (t.to(device) for t in (number_BQ, place_BQ, after_BQ, sees_BQ))
    stem_BQS = torch.arange(columns, device=device) < sees_BQ[..., None]
    own_BQQ = (number_BQ[..., None] == number_BQ[:, None]) & (place_BQ[..., None] >= place_BQ[:, None])
    return _Layout(
        mask_B1QK=_beside(seen_B, width, torch.cat([stem_BQS, own_BQQ], -1)),
        positions_BQ=seen_B[:, None] + after_BQ + place_BQ,
        looks=looks,
    )


def _as_asked(model: PreTrainedModel, mask_B1QK: Tensor) -> Tensor:
    """A boolean mask for sdpa; for eager attention, which adds it, 0 and the lowest number."""
    if model.config._attn_implementation == "sdpa":
        return mask_B1QK
    return torch.zeros_like(mask_B1QK, dtype=model.dtype).masked_fill(~mask_B1QK, torch.finfo(model.dtype).min)
