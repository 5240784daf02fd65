"""The policy of a trainer, lent to those who sample from it or ask it for probabilities outside an update."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from dro_lab.launch.group import Ranks
from dro_lab.training.greedy import greedy_decoding
from dro_lab.training.weights import is_split, plain_copy, underlying


class LentPolicy:
    """Stands before TRL's trainer in the order of classes."""

    policy: Any
    accelerator: Any
    args: Any
    ranks: Ranks
    kind: type[PreTrainedModel]  # the policy's class, before an engine made it its own
    _generate_single_turn: Any

    def readable(self) -> PreTrainedModel:
        """The policy as a plain model, to be asked for probabilities: itself, or where devices hold parts of it a copy.

        Of a policy with an adapter the model whose layers are adapted. All ranks must call it.
        """
        if is_split(self.policy):
            dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
            policy = plain_copy(self.policy, self.kind, self.accelerator.device, dtype=dtype)
        else:
            policy = underlying(self.policy)
        self.lent = weakref.ref(policy)
        return policy

    def sample(
        self, prompt_ids: Sequence[Sequence[int]], n: int, *, batch_size: int, seed: int, greedy: bool = False
    ) -> list[list[int]]:
        """``n`` completions a prompt, prompt-major, by the engine and settings of training; ``greedy``: the likeliest.

        Training's own random numbers are left as they were, so evaluating more often never changes a run.
        """
        repeated = [list(ids) for ids in prompt_ids for _ in range(n)]
        size = max(1, batch_size // n) * n
        model, training = self.policy, self.policy.training
        model.eval()
        try:
            with torch.random.fork_rng(), greedy_decoding(self) if greedy else nullcontext():
                torch.manual_seed(seed)
                if self.ranks.count > 1:
                    return self._sample_together(repeated, n, size=size, seed=seed)
                return [
                    list(ids)
                    for start in range(0, len(repeated), size)
                    for ids in self._generate_single_turn(repeated[start : start + size], None, {}, n)[0]
                ]
        finally:
            model.train(training)

    def _sample_together(self, prompts: list[list[int]], n: int, *, size: int, seed: int) -> list[list[int]]:
        """The batches dealt out to the ranks, each with random numbers of its own; all get all completions.

        Every rank samples equally many batches of one size, since engines that split weights, and a vLLM server, want
        all ranks at once: what is missing is filled with what is there, and thrown away.
        """
        batches = -(-len(prompts) // size)
        batches += -batches % self.ranks.count
        filled = [prompts[number % len(prompts)] for number in range(batches * size)]
        own: list[list[list[int]]] = []
        for number in range(self.ranks.index, batches, self.ranks.count):
            torch.manual_seed(seed + number)
            batch = filled[number * size : (number + 1) * size]
            own.append([list(ids) for ids in self._generate_single_turn(batch, None, {}, n)[0]])
        everybody = self.ranks.all(own)
        dealt = [everybody[number % self.ranks.count][number // self.ranks.count] for number in range(batches)]
        return [ids for batch in dealt for ids in batch][: len(prompts)]
