"""The judge's audit against people: their preferences are read right."""

from collections import Counter
from pathlib import Path

import pytest

from dro_lab.errors import UserError
from dro_lab.judge_audit import measure
from dro_lab.judge_audit.preferences import CHOICES, preference_figures, read
from tests.judge_audit_fixture import AUDIT, Scripted, by_name, judgement, write

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "pararev" / "parareval_second_annotation.jsonl"


def test_agreement_with_people(tmp_path):
    given = [
        judgement("A", original_paragraph="1"),
        judgement("B", original_paragraph="2"),
        judgement("B", original_paragraph="3", model_A_paragraph="bad", model_B_paragraph="good"),
        judgement("None", original_paragraph="4"),
        judgement("Both", original_paragraph="5", model_A_paragraph="bad"),
    ]
    preferences, refused, digest = read(write(tmp_path / "p.jsonl", given))
    assert (len(preferences), refused, len(digest)) == (5, [], 64)

    def likes_good(pair):
        if pair.first == pair.second:
            return 0.5
        return float(pair.first == "good")

    found = by_name(preference_figures(Scripted(preference=likes_good), preferences, AUDIT), "agreement with people")
    decided, three = found["of A or B, where the person chose one"], found["of A, B or neither"]
    assert (decided.value, decided.n, decided.unknown) == (pytest.approx(2 / 3), 3, 0)  # right, wrong, right
    assert (three.value, three.n) == (pytest.approx(3 / 5), 5)  # the fourth is no tie to the judge, the fifth is
    assert found["chance, of A or B"].value == pytest.approx(2 / 3)
    assert found["chance, of A, B or neither"].value == pytest.approx(2 / 5)
    first = by_name(
        preference_figures(Scripted(preference=lambda pair: 1.0), preferences, AUDIT), "agreement with people"
    )
    assert first["of A or B, where the person chose one"].value == 0.5  # it has chosen neither
    assert first[measure.SWAPPED].value == 1.0


def test_rows_that_are_no_judgement_are_refused_and_counted(tmp_path):
    rows = [judgement(), judgement("C"), judgement(instruction=" "), judgement(eval_annotation=None), {"a": 1}]
    preferences, refused, _ = read(write(tmp_path / "p.jsonl", rows))
    assert len(preferences) == 1
    assert [row.reason.split(" is ")[0] for row in refused] == [
        "eval_annotation.preference",
        "instruction",
        "eval_annotation.preference",
        "original_paragraph",
    ]
    with pytest.raises(UserError, match=r"audit\.preferences=.*no row is a human judgement"):
        read(write(tmp_path / "q.jsonl", rows[1:]))
    with pytest.raises(UserError, match="no such file"):
        read(str(tmp_path / "absent.jsonl"))


def test_the_published_judgements_are_read_whole():
    if not SHARED.exists():
        pytest.skip(f"the published rows are not here ({SHARED})")
    preferences, refused, _ = read(str(SHARED))
    assert (len(preferences), refused) == (129, [])
    assert Counter(preference.choice for preference in preferences) == {0.0: 52, 1.0: 47, 0.5: 30}
    assert set(CHOICES) == {"A", "B", "Both", "None"}
    assert len({preference.pair.row.prompt[0]["content"] for preference in preferences}) == 44
