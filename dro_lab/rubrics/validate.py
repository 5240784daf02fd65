"""A rubric must fit its own reference: checks that the reference fails are ill-posed and dropped (DRO, 2506.13351)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from dro_lab.judges.protocol import NO, UNKNOWN, YES, Judge, Question
from dro_lab.judges.quality import met
from dro_lab.rubrics.file import Entry, content_key
from dro_lab.rubrics.writers import NO_REPLY
from dro_lab.rubrics.writing import Written
from dro_lab.types import Row

FAILED = "the reference fails it"
UNDECIDED = "the judge cannot say whether the reference meets it"


@dataclass
class Tally:
    """What became of the queries and checks of one command."""

    queries: int = 0
    written: int = 0  # checks that could be read
    kept: int = 0
    ungated: int = 0  # queries left without any check
    unanswered: int = 0  # queries without a reply or without any verdict: not in the file, to be asked again
    malformed: Counter[str] = field(default_factory=Counter)  # queries by reason
    dropped: Counter[str] = field(default_factory=Counter)  # checks by reason
    asked: Counter[str] = field(default_factory=Counter)  # checks by id
    passed: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Entry) -> None:
        """Count one query's entry."""
        self.queries += 1
        self.written += len(entry.checks) + sum(item["reason"] in (FAILED, UNDECIDED) for item in entry.dropped)
        self.kept += len(entry.checks)
        self.ungated += not entry.checks
        self.malformed.update([entry.malformed] if entry.malformed else [])
        self.dropped.update(item["reason"] for item in entry.dropped)
        self.passed.update(check.id for check in entry.checks)
        self.asked.update(check.id for check in entry.checks)
        self.asked.update(item["check"]["id"] for item in entry.dropped if item["check"].get("id"))


def validated(rows: Sequence[Row], written: Sequence[Written | None], judge: Judge, *, template: str) -> list[Entry]:
    """An entry for each row with a reply whose checks the judge could decide at least in part."""
    pairs = [(row, rubric) for row, rubric in zip(rows, written, strict=True) if rubric is not NO_REPLY]
    questions = [
        Question(row=row, answer=row.reference, check=check)
        for row, rubric in pairs
        if rubric is not None
        for check in rubric.checks
    ]
    found = iter(judge.verdicts(questions) if questions else [])
    entries = []
    for row, rubric in pairs:
        assert rubric is not None
        verdicts = [met(next(found), check) for check in rubric.checks]
        if verdicts and all(verdict == UNKNOWN for verdict in verdicts):
            continue
        reasons = {NO: FAILED, UNKNOWN: UNDECIDED}
        decided = list(zip(rubric.checks, verdicts, strict=True))
        entries.append(
            Entry(
                key=content_key(row, template),
                id=row.id,
                checks=tuple(check for check, verdict in decided if verdict == YES),
                dropped=(
                    *({"check": asdict(check), "reason": reasons[v]} for check, v in decided if v != YES),
                    *({"check": {"text": text}, "reason": reason} for text, reason in rubric.dropped),
                ),
                malformed=rubric.malformed,
                reply=rubric.reply,
            )
        )
    return entries
