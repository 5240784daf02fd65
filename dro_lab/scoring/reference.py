"""The one scorer: log-probabilities of reference tokens after a sampled reasoning.

    sequence = prompt ids | reasoning ids exactly as sampled | closing + answer marker | reference | (EOS)

The rollout's own answer is replaced by the reference, teacher-forced at temperature 1 whatever the sampling temperature
was (arXiv 2506.13351). No other code of a run asks a policy for log-probabilities.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dro_lab.errors import UserError
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.scoring.tokens import TokenText


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScores:
    """What the scorer measured, on the CPU.

    ``logps_PGR`` is float32 and 0 outside ``mask_PR | eos_PR``. EOS is always scored, as the position after a
    reference's last token, and marked apart, so that each reward decides for itself whether it counts.
    """

    logps_PGR: Tensor
    mask_PR: Tensor  # bool: the reference's own tokens
    eos_PR: Tensor  # bool: the EOS behind them
    ids_PR: Tensor  # int64: reference tokens and EOS, padded with EOS
    ranks_PGR: Tensor | None = None  # float32: words of the vocabulary that are likelier, where asked for


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One row of the forward pass: input ids, where the targets' predictions begin, the targets, where they go."""

    ids: list[int]
    first: int  # the position whose output predicts targets[0]
    targets: list[int]
    prompt: int
    rollout: int
    hidden: tuple[int, int] = (0, 0)  # positions [start, end) that attention does not see


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

    Raises:
        UserError: a size below 1, or a tokenizer without an end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        fmt: ReasoningFormat,
        *,
        tokens_per_batch: int = 2048,
        lm_head_chunk: int = 1024,
    ) -> None:
        for key, value in (("tokens_per_batch", tokens_per_batch), ("lm_head_chunk", lm_head_chunk)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"scorer.{key}={value!r}: must be a whole number of at least 1; 2048 suits a CPU")
        if tokenizer.eos_token_id is None:
            raise UserError("model.path: the tokenizer has no end-of-sequence token; set eos_token in its config")
        self._tokenizer, self._fmt, self._text = tokenizer, fmt, TokenText(tokenizer)
        self._tokens_per_batch, self._lm_head_chunk = tokens_per_batch, lm_head_chunk
        self._eos = int(tokenizer.eos_token_id)

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

    def reference_logps(
        self,
        model: PreTrainedModel,
        prompt_ids_P: Sequence[Sequence[int]],
        reasoning_ids_PG: Sequence[Sequence[Sequence[int]]],
        references_P: Sequence[str],
        *,
        closings_PG: Sequence[Sequence[str]] | None = None,
        hide_reasoning: bool = False,
        ranks: bool = False,
    ) -> ReferenceScores:
        """Float32 log-probabilities of every reference token, at temperature 1, without gradients or dropout.

        Args:
            model: the unwrapped policy; its train/eval flags are left as found, also on an error.
            prompt_ids_P: the rendered prompts' ids, unpadded and not empty.
            reasoning_ids_PG: the leading completion ids to keep (`SplitGroups.reasoning_ids_PG`).
            references_P: the references.
            closings_PG: the text that closes each reasoning (`SplitGroups.closings_PG`); default the format's.
            hide_reasoning: the reasoning's tokens are hidden from attention; all positions stay (DRO v1's baseline).
            ranks: also give each token's rank in the vocabulary.
        """
        tails_P = [self.encode(reference)[1] for reference in references_P]
        sequences, heads = [], dict[tuple[int, str], list[int]]()
        for p, (prompt, reasonings_G) in enumerate(zip(prompt_ids_P, reasoning_ids_PG, strict=True)):
            for g, reasoning in enumerate(reasonings_G):
                closing = self._fmt.closing if closings_PG is None else closings_PG[p][g]
                if (p, closing) not in heads:
                    heads[p, closing] = self.encode(references_P[p], closing)[0]
                before = [*prompt, *reasoning, *heads[p, closing]]
                hidden = (len(prompt), len(prompt) + len(reasoning)) if hide_reasoning else (0, 0)
                targets = [*tails_P[p], self._eos]
                sequences.append(_Sequence([*before, *tails_P[p]], len(before) - 1, targets, p, g, hidden))
        width, groups = max(map(len, tails_P), default=0) + 1, len(reasoning_ids_PG[0]) if reasoning_ids_PG else 0
        logps_PGR = torch.zeros(len(tails_P), groups, width)
        ranks_PGR = torch.zeros(len(tails_P), groups, width) if ranks else None
        plain = _plain_head(model)
        with torch.no_grad(), evaluating(model):
            for batch in self._batches(sequences, plain):
                for sequence, found in zip(batch, self._forward(model, batch, plain, ranks), strict=True):
                    logps_PGR[sequence.prompt, sequence.rollout, : len(found)] = found[:, 0]
                    if ranks_PGR is not None:
                        ranks_PGR[sequence.prompt, sequence.rollout, : len(found)] = found[:, 1]
        length_P1 = torch.tensor([len(tail) for tail in tails_P]).view(-1, 1)
        places_R = torch.arange(width)
        ids = [tail + [self._eos] * (width - len(tail)) for tail in tails_P]
        return ReferenceScores(
            logps_PGR=logps_PGR,
            mask_PR=places_R < length_P1,
            eos_PR=places_R == length_P1,
            ids_PR=torch.tensor(ids, dtype=torch.int64).view(len(tails_P), width),
            ranks_PGR=ranks_PGR,
        )

    def _batches(self, sequences: list[_Sequence], plain: bool) -> Iterator[list[_Sequence]]:
        """Micro-batches of similar length, within the bounds on tokens and, where needed here, on logits."""
        batch: list[_Sequence] = []
        first = 0
        for sequence in sorted(sequences, key=lambda sequence: len(sequence.ids)):
            width, rows = len(sequence.ids), len(batch) + 1  # sorted: the newest is the longest
            first = min(first, sequence.first) if batch else sequence.first
            logits = 0 if plain else rows * (width - first)
            if batch and (rows * width > self._tokens_per_batch or logits > self._lm_head_chunk):
                yield batch
                batch, first = [], sequence.first
            batch.append(sequence)
        if batch:
            yield batch

    def _forward(self, model: PreTrainedModel, batch: list[_Sequence], plain: bool, ranks: bool) -> Sequence[Tensor]:
        """(targets, 1) of each sequence: the targets' log-probabilities; with ``ranks`` (targets, 2), ranks behind."""
        device = model.device
        width = max(len(sequence.ids) for sequence in batch)
        rows = [sequence.ids + [self._eos] * (width - len(sequence.ids)) for sequence in batch]
        ids_BT = torch.tensor(rows, device=device)
        lengths_B1 = torch.tensor([[len(sequence.ids)] for sequence in batch], device=device)
        # padding stands on the right: the default positions are right, and causal attention never sees it
        places_T = torch.arange(width, device=device)
        mask_BT = (places_T < lengths_B1).long()
        inputs: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
        if any(sequence.hidden[1] for sequence in batch):
            hidden_B2 = torch.tensor([sequence.hidden for sequence in batch], device=device)
            inputs["attention_mask"] = mask_BT * ~((places_T >= hidden_B2[:, :1]) & (places_T < hidden_B2[:, 1:]))
            inputs["position_ids"] = places_T.expand(len(batch), -1)
        counts = [len(sequence.targets) for sequence in batch]
        row_N = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(counts)).to(device)
        place_N = torch.cat([torch.arange(s.first, s.first + len(s.targets)) for s in batch]).to(device)
        target_N = torch.tensor([token for sequence in batch for token in sequence.targets], device=device)
        if plain:
            hidden_ND = model.base_model(**inputs).last_hidden_state[row_N, place_N]
            head = model.get_output_embeddings()
            chunks = zip(hidden_ND.split(self._lm_head_chunk), target_N.split(self._lm_head_chunk), strict=True)
            found = torch.cat([_gather(head(hidden), target, ranks) for hidden, target in chunks])
        else:  # the model rescales or caps its logits: take them from its own forward
            first = min(sequence.first for sequence in batch)
            logits_BTV = model(**inputs, logits_to_keep=width - first).logits
            found = _gather(logits_BTV[row_N, place_N - first], target_N, ranks)
        return found.cpu().split(counts)


def _gather(logits_NV: Tensor, target_N: Tensor, ranks: bool) -> Tensor:
    """(N, 1): float32 log-softmax at the targets; with ``ranks`` (N, 2): how many words are likelier, behind it."""
    logits_NV = logits_NV.float()
    target_N1 = logits_NV.gather(1, target_N[:, None])
    logps_N1 = target_N1 - logits_NV.logsumexp(1, keepdim=True)
    if not ranks:
        return logps_N1
    return torch.cat([logps_N1, (logits_NV > target_N1).sum(1, keepdim=True).float()], 1)


def _plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are the LM head's output alone. Some models scale or cap them, and say so in their config."""
    if model.get_output_embeddings() is None or model.base_model is model:
        return False
    config = model.config.get_text_config().to_dict()
    scaled = (key for key in config if re.search(r"logit|lm_head|output_multiplier", key))
    return all(config[key] in (None, False, 1) for key in scaled)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every module's ``training`` flag is as before, also after an error."""
    modules = [module for module in model.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
