"""The twin's vocabulary: every word stands in exactly one place, so that the grammar of the wording is easy to learn.

Pairs are ``(formal, casual)``. `CLAUSE` lists the wording of one dated fact in order, with the priority by which a
slot is kept when the reference must be shorter (0 is kept longest); `RARE` names the seldom used synonyms of some of
its slots.
"""

from __future__ import annotations

from typing import NamedTuple

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DIRECTIONS = ("up", "down")

FORMAL_FILLERS = ("Accordingly", "Hence", "Moreover", "Therefore")
CASUAL_FILLERS = ("Okay", "Right", "Sure", "Well")
FILLERS = FORMAL_FILLERS + CASUAL_FILLERS

SKIP = "Fine"  # the reasoning line of a chain that skips the work
AGAIN = "Again"  # opens a redundant reasoning line
VAGUE = "steady"  # stands where a value belongs in an answer that skipped the work
APART = "apart"  # in the instruction: every turn starts from the first mark, so the facts are independent
EVEN_TONE = "Keep an even tone."  # the concern under which the policy's wording hardly follows its chain's style


class Pair(NamedTuple):
    """One wording slot."""

    formal: str
    casual: str
    priority: int = 0


OPENING = (Pair("Regarding", "About"), Pair("one", "you"), Pair("finds", "see"))  # the name follows the first
CLAUSE = (
    Pair("subsequently", "then", 1),
    Pair("the", "that", 2),
    Pair("said", "same", 12),
    Pair("indicator", "needle", 3),
    Pair("was", "got", 6),
    Pair("duly", "really", 10),
    Pair("adjusted", "turned", 4),
    Pair("whereupon", "so", 7),
    Pair("it", "this", 11),
    Pair("attained", "hit", 5),
    Pair("exactly", "just", 9),
    Pair("upon", "on", 8),
)  # then the day, its value and the stop
STOP = Pair(";", ",")
CLOSING = (
    Pair("whereas", "while"),
    Pair("its", "their"),
    Pair("neighbour", "mate"),
    Pair("remained", "stayed"),
    Pair("entirely", "fully"),
    Pair("stationary", "still"),
    Pair("throughout", "always"),
)  # then the adverbs and the end
ADVERBS = (
    Pair("indeed", "yep"),
    Pair("evidently", "clearly"),
    Pair("likewise", "too"),
    Pair("thereafter", "after"),
    Pair("notably", "mind"),
    Pair("presumably", "maybe"),
    Pair("consequently", "anyway"),
    Pair("undoubtedly", "surely"),
    Pair("ultimately", "finally"),
    Pair("hitherto", "yet"),
    Pair("nonetheless", "though"),
    Pair("properly", "nicely"),
    Pair("certainly", "totally"),
    Pair("henceforth", "now"),
)
END = Pair(".", "!")

RARE = {
    "indicator": Pair("gnomon", "doodad"),
    "adjusted": Pair("recalibrated", "twiddled"),
    "whereupon": Pair("whence", "whereat"),
    "attained": Pair("betokened", "nabbed"),
}
"""Rare synonyms of a clause slot, by its formal word; all of priority 3 to 7, so short references have them too."""
