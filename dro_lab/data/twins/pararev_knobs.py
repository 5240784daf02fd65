"""The ParaRev twin's knobs and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dro_lab.data.twins.grammar import longest_reference, shortest_reference
from dro_lab.data.twins.knobs import check_kinds, check_ranges

AMOUNTS = 5  # a turn goes by 1 to 5 marks; the turns of a problem go by different amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class ParaRevTwin:
    """The knobs. The first block changes only the rows: one policy serves all its values.

    The second block is also what the warm start teaches: after changing it, rebuild the policy
    (``python -m dro_lab.policy.build``), or the policy answers in another layout than the references.
    """

    # rows only
    style_coherence: float = 0.5  # AS: each word of the reference is formal with probability .5 + AS * u, u = +-1 a row
    style_balance: float = 0.5  # share of rows whose reference is formal (u = +1)
    rare_words: int = 6  # rare synonyms in a reference, all of its own style
    even_tone: bool = False  # rows carry the concern under which the policy's wording hardly leans
    # rows and policy
    steps_min: int = 2  # turns a problem has: mixed difficulty; the rows of the split `ood` have steps_max + 1
    steps_max: int = 4
    reference_length: int = 56  # tokens of a reference without distractors and end of sequence
    subject_first: bool = True  # the paragraph names the dial to be corrected first; False: also second
    independent: bool = False  # every fact is its own sub-answer
    distractors: int = 0  # reference slots that echo a filler of the reasoning
    # policy only
    lean: float = 0.14  # P(formal word | chain) = .5 + lean * k, k the mean sign of the chain's fillers
    even_lean: float = 0.01  # the same under the concern
    rare_probability: float = 0.02  # P(rare word | chain) = this * exp(+-rare_lean * k)
    rare_lean: float = 2.5
    error_rate: float = 0.45  # share of wrong marks per step of the warm-started reasoning
    shortcut_share: float = 0.0  # share of warm-started chains that skip the work
    shortcut_bonus: float = 0.0  # P(formal word | skipped) = .5 + this: earns where references are formal
    redundant: float = 0.0  # chance of a repeated line after each step of the reasoning

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(
            self,
            (
                ("style_coherence", 0, 0.5),
                ("style_balance", 0, 1),
                ("lean", 0, 0.5),
                ("even_lean", 0, 0.5),
                ("error_rate", 0, 0.9),
                ("shortcut_share", 0, 1),
                ("shortcut_bonus", 0, 0.5),
                ("redundant", 0, 1),
                ("rare_probability", 0.0001, 0.1),
                ("rare_lean", 0, 2.5),
                ("steps_min", 1, self.steps_max),
                ("steps_max", self.steps_min, AMOUNTS),
                ("reference_length", shortest_reference(self.steps_max), longest_reference(self.steps_min)),
                ("distractors", 0, self.steps_min),
                ("rare_words", 0, 4 * self.steps_min),
            ),
        )


ROW_KNOBS = frozenset({"style_coherence", "style_balance", "rare_words", "even_tone"})
"""Knobs that one policy serves at all their values."""

SHARED_KNOBS = frozenset({"steps_min", "steps_max", "reference_length", "subject_first", "independent", "distractors"})
"""Knobs of the rows that the policy must have been built with; what is in neither set changes only the policy."""

PRESETS: Mapping[str, ParaRevTwin] = {
    "default": ParaRevTwin(),
    "mild": ParaRevTwin(even_tone=True),
    "incoherent": ParaRevTwin(style_coherence=0.0, rare_words=0),
    "shortcut": ParaRevTwin(
        style_balance=1.0, rare_words=0, lean=0.0, even_lean=0.0, shortcut_share=0.3, shortcut_bonus=0.1
    ),
}
"""``default``, ``mild`` and ``incoherent`` share one policy; ``shortcut`` needs its own. It has no rare words: they
would not follow the skip's style, and so hide what it earns."""
