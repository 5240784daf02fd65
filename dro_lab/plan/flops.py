"""FLOPs of a training step by part, two for each multiply-add, matrix products and attention alone.

A forward over ``n`` tokens with ``a`` pairs of a query and a key it attends to, and ``h`` positions put through the LM
head takes

    2 n L (matrices of a layer) + 4 a L heads head_dim + 2 h hidden vocab,

and a backward twice as much (Kaplan et al. 2020, arXiv 2001.08361, section 2.1, with attention and the head counted).
`torch.utils.flop_counter` gives the same numbers where attention computes all ``n * n`` pairs; a plan counts the
causal ones, as fused kernels do.
"""

from __future__ import annotations

from dataclasses import dataclass

from dro_lab.plan.shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One optimizer step of all devices together.

    Args:
        prompts: prompts a step.
        group: rollouts a prompt.
        prompt, completion, reference: tokens of each; ``reasoning``: those of the completion that scoring reads.
        scores_reference: whether anything needs reference probabilities.
        prefixes: scored prefixes of the reasoning beside its end (REPRO's k); 0 for outcome rewards.
        iterations: updates on the same rollouts.
        checkpointing: whether the backward computes activations anew.
        old_logps: whether the sampling policy's log-probabilities are computed before the update.
        reference_model: whether a KL term asks the initial policy.
    """

    prompts: int
    group: int
    prompt: int
    completion: int
    reasoning: int
    reference: int
    scores_reference: bool = True
    prefixes: int = 0
    iterations: int = 1
    checkpointing: bool = False
    old_logps: bool = False
    reference_model: bool = False

    @property
    def rollouts(self) -> int:
        return self.prompts * self.group

    @property
    def sampled_tokens(self) -> int:
        return self.rollouts * self.completion

    @property
    def trained_tokens(self) -> int:
        """Tokens that an update reads: prompts and completions."""
        return self.rollouts * (self.prompt + self.completion)


def causal(tokens: int, *, behind: int = 0) -> int:
    """Pairs of a query and a key: ``tokens`` new ones, each attending to itself, those before it and ``behind``."""
    return tokens * behind + tokens * (tokens + 1) // 2


def forward(shape: ModelShape, *, tokens: int, pairs: int, head: int) -> int:
    """FLOPs of a forward (see above)."""
    layers = 2 * tokens * shape.layers * shape.layer_matrices
    attention = 4 * pairs * shape.layers * shape.heads * shape.head_dim
    return layers + attention + 2 * head * shape.head


def sampling(shape: ModelShape, work: Work) -> int:
    """Every rollout reads its prompt and then each of its tokens once; the head is asked once a token."""
    per_rollout = forward(
        shape,
        tokens=work.prompt + work.completion,
        pairs=causal(work.prompt + work.completion),
        head=work.completion,
    )
    return work.rollouts * per_rollout


def scoring(shape: ModelShape, work: Work) -> int:
    """The shared scorer's reading: each prompt once, each reasoning once, the reference behind each scored prefix.

    Prefixes end anywhere in the reasoning; on average half of it lies behind one. With process rewards the entropy of
    each reasoning token is needed, and the reference right behind the prompt.
    """
    if not work.scores_reference:
        return 0
    prompt = forward(shape, tokens=work.prompt, pairs=causal(work.prompt), head=0)
    entropies = work.reasoning if work.prefixes else 0
    reasoning = forward(shape, tokens=work.reasoning, pairs=causal(work.reasoning, behind=work.prompt), head=entropies)
    whole, half = work.prompt + work.reasoning, work.prompt + work.reasoning // 2
    final = forward(shape, tokens=work.reference, pairs=causal(work.reference, behind=whole), head=work.reference)
    middle = forward(shape, tokens=work.reference, pairs=causal(work.reference, behind=half), head=work.reference)
    plain = forward(shape, tokens=work.reference, pairs=causal(work.reference, behind=work.prompt), head=work.reference)
    of_rollout = reasoning + final + work.prefixes * middle
    return work.prompts * (prompt + (plain if work.prefixes else 0)) + work.rollouts * of_rollout


def training(shape: ModelShape, work: Work) -> int:
    """Forward and backward over prompts and completions, and the further forwards that the settings ask for."""
    length = work.prompt + work.completion
    once = forward(shape, tokens=length, pairs=causal(length), head=work.completion)
    body = forward(shape, tokens=length, pairs=causal(length), head=0)
    updates = work.iterations * (3 * once + (body if work.checkpointing else 0))
    further = once * (int(work.old_logps) + int(work.reference_model))
    return work.rollouts * (updates + further)
