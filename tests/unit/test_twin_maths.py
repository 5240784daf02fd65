r"""Laws of the maths twin: pure rows, disjoint splits, exact truth, chains with known kinds of segments."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dro_lab.data import backtracking
from dro_lab.data.twins.grammar import Piece, text_of
from dro_lab.data.twins.load import load_twin, make_rows
from dro_lab.data.twins.maths import TWIN, vocabulary_texts
from dro_lab.data.twins.maths_chains import (
    BACKTRACKING,
    CONCLUSION,
    REDUNDANT,
    STEP,
    Place,
    SegmentCounts,
    after,
    count_segments,
    cut_example,
    draw,
    guess_shares,
    kinds,
    next_shares,
    redo_shares,
    sample_chain,
    step_shares,
)
from dro_lab.data.twins.maths_rows import MathsTwin, Problem, make_row, prompt_of, sample_problem, split_of
from dro_lab.data.twins.protocol import SPLITS
from dro_lab.errors import UserError
from dro_lab.policy.build import CONTEXT
from dro_lab.policy.tokenizer import train_tokenizer
from dro_lab.policy.warmstart import Encoder
from dro_lab.rubrics.checks import checks_of
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat, Splitter

DEFAULT = TWIN.presets["default"]
RIGHT = replace(DEFAULT, error_rate=0.0, slip=0.0)
PLAIN = replace(RIGHT, redundancy=0.0, backtracking=0.0, conclusion=0.0, early=0.0)
LITERAL = Problem(owner="Ann", thing="coins", start=4, events=(("Bob", 3), ("Cleo", -2)))
READ = "Bob +3 = 7\n\nSo far 7\n\nWait, Bob +3 = 7\n\nWe have 7\n\nCleo -2 = 5\n\n\\boxed{5}\n\n"


def rows_of(split: str, count: int, *, seed: int = 0, knobs: MathsTwin = DEFAULT):
    return make_rows(TWIN, knobs, split, count, seed=seed)


def sampled_problem(rng: np.random.Generator, steps: tuple[int, int] = (2, 4)) -> Problem:
    return sample_problem(DEFAULT, "train", rng, steps=steps)


def reasoning_of(pieces: tuple[Piece, ...]) -> str:
    return text_of(pieces).removesuffix("</think>")


# ------------------------------------------------------------------------------------------------ rows


def test_a_literal_problem() -> None:
    assert prompt_of(LITERAL)[0]["content"] == (
        "Ann has 4 coins. Bob gives 3. Cleo takes 2. How many coins has Ann now?"
    )
    assert LITERAL.counts() == (7, 5)


def test_a_row_is_a_pure_function_of_its_index() -> None:
    rows = rows_of("train", 12, seed=3)
    assert rows[7] == make_row(DEFAULT, "train", 7, seed=3) == make_rows(TWIN, DEFAULT, "train", 2, seed=3, start=6)[1]
    assert rows[7].prompt != make_row(DEFAULT, "train", 7, seed=4).prompt


def test_splits_share_no_problem_and_ood_takes_more_steps() -> None:
    for knobs, trained, beyond in ((DEFAULT, {2, 3, 4}, {5, 6}), (TWIN.presets["long"], {4, 5, 6}, {7, 8})):
        rows = {split: rows_of(split, 400, knobs=knobs) for split in SPLITS}
        texts = {split: {row.prompt[0]["content"] for row in found} for split, found in rows.items()}
        assert sum(map(len, texts.values())) == len(set().union(*texts.values()))
        steps = {split: {row.columns["steps"] for row in found} for split, found in rows.items()}
        assert steps == {**dict.fromkeys(("train", "validation", "test"), trained), "ood": beyond}
    rng = np.random.default_rng(0)
    assert {split_of(sample_problem(DEFAULT, "test", rng, steps=(2, 4))) for _ in range(50)} == {"test"}


def test_the_truth_can_be_read_from_the_prompt() -> None:
    """Recomputed from the text alone."""
    for split in ("test", "ood"):
        for row in rows_of(split, 150, seed=2):
            content = row.prompt[0]["content"]
            told = re.findall(r"(gives|takes) (\d)\.", content)
            total = int(re.findall(r"has (\d) ", content)[0])
            total += sum(int(amount) * {"gives": 1, "takes": -1}[verb] for verb, amount in told)
            assert len(told) == row.columns["steps"]
            assert row.columns["answer"] == str(total)
            assert row.reference == f"\\boxed{{{total}}}"
            ((start, end),) = row.columns["truth_spans"]
            assert row.reference[start:end] == str(total)


def test_answers_are_spread_over_the_digits() -> None:
    answers = Counter(row.columns["answer"] for row in rows_of("train", 1000))
    assert set(answers) == {str(digit) for digit in range(10)}
    assert max(answers.values()) < 200


def test_only_the_last_box_counts() -> None:
    for row in rows_of("test", 30):
        truth = row.columns["answer"]
        other = str((int(truth) + 1) % 10)
        assert TWIN.quality(row.reference, row) == 1.0
        assert TWIN.quality(f"The answer is \\boxed{{ {truth} }}.", row) == 1.0
        assert TWIN.quality(f"\\boxed{{{other}}} or \\boxed{{{truth}}}", row) == 1.0
        assert TWIN.quality(f"\\boxed{{{truth}}} or \\boxed{{{other}}}", row) == 0.0
        assert [TWIN.quality(text, row) for text in ("", truth, "\\boxed{", "\\boxed{}", f"\\boxed{{{truth}")] == [
            0
        ] * 5


def test_references_meet_their_own_checks_and_others_do_not() -> None:
    row = rows_of("train", 1)[0]
    number, one = checks_of(row.columns)
    answers = {row.reference: (1, 1), "7": (0, 0), "\\boxed{x}": (0, 1), "\\boxed{7} \\boxed{7}": (1, 0)}
    for answer, wanted in answers.items():
        assert (TWIN.decide(answer, row, number), TWIN.decide(answer, row, one)) == wanted
    assert TWIN.decide(row.reference, row, replace(number, predicate={"kind": "sign"})) == -1


def test_the_loaded_twin_has_its_splits_and_knobs() -> None:
    sizes = {"train": 8, "validation": 6, "test": 4, "ood": 3}
    task = load_twin("maths", {"preset": "long", "amount_max": 3}, sizes=sizes, seed=5)
    knobs = replace(TWIN.presets["long"], amount_max=3)
    assert {split: len(rows) for split, rows in task.splits.items()} == sizes
    assert task.splits["train"] == rows_of("train", 8, seed=5, knobs=knobs)
    assert (task.metric_name, task.provenance.kind, task.answer_marker) == ("accuracy", "twin", "")


# ------------------------------------------------------------------------------------------------ the truth of a text


def test_a_literal_reasoning_is_read_segment_by_segment() -> None:
    kinds_, counts = zip(*kinds(READ), strict=True)
    assert kinds_ == (STEP, REDUNDANT, BACKTRACKING, REDUNDANT, STEP, CONCLUSION)
    assert counts == (7, 7, 7, 7, 5, 5)
    assert count_segments(READ) == SegmentCounts(necessary=2, redundant=2, backtracking=1, conclusion=1)
    assert count_segments("Bob +3 = 7\n\nBob +3 = 7\n\nnoise = 4\n\n\n\n") == SegmentCounts(1, 1, other=1)
    assert count_segments("") == SegmentCounts()


def test_what_the_reader_finds_is_what_the_writer_chose() -> None:
    """Counts that the reader states against the places where the writer began a segment."""
    rng = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    for _ in range(300):
        problem = sampled_problem(rng)
        chain = sample_chain(DEFAULT, problem, rng)
        read = kinds(reasoning_of(chain.pieces))
        inner = [kind for kind, _ in read if kind != CONCLUSION]
        assert len(inner) == len(chain.places) - 1
        done = [place.done for place in chain.places]
        assert [kind == STEP for kind in inner] == [b > a for a, b in pairwise(done)]
        assert [count for _, count in read][: len(inner)] == [place.count for place in chain.places[1:]]
        seen.update(kind for kind, _ in read)
    assert set(seen) == {STEP, REDUNDANT, BACKTRACKING, CONCLUSION}


def test_redundant_and_backtracking_segments_come_at_their_knobs_rates() -> None:
    rng = np.random.default_rng(1)
    for knobs in (DEFAULT, replace(DEFAULT, redundancy=0.1, backtracking=0.6), TWIN.presets["lean"]):
        totals = np.zeros(3)
        for _ in range(1200):
            found = count_segments(reasoning_of(sample_chain(knobs, sampled_problem(rng), rng).pieces))
            totals += (found.necessary, found.redundant, found.backtracking)
        assert totals[1] / totals[0] == pytest.approx(knobs.redundancy, abs=0.03)
        assert totals[2] / totals[0] == pytest.approx(knobs.backtracking, abs=0.03)


def test_longer_reasoning_is_no_better() -> None:
    """Redundant and backtracking segments cost some accuracy: what a process reward removes is no loss."""
    rng = np.random.default_rng(2)
    quality = {}
    for name in ("default", "lean"):
        problems = [sampled_problem(rng) for _ in range(3000)]
        chains = [sample_chain(TWIN.presets[name], problem, rng) for problem in problems]
        rights = [chain.count == problem.counts()[-1] for problem, chain in zip(problems, chains, strict=True)]
        quality[name] = np.mean(rights)
    assert 0.35 < quality["default"] < 0.45
    assert quality["lean"] > quality["default"]


def test_backtracking_phrases_are_one_list() -> None:
    assert len(set(backtracking.PHRASES)) == len(backtracking.PHRASES)
    assert all(phrase == phrase.lower() for phrase in backtracking.PHRASES)
    assert {phrase.lower() for phrase in backtracking.TWIN_PHRASES} <= set(backtracking.PHRASES)
    assert backtracking.count(READ) == 1
    assert backtracking.count("Wait, no. Let me double-check; HMM. Let\u2019s verify.") == 4
    assert backtracking.count("The waiter awaits; we have 7.") == 0
    rng = np.random.default_rng(3)
    for _ in range(100):
        text = reasoning_of(sample_chain(DEFAULT, sampled_problem(rng), rng).pieces)
        assert backtracking.count(text) == count_segments(text).backtracking


# ------------------------------------------------------------------------------------------------ chains


def test_a_plain_right_chain_reads_as_written() -> None:
    rng = np.random.default_rng(0)
    chain = sample_chain(PLAIN, LITERAL, rng)
    assert text_of(chain.pieces) == "Bob +3 = 7\n\nCleo -2 = 5\n\n</think>"
    assert not any(piece.options for piece in chain.pieces)
    assert chain.places == (Place(0, 4, 0), Place(6, 7, 1), Place(12, 5, 2))
    said = sample_chain(replace(PLAIN, conclusion=1.0), LITERAL, rng)
    assert text_of(said.pieces) == "Bob +3 = 7\n\nCleo -2 = 5\n\n\\boxed{5}\n\n</think>"


def test_literal_shares() -> None:
    assert (after(7, 5), after(2, -5), after(7, -5)) == (9, 0, 2)
    assert step_shares(4, 0.18) == pytest.approx({digit: 0.82 if digit == 4 else 0.02 for digit in range(10)})
    assert redo_shares(4, 4, correction=0.2, slip=0.09)[4] == pytest.approx(0.91)
    redone = redo_shares(3, 4, correction=0.2, slip=0.08)
    assert (redone[3], redone[4], redone[0]) == pytest.approx((0.72, 0.2, 0.01))
    assert sum(redone.values()) == pytest.approx(1)
    guess = guess_shares(LITERAL, Place(0, 7, 1), 0.5)
    assert (guess[5], guess[7]) == pytest.approx((0.55, 0.05))
    assert guess_shares(LITERAL, Place(0, 4, 0), 0.5)[5] == pytest.approx(0.325)
    assert guess_shares(LITERAL, Place(0, 3, 2), 0.5)[3] == 1.0


def test_the_share_of_the_box_says_nothing_about_the_segment_before_it() -> None:
    for finished, share in ((True, 0.3), (False, 0.005)):
        for last in ("", STEP, REDUNDANT, BACKTRACKING):
            shares = next_shares(DEFAULT, last=last, finished=finished, going_on="on")
            assert shares[CONCLUSION] == share
            assert sum(shares.values()) == pytest.approx(1)
            assert shares[BACKTRACKING] == (0.25 if last == STEP else 0.0)
    tight = replace(DEFAULT, redundancy=0.8, backtracking=0.8, conclusion=1.0)
    for last in ("", STEP, REDUNDANT, BACKTRACKING):
        assert min(next_shares(tight, last=last, finished=True, going_on="on").values()) >= -1e-12


def test_soft_targets_are_the_distribution_that_words_are_drawn_from() -> None:
    """Over many chains, how often a word comes equals the mean of the shares that its places gave it."""
    rng = np.random.default_rng(4)
    came, expected = defaultdict(float), defaultdict(float)
    for _ in range(1500):
        for piece in sample_chain(DEFAULT, LITERAL, rng).pieces:
            if piece.options:
                assert sum(share for _, share in piece.options) == pytest.approx(1)
                assert piece.text in dict(piece.options)
                came[piece.text] += 1
                for text, share in piece.options:
                    expected[text] += share
    for text, mean in expected.items():
        assert came[text] == pytest.approx(mean, abs=5 * mean**0.5 + 1), text


def test_answers_copy_the_last_count_right_or_wrong() -> None:
    rng = np.random.default_rng(5)
    row = make_row(DEFAULT, "train", 0, seed=0)
    for _ in range(100):
        example = draw(DEFAULT, "noisy", rng)
        reasoning, closed, answer = text_of(example.pieces).partition("</think>")
        if closed and example.first == 0 and example.thinking:
            stated = TWIN.copied(reasoning, answer.strip().removesuffix("<|im_end|>"), row)
            assert stated == ([True] if reasoning else [])
    assert TWIN.copied("Bob +3 = 7\n\nSo far 6", "\\boxed{7}", row) == TWIN.copied("So far 6", "", row) == [False]
    assert TWIN.copied("So far 6", "\\boxed{6}", row) == [True]
    assert TWIN.copied("", "\\boxed{6}", row) == []


def test_cut_chains_answer_behind_a_prefix_closed_or_not() -> None:
    """The loss lies on the answer alone; behind an open prefix it leaves out the share of the box itself."""
    rng = np.random.default_rng(6)
    seen = Counter()
    for _ in range(600):
        chain = sample_chain(DEFAULT, LITERAL, rng)
        example = cut_example(DEFAULT, LITERAL, chain, rng)
        kept, text = text_of(example.pieces[: max(0, example.first - 1)]), text_of(example.pieces)
        assert kept == "" or kept.endswith("\n\n")
        assert reasoning_of(chain.pieces).startswith(kept)
        rest, (answer,) = text.removeprefix(kept), set(re.findall(r"\\boxed\{\d\}", text.removeprefix(kept)))
        kind = {f"{answer}\n\n</think>\n\n{answer}<|im_end|>": "open", f"</think>\n\n{answer}<|im_end|>": "closed"}
        seen[kind.get(rest, rest)] += 1
        if kind.get(rest) == "open":
            assert text_of(example.pieces[example.first :]).startswith("{")
        elif kind.get(rest) is None:
            assert (example.thinking, rest) == (False, f"{answer}<|im_end|>")
        done = count_segments(kept).necessary
        if done == 2 and kind.get(rest) is not None:
            assert answer == f"\\boxed{{{kinds(kept)[-1][1]}}}"
    assert 0.4 < seen["open"] / 600 < 0.6
    assert seen["closed"] > 200


@pytest.mark.parametrize("phase", ["chains", "copy", "noisy"])
def test_examples_are_one_token_a_piece_and_short(phase: str) -> None:
    tokenizer = train_tokenizer(vocabulary_texts(), context=CONTEXT)
    encoder = Encoder(tokenizer)
    rng = np.random.default_rng(7)
    for _ in range(150):
        example = draw(DEFAULT, phase, rng)
        ids = [encoder.id(piece.text) for piece in example.pieces]
        assert tokenizer.encode(text_of(example.pieces), add_special_tokens=False) == ids
        assert {len(tokenizer.encode(t, add_special_tokens=False)) for p in example.pieces for t, _ in p.options} <= {1}
        assert len(ids) < 140
        assert len(encoder.prompt(example.prompt)) < 60


def test_default_chains_end_within_the_budget() -> None:
    """Also with a redundant and the longest backtracking segment behind every step."""
    rng = np.random.default_rng(8)
    wordy = replace(DEFAULT, redundancy=0.8, backtracking=0.8, conclusion=1.0)
    for _ in range(300):
        assert len(sample_chain(wordy, sampled_problem(rng, (4, 4)), rng).pieces) + 6 <= TWIN.max_completion


def test_split_and_reference_fit_the_format() -> None:
    """The run's own splitter and scorer: the answer is found, and every prefix ends where the reference's tokens are
    those of the taught box."""
    tokenizer = train_tokenizer(vocabulary_texts(), context=CONTEXT)
    fmt = ReasoningFormat()
    ids = tokenizer.encode(READ + "</think>\n\n\\boxed{5}<|im_end|>", add_special_tokens=False)
    split = Splitter(tokenizer, fmt).split(ids, "open")
    assert (split.reasoning, split.answer) == (READ.strip(), "\\boxed{5}")
    assert not split.malformed
    assert not split.truncated
    taught = tokenizer.encode("\\boxed{5}", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(taught) == ["\\boxed", "{", "5", "}"]
    assert ReferenceScorer(tokenizer, fmt).encode("\\boxed{5}")[1] == taught
    assert tokenizer.encode(READ + "\\boxed{5}", add_special_tokens=False)[-4:] == taught


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"steps_max": 7}, "steps_max=7: must lie in [2, 6]"),
        ({"steps_min": 5}, "steps_min=5: must lie in [1, 4]"),
        ({"steps_min": 1.5}, "steps_min=1.5: must be a whole number"),
        ({"steps_taught": 7}, "steps_taught=7: must lie in [4, 6]"),
        ({"amount_max": 10}, "amount_max=10: must lie in [1, 9]"),
        ({"error_rate": 1.0}, "error_rate=1.0: must lie in [0, 0.9]"),
        ({"redundancy": -0.1}, "redundancy=-0.1: must lie in [0, 0.8]"),
        ({"backtracking": 0.9}, "backtracking=0.9: must lie in [0, 0.8]"),
        ({"slip": 0.6}, "slip=0.6: must lie in [0, 0.5]"),
        ({"correction": 0.95}, "correction=0.95: must lie in [0, 0.92]"),
        ({"guess": "half"}, "guess=half: must be a number"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        MathsTwin(**knobs)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="unknown split 'dev'"):
        make_row(DEFAULT, "dev", 0, seed=0)


def test_every_knob_is_of_rows_policy_or_both() -> None:
    names = set(MathsTwin.__dataclass_fields__)
    assert names >= TWIN.row_knobs | TWIN.shared_knobs
    assert not TWIN.row_knobs & TWIN.shared_knobs
    assert {"error_rate", "redundancy", "backtracking"} <= names - TWIN.row_knobs - TWIN.shared_knobs
