"""What is scored, in token ids: prompts, the texts sampled after them, and what is put behind each.

    prompt --+-- root                                       (references right behind the prompt)
             +-- stem --+-- ... candidate, candidate ...    (references behind a prefix of the reasoning)
                        +-- end                             (the reference behind the whole reasoning)

A stem is a rollout's reasoning. `dro_lab.scoring.shared` reads each text of the tree once; `dro_lab.scoring.plain`
reads one whole sequence a branch. Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens behind the first ``after`` tokens of a stem (of a prompt, for a root: 0): ``head``, then ``targets``.

    The targets are what is scored. Position ids go on from the prefix. ``hides``: the stem's tokens are not attended
    to, but keep their positions.
    """

    after: int
    head: Sequence[int]
    targets: Sequence[int]
    hides: bool = False

    @property
    def inputs(self) -> list[int]:
        """What is fed: nothing is predicted from the last target."""
        return [*self.head, *self.targets[:-1]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A branch that is scored only if it is chosen, by the entropy of the distribution that produced the stem's token
    number ``place``."""

    place: int
    branch: Branch


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """One rollout: the ids behind its prompt, and its branches. ``end`` stands behind the whole stem."""

    prompt: int
    ids: Sequence[int]
    end: Branch | None = None
    fixed: Sequence[Branch] = ()
    candidates: Sequence[Candidate] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Prompts (ids, not empty), at most one root a prompt, and the stems in any order."""

    prompts: Sequence[Sequence[int]]
    roots: Sequence[Branch | None]
    stems: Sequence[Stem]


@dataclass(slots=True)
class StemScores:
    """A scored branch is (targets, 1) float32 on the CPU: the targets' log-probabilities; (targets, 2) with ranks."""

    end: Tensor | None = None
    fixed: list[Tensor] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)  # of every candidate, nats
    chosen: list[int] = field(default_factory=list)  # numbers of the chosen candidates, ascending
    candidates: list[Tensor] = field(default_factory=list)  # of the chosen


@dataclass(slots=True)
class TreeScores:
    """In the order of the tree."""

    roots: list[Tensor | None]
    stems: list[StemScores]


Choose = Callable[[Sequence[float]], Sequence[int]]
"""``choose(entropies of a stem's candidates) -> numbers of the chosen, ascending``."""
