"""The one scorer: log-probabilities of reference tokens after a sampled reasoning, or after its prefixes.

    sequence = prompt ids | reasoning ids exactly as sampled | closing + answer marker | reference | (EOS)

The rollout's own answer is replaced by the reference, teacher-forced at temperature 1 whatever the sampling temperature
was (arXiv 2506.13351). No other code of a run asks a policy for log-probabilities of a reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dro_lab.checks import flag
from dro_lab.errors import UserError
from dro_lab.scoring.head import WithoutAdapter, asked
from dro_lab.scoring.plain import PlainEngine
from dro_lab.scoring.segments import Segmenter, candidates, top_k
from dro_lab.scoring.shared import SharedEngine
from dro_lab.scoring.sharing import Sharing
from dro_lab.scoring.split import ReasoningFormat, ThinkingMode
from dro_lab.scoring.tokens import TokenText
from dro_lab.scoring.tree import Branch, Candidate, Choose, Stem, StemScores, Tree, TreeScores
from dro_lab.types import PrefixPlan, Stat


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScores:
    """What the scorer measured, on the CPU; what was not asked for is None.

    ``logps_PGR`` is float32 and 0 outside ``mask_PR | eos_PR``. EOS is always scored, as the position after a
    reference's last token, and marked apart, so that each reward decides for itself whether it counts. The prefix
    fields are those of `dro_lab.types.TokenStats`.
    """

    logps_PGR: Tensor
    mask_PR: Tensor  # bool: the reference's own tokens
    eos_PR: Tensor  # bool: the EOS behind them
    ids_PR: Tensor  # int64: reference tokens and EOS, padded with EOS
    ranks_PGR: Tensor | None = None  # float32: words of the vocabulary that are likelier
    masked_logps_PGR: Tensor | None = None  # as logps_PGR, the reasoning hidden from attention
    prefix_logps_PGKR: Tensor | None = None
    prefix_mask_PGK: Tensor | None = None
    prefix_ends_PGK: Tensor | None = None
    prefix_entropies_PGK: Tensor | None = None
    no_reasoning_logps_PR: Tensor | None = None


class ReferenceScorer:
    """Scores references under a policy.

    A reference's tokens are those of ``closing + answer marker + reference``, encoded jointly, whose characters overlap
    the reference: exactly the tokens it has after the marker. A token that holds both the marker's last characters and
    the reference's first ones (a marker that ends with a space) counts to the reference.

    Args:
        tokenizer: of the policy.
        fmt: delimiters and answer marker.
        tokens_per_batch: padded tokens of one forward; about 2,000 is fastest on a CPU, a GPU takes more.
        lm_head_chunk: positions that go through the LM head at once (bounds the largest logits tensor).
        share: read every text once where the model can (`dro_lab.scoring.shared`); False: one whole sequence a branch.

    Raises:
        UserError: a size below 1, or a tokenizer without an end-of-sequence token.
    """

    name = "hf"
    gives = frozenset({Stat.REFERENCE, Stat.RANKS, Stat.MASKED, Stat.PREFIXES})
    """The statistics that it measures."""
    policies = frozenset({"current", "reference", "initial", "lagged"})
    """Under which policies."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        fmt: ReasoningFormat,
        *,
        tokens_per_batch: int = 2048,
        lm_head_chunk: int = 1024,
        share: bool = True,
    ) -> None:
        for key, value in (("tokens_per_batch", tokens_per_batch), ("lm_head_chunk", lm_head_chunk)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"scorer.{key}={value!r}: must be a whole number of at least 1; 2048 suits a CPU")
        flag("scorer.share", share, todo="true is the default and the faster one")
        if tokenizer.eos_token_id is None:
            raise UserError("model.path: the tokenizer has no end-of-sequence token; set eos_token in its config")
        self._tokenizer, self._fmt, self._text = tokenizer, fmt, TokenText(tokenizer)
        self._eos = int(tokenizer.eos_token_id)
        sizes = {"tokens_per_batch": tokens_per_batch, "lm_head_chunk": lm_head_chunk}
        self._sharing = Sharing(SharedEngine(**sizes), PlainEngine(**sizes), wanted=share)

    def encode(self, reference: str, closing: str | None = None) -> tuple[list[int], list[int]]:
        """``(head, tail)``: ids of closing and marker, and ids of the reference's own tokens.

        ``closing`` (default: the format's) changes the head only: all rollouts of a prompt share one tail.
        """
        head, tail = self._encode(self._fmt.closing, reference)
        if closing is None or closing == self._fmt.closing:
            return head, tail
        return self._encode(closing, reference)[0], tail

    def _encode(self, closing: str, reference: str) -> tuple[list[int], list[int]]:
        before = closing + self._fmt.answer_marker
        text = before + reference
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        if self._text.byte_level and (reading := self._text.read(ids)).text() == text:
            position = reading.length(before)
            split = reading.reach(position)
            # tokens [0, split) reach the boundary; where the last of them passes it, it overlaps the reference
            split -= reading.offset(split) > position
        else:  # a normalizer changed the text, or there are no byte pieces: the tokenizer's own character spans
            ends = [end for _, end in encoded["offset_mapping"]]
            split = next((token for token, end in enumerate(ends) if end > len(before)), len(ids))
        return ids[:split], ids[split:]

    def score(
        self,
        model: PreTrainedModel | WithoutAdapter,
        prompt_ids_P: Sequence[Sequence[int]],
        reasoning_ids_PG: Sequence[Sequence[Sequence[int]]],
        references_P: Sequence[str],
        *,
        closings_PG: Sequence[Sequence[str]] | None = None,
        starts_PG: Sequence[Sequence[int]] | None = None,
        modes_P: Sequence[ThinkingMode] | None = None,
        masked: bool = False,
        ranks: bool = False,
        prefixes: PrefixPlan | None = None,
    ) -> ReferenceScores:
        """Float32 log-probabilities of every reference token, at temperature 1, without gradients or dropout.

        Args:
            model: the unwrapped policy; its train/eval flags are left as found, also on an error.
            prompt_ids_P: the rendered prompts' ids, unpadded and not empty.
            reasoning_ids_PG: the leading completion ids to keep (`SplitGroups.reasoning_ids_PG`).
            references_P: the references.
            closings_PG: the text that closes each reasoning (`SplitGroups.closings_PG`); default the format's.
            starts_PG: the completion token with which each reasoning begins (`SplitGroups.reasoning_starts_PG`);
                default 0.
            modes_P: what each prompt says about reasoning (`dro_lab.scoring.split.thinking_mode`); default ``open``.
            masked: also with the reasoning's tokens hidden from attention; all positions stay (DRO v1's baseline).
            ranks: also each token's rank in the vocabulary.
            prefixes: also after prefixes of the reasoning, and right behind the prompt.

        Raises:
            ValueError: a prompt without tokens.
        """
        if any(not prompt for prompt in prompt_ids_P):
            raise ValueError("a prompt without tokens: nothing predicts what follows; give at least one token")
        write = _Writer(self, references_P, eos=self._eos)
        stems, points = [], []
        segmenter = Segmenter(self._tokenizer, prefixes.segment_on) if prefixes else None
        for p, group in enumerate(reasoning_ids_PG):
            for g, ids in enumerate(group):
                start = 0 if starts_PG is None else starts_PG[p][g]
                inner = candidates(segmenter.spans(ids, start, len(ids)), prefixes) if segmenter and prefixes else []
                closing = self._fmt.closing if closings_PG is None else closings_PG[p][g]
                stems.append(
                    Stem(
                        prompt=p,
                        ids=ids,
                        end=write.branch(p, len(ids), closing),
                        fixed=[write.branch(p, len(ids), closing, hides=True)] if masked else (),
                        candidates=[
                            Candidate(point.first, write.branch(p, point.prefix, self._inner_closing(prefixes)))
                            for point in inner
                        ],
                    )
                )
                # the completion token that each point's prefix ends with; the end of the reasoning stands last
                points.append([*(point.prefix - 1 for point in inner), len(ids) - 1 if len(ids) > start else -1])
        modes = modes_P or ["open"] * len(prompt_ids_P)
        roots = [
            write.branch(p, 0, self._no_reasoning(mode, prefixes)) if prefixes else None for p, mode in enumerate(modes)
        ]
        tree = Tree(prompts=prompt_ids_P, roots=roots, stems=stems)
        choose = partial(top_k, k=prefixes.k if prefixes else 0)
        with torch.no_grad(), asked(model) as policy:
            found = self._read(policy, tree, choose, ranks=ranks)
        shape = (len(prompt_ids_P), len(reasoning_ids_PG[0]) if reasoning_ids_PG else 0)
        return _gathered(
            found, write.targets_P, points, shape, k=prefixes.k if prefixes else None, masked=masked, ranks=ranks
        )

    def _read(self, model: PreTrainedModel, tree: Tree, choose: Choose, *, ranks: bool) -> TreeScores:
        """The scores of all branches; the model is in evaluation mode and gradients are off."""
        return self._sharing.engine(model).score(model, tree, choose, ranks=ranks)

    def attach(self, trainer: Any) -> None:
        """Told the trainer once it is built: a scorer may use what it samples with. This one asks the policy alone."""

    def metrics(self) -> Mapping[str, float]:
        """Counts since the start, for the log."""
        return {}

    def _inner_closing(self, prefixes: PrefixPlan | None) -> str:
        """What stands between a prefix of the reasoning, which ends with its line, and the answer marker."""
        return self._fmt.close + self._fmt.close_suffix if prefixes and prefixes.close_prefix else ""

    def _no_reasoning(self, mode: ThinkingMode, prefixes: PrefixPlan) -> str:
        """What stands between the prompt and the answer marker where there is no reasoning."""
        if not prefixes.close_prefix or mode == "closed":
            return ""
        return self._fmt.closing if mode == "open" else self._fmt.open + self._fmt.closing


