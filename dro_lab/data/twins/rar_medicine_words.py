"""The RaR-Medicine twin's vocabulary: every word stands in exactly one place, so that the wording is easy to learn.

Pairs are ``(formal, casual)``. `CLAUSE` lists the wording of one finding's dose in order, with the priority by which a
slot is kept when the reference must be shorter (0 is kept longest); `RARE` names seldom used synonyms.
"""

from __future__ import annotations

from dro_lab.data.twins.words import Pair

NAMES = ("Rosa", "Omar", "Lena", "Kofi", "Mei", "Ivan", "Greta", "Pablo")
FINDINGS = ("fever", "cough", "rash", "nausea", "thirst", "tremor", "fatigue", "vertigo")
DIRECTIONS = ("raise", "lower")

FORMAL_FILLERS = ("Clinically", "Conversely", "Evidently", "Thus")
CASUAL_FILLERS = ("Alright", "Hm", "Let", "Now")
FILLERS = FORMAL_FILLERS + CASUAL_FILLERS

START = "Dose"  # opens the reasoning

OPENING = (Pair("Concerning", "With"), Pair("clinicians", "we"), Pair("advise", "say"))  # the name follows the first
CLAUSE = (
    Pair("thereafter", "next", 1),
    Pair("this", "a", 2),
    Pair("prudent", "good", 12),
    Pair("regimen", "plan", 3),
    Pair("becomes", "gets", 6),
    Pair("carefully", "quickly", 10),
    Pair("amended", "changed", 4),
    Pair("whereby", "so", 7),
    Pair("one", "they", 11),
    Pair("receives", "take", 5),
    Pair("precisely", "about", 9),
    Pair("following", "after", 8),
)  # then the finding, its dose and the stop
STOP = Pair(";", ",")
CLOSING = (
    Pair("whilst", "while"),
    Pair("monitoring", "checks"),
    Pair("should", "must"),
    Pair("continue", "go"),
    Pair("daily", "on"),
    Pair("until", "till"),
    Pair("recovery", "better"),
)  # then the adverbs and the end
ADVERBS = (
    Pair("preferably", "ideally"),
    Pair("regardless", "anyhow"),
    Pair("moreover", "also"),
    Pair("presently", "soon"),
    Pair("undoubtedly", "surely"),
    Pair("generally", "mostly"),
    Pair("customarily", "usually"),
    Pair("admittedly", "granted"),
    Pair("ultimately", "finally"),
    Pair("conceivably", "perhaps"),
    Pair("respectively", "each"),
    Pair("sufficiently", "enough"),
)
END = Pair(".", "!")

RARE = {
    "regimen": Pair("posology", "dosing"),
    "amended": Pair("titrated", "tweaked"),
    "receives": Pair("imbibes", "downs"),
    "whereby": Pair("wherewith", "whereon"),
}
"""Rare synonyms of a clause slot, by its formal word; all of priority 3 to 7, so short references have them too."""