class _Writer:
    """Branches of references, each text encoded once."""

    def __init__(self, scorer: ReferenceScorer, references_P: Sequence[str], *, eos: int) -> None:
        self._scorer, self._references_P = scorer, references_P
        self._heads: dict[tuple[int, str], list[int]] = {}
        self.targets_P = [[*scorer.encode(reference)[1], eos] for reference in references_P]

    def branch(self, prompt: int, after: int, closing: str, *, hides: bool = False) -> Branch:
        if (prompt, closing) not in self._heads:
            self._heads[prompt, closing] = self._scorer.encode(self._references_P[prompt], closing)[0]
        return Branch(after, self._heads[prompt, closing], self.targets_P[prompt], hides)


def _gathered(
    found: TreeScores,
    targets_P: Sequence[Sequence[int]],
    points: Sequence[Sequence[int]],
    shape: tuple[int, int],
    *,
    k: int | None,
    masked: bool,
    ranks: bool,
) -> ReferenceScores:
    """Padded tensors of a tree's scores. ``points``: of every stem, the tokens of its candidates and of its end."""
    width = max(map(len, targets_P), default=1)
    length_P1 = torch.tensor([len(targets) - 1 for targets in targets_P]).view(-1, 1)
    places_R = torch.arange(width)

    def padded(rows: Sequence[Tensor | None], column: int = 0) -> Tensor:
        table = torch.zeros(len(rows), width)
        for number, row in enumerate(rows):
            assert row is not None
            table[number, : len(row)] = row[:, column]
        return table

    ends = [stem.end for stem in found.stems]
    more: dict[str, Tensor] = {}
    if ranks:
        more["ranks_PGR"] = padded(ends, 1).view(*shape, width)
    if masked:
        more["masked_logps_PGR"] = padded([stem.fixed[0] for stem in found.stems]).view(*shape, width)
    if k is not None:
        tables = [_points(stem, ends_K, k, width) for stem, ends_K in zip(found.stems, points, strict=True)]
        names = ("prefix_logps_PGKR", "prefix_mask_PGK", "prefix_ends_PGK", "prefix_entropies_PGK")
        for name, columns in zip(names, zip(*tables, strict=True), strict=True):
            more[name] = torch.stack(columns).view(*shape, *columns[0].shape)
        more["no_reasoning_logps_PR"] = padded(found.roots)
    eos = targets_P[0][-1] if targets_P else 0
    ids = [[*targets, *[eos] * (width - len(targets))] for targets in targets_P]
    return ReferenceScores(
        logps_PGR=padded(ends).view(*shape, width),
        mask_PR=places_R < length_P1,
        eos_PR=places_R == length_P1,
        ids_PR=torch.tensor(ids, dtype=torch.int64).view(len(targets_P), width),
        **more,
    )


def _points(stem: StemScores, ends_K: Sequence[int], k: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One rollout's log-probabilities (K, R), which points there are, the tokens they end with and the entropies."""
    assert stem.end is not None
    logps_KR, mask_K = torch.zeros(k + 1, width), torch.arange(k + 1) <= len(stem.chosen)
    ends, entropies = torch.full((k + 1,), -1), torch.full((k + 1,), torch.nan)
    for place, row in enumerate([*stem.candidates, stem.end]):
        logps_KR[place, : len(row)] = row[:, 0]
    for place, number in enumerate(stem.chosen):
        ends[place], entropies[place] = ends_K[number], stem.entropies[number]
    ends[len(stem.chosen)] = ends_K[-1]
    return logps_KR, mask_K, ends, entropies
