"""Bad input to DRO's parts (rubrics, gates, filters, judges, rewards, data sets, evaluation, monitors): one table.

Each case is a command as a user types it; each ends in one clear message, status 2, and nothing that looks like a run.
"""

import json
from pathlib import Path

import pytest

from dro_lab.prefilter.file import Judged
from dro_lab.prefilter.file import write as write_prefilter
from tests.cli_fixture import assert_refused, run_main, small_run

RUBRIC, SCHEMA = "gating=rubric", "gating=schema"
R3V, RANK, STATIC = "filtering=r3_variance", "filtering=rank", "filtering=static"
MIX, V1 = "reward=mix", "reward=r3_v1"
OPENAI = ["judge=openai", "judge.base_url=http://127.0.0.1:9/v1", "judge.model=m", "judge.api_key_env=null"]
CNLI, FINQA, RAR, OWN = "dataset=contract_nli", "dataset=finqa", "dataset=rar_medicine", "dataset=jsonl"

SPAN = "The Recipient shall return all material."


def contract(choice="Entailment", doc=1, spans=(0,)):
    note = {"nda-1": {"choice": choice, "spans": list(spans)}}
    return {
        "id": doc,
        "file_name": "a",
        "text": SPAN,
        "spans": [[0, len(SPAN)]],
        "annotation_sets": [{"annotations": note}],
    }


def contracts(*documents):
    return {"documents": list(documents), "labels": {"nda-1": {"short_description": "s", "hypothesis": "It returns."}}}


def prefilter_of(dataset, seed=0, kept=True):
    def write(path):
        header = {
            "provenance": {"dataset": dataset},
            "provenance_text": f"{dataset} (twin: default)",
            "policy": {"name": "tiny"},
            "settings": {},
            "hash": "0" * 64,
            "sampling_hash": "1" * 64,
            "seed": seed,
            "keep_share": 0.1,
            "rest_share": 0.1,
            "rows": 1,
            "kept": int(kept),
            "commit": None,
            "dirty": None,
            "command": "python -m dro_lab.prefilter",
            "seconds": 1.0,
        }
        row = Judged(
            id="no-such-row", content="0" * 16, sigma_bar=0.1, quality=None, kept=kept, why="top" if kept else None
        )
        write_prefilter(path, header, [row])

    return write


RUBRICS = {"rubrics": 1, "judge": "openai", "model": "m", "template": "rubric-1", "command": "the command"}
RUBRIC_OF = {"key": "0" * 64, "id": "r1", "checks": ["Is it so?"]}
PROMPTS = [{"prompt": f"p{i}", "reference": f"r{i}"} for i in range(40)]
FILES = {
    "rows.jsonl": PROMPTS,
    "no_reference.jsonl": [{"prompt": "p"}, *PROMPTS],
    "empty_reference.jsonl": [{"prompt": "p", "reference": "  "}, *PROMPTS],
    "empty_check.jsonl": [{**row, "rubric": [{"text": " "}]} for row in PROMPTS],
    "odd_check.jsonl": [{**row, "rubric": [{"text": "Is it?", "expects": "yes"}]} for row in PROMPTS],
    "eleven_checks.jsonl": [{**row, "rubric": [f"Is it {n}?" for n in range(11)]} for row in PROMPTS],
    "text_rubric.jsonl": [{**row, "rubric": "Is it good?"} for row in PROMPTS],
    "no_checks.jsonl": [{**row, "rubric": []} for row in PROMPTS],
    "checks.jsonl": [{**row, "rubric": ["Is it good?"]} for row in PROMPTS],
    "bad_label.json": contracts(contract("Unsure")),
    "evidence_beyond.json": contracts(contract(spans=(7,))),
    "always_x.json": {"properties": {"label": {"const": "X"}}},
    "no_schema.json": {"type": "objct"},
    "pairs.jsonl": [{"premise": SPAN, "hypothesis": "h", "label": 3}],
    "no_question.jsonl": [{"reference_answer": "a", "rubric": []}],
    "a_list.json": [1, 2],
    "rubrics_of_finqa.jsonl": [{**RUBRICS, "dataset": "finqa"}, RUBRIC_OF],
    "rubrics_of_other_rows.jsonl": [{**RUBRICS, "dataset": "pararev"}, RUBRIC_OF],
}
TEXTS = {
    "twice.json": '{"type": "object", "type": "array"}',
    "half.jsonl": '{"format": "dro_lab rub',
    "prose.jsonl": "Here is a rubric for you.\n",
}
MADE = {
    "of_finqa.jsonl": prefilter_of("finqa"),
    "other_rows.jsonl": prefilter_of("pararev"),
    "keeps_none.jsonl": prefilter_of("pararev", kept=False),
}

# name: (overrides, what the message must hold)
CASES: dict[str, tuple[list[str], list[str]]] = {
    # gates
    "mu zero": ([RUBRIC, "gating.mu=0"], ["gating.mu=0", "whole number of at least 1"]),
    "mu a share": ([RUBRIC, "gating.mu=0.5"], ["gating.mu=0.5", "count of rollouts"]),
    "mu above the group": ([RUBRIC, "gating.mu=3"], ["gating.mu=3", "2 rollouts of a group", "1 is the default"]),
    "rho zero": ([RUBRIC, "gating.rho=0"], ["gating.rho=0", "share above 0 and at most 1"]),
    "rho above one": ([RUBRIC, "gating.rho=1.5"], ["gating.rho=1.5", "at most 1"]),
    "rho a word": ([RUBRIC, "gating.rho=most"], ["gating.rho=most"]),
    "nu above one": ([RUBRIC, "gating.nu=2"], ["gating.nu=2", "at most 1"]),
    "nu zero": ([RUBRIC, "gating.nu=0"], ["gating.nu=0", "share above 0"]),
    "on_reject unknown": ([RUBRIC, "gating.on_reject=keep"], ["gating.on_reject=keep", "drop, zero, floor"]),
    "patience zero": ([RUBRIC, "gating.patience=0"], ["gating.patience=0", "at least 1"]),
    "gate without a judge": ([RUBRIC, "judge=none"], ["judge=none", "needs verdicts", "judge=exact"]),
    "gate without rubrics": (
        [RUBRIC, OWN, "dataset.source=rows.jsonl"],
        ["no rubric", "gating.rubrics.file=FILE", "dro_lab.rubrics"],
    ),
    "only empty rubrics": ([RUBRIC, OWN, "dataset.source=no_checks.jsonl"], ["no rubric", "gating.rubrics.file=FILE"]),
    "exact judge without a program": (
        [RUBRIC, OWN, "dataset.source=checks.jsonl"],
        ["judge=exact", "check_program", "judge=openai"],
    ),
    # rubrics
    "rubric file missing": (
        [RUBRIC, "gating.rubrics.file=absent.jsonl"],
        ["absent.jsonl", "cannot be read", "python -m dro_lab.rubrics"],
    ),
    "rubric file cut": ([RUBRIC, "gating.rubrics.file=half.jsonl"], ["half.jsonl"]),
    "rubric file of prose": ([RUBRIC, "gating.rubrics.file=prose.jsonl"], ["prose.jsonl"]),
    "rubric file of another data set": (
        [RUBRIC, "gating.rubrics.file=rubrics_of_finqa.jsonl"],
        ["holds rubrics of the data set finqa", "this run's is pararev", "python -m dro_lab.rubrics dataset=pararev"],
    ),
    "rubric file of other rows": (
        [RUBRIC, "gating.rubrics.file=rubrics_of_other_rows.jsonl"],
        ["none of its 1 rubrics fits a training row", "the command"],
    ),
    "corruption unknown": (
        [RUBRIC, "gating.rubrics.corrupt=mix"],
        ["gating.rubrics.corrupt=mix", "none, shuffle, negate, irrelevant"],
    ),
    "corrupted share zero": (
        [RUBRIC, "gating.rubrics.corrupt=shuffle", "gating.rubrics.share=0"],
        ["gating.rubrics.share=0", "share above 0"],
    ),
    "a row's rubric has an empty check": (
        [OWN, "dataset.source=empty_check.jsonl"],
        ["empty_check.jsonl", "line 1", "check 1 of `rubric` has no `text`"],
    ),
    "a row's check has an unknown key": (
        [OWN, "dataset.source=odd_check.jsonl"],
        ["odd_check.jsonl", "line 1", "'expects'", "expect"],
    ),
    "a row's rubric is too long": ([OWN, "dataset.source=eleven_checks.jsonl"], ["has 11 checks, at most 10"]),
    "a row's rubric is a text": (
        [OWN, "dataset.source=text_rubric.jsonl"],
        ["line 1", "rubric cannot be read", "a list of at most 10 checks"],
    ),
    # schema
    "no schema": ([SCHEMA], ["no training row has a `schema`"]),
    "schema file missing": ([SCHEMA, "gating.schema=absent.json"], ["absent.json", "cannot be read"]),
    "predicate unknown": ([SCHEMA, "gating.predicates=[nope]"], ["'nope' is no predicate", "label_is_known"]),
    "predicates a word": ([SCHEMA, "gating.predicates=nope"], ["must be a list of names"]),
    "predicate that the reference fails": (
        [SCHEMA, "gating.predicates=[label_is_known]"],
        ["label_is_known", "is failed by the reference itself"],
    ),
    "schema that the reference fails": (
        [SCHEMA, CNLI, "gating.schema=always_x.json"],
        ["'property label'", "'X' was expected"],
    ),
    "schema that is none": ([SCHEMA, CNLI, "gating.schema=no_schema.json"], ["no valid JSON schema", "at type"]),
    "schema with a key twice": ([SCHEMA, CNLI, "gating.schema=twice.json"], ["'type' stands twice"]),
    # filters
    "tau above a half": ([R3V, "filtering.tau=0.6"], ["filtering.tau=0.6", "auto or a number in [0, 0.5]"]),
    "tau negative": ([R3V, "filtering.tau=-0.1"], ["filtering.tau=-0.1", "[0, 0.5]"]),
    "tau a word": ([R3V, "filtering.tau=automatic"], ["filtering.tau=automatic", "auto"]),
    "percentile of a hundred": (
        [R3V, "filtering.reject_percentile=25"],
        ["filtering.reject_percentile=25", "above 0 and below 1"],
    ),
    "no window": ([R3V, "filtering.window=0"], ["filtering.window=0", "at least 1"]),
    "no tokens": ([R3V, "filtering.top_share=0"], ["filtering.top_share=0", "share above 0 and at most 1"]),
    "filter's clips crossed": ([R3V, "filtering.clip_low=0.9"], ["clip_low", "must be below clip_high"]),
    "refill a word": ([R3V, "filtering.refill=often"], ["filtering.refill=often", "true or false"]),
    "no refill rounds": (["filtering.refill=true", "filtering.max_rounds=0"], ["filtering.max_rounds=0", "at least 1"]),
    "rank share above one": ([RANK, "filtering.worst_share=1.2"], ["filtering.worst_share=1.2"]),
    "rank drops all": ([RANK, "filtering.drop_share=1"], ["filtering.drop_share=1", "below 1"]),
    "rank zero": ([RANK, "filtering.top_k=0"], ["filtering.top_k=0"]),
    "static without a file": ([STATIC], ["filtering.file is not set", "python -m dro_lab.prefilter"]),
    "static file missing": ([STATIC, "filtering.file=/nope"], ["filtering.file=/nope", "no such file"]),
    "static file of another data set": (
        [STATIC, "filtering.file=of_finqa.jsonl"],
        ["was made for dataset=finqa", "dataset=pararev"],
    ),
    "static file of other rows": (
        [STATIC, "filtering.file=other_rows.jsonl"],
        ["other_rows.jsonl", "no training rows"],
    ),
    "static file is none": ([STATIC, "filtering.file=a_list.json"], ["a_list.json", "prefilter"]),
    # rewards
    "two baselines": ([V1, "reward.self_influence=true"], ["self_influence", "masked_baseline=false"]),
    "length term negative": ([V1, "reward.length_beta=-1"], ["reward.length_beta=-1", "at least 0"]),
    "stemmer a number": (["reward=rouge", "reward.stemmer=1"], ["reward.stemmer=1", "true or false"]),
    "mix normalised oddly": ([MIX, "reward.normalise=batch"], ["reward.normalise=batch", "none, group"]),
    "mix weight a word": ([MIX, "reward.parts.r3.weight=much"], ["reward.parts.r3.weight", "must be a number"]),
    "mix part's key": ([MIX, "reward.parts.r3.reward.omega=-1"], ["reward.parts.r3.reward.omega=-1", "at least 0"]),
    "mix without a weight": ([MIX, "~reward.parts.r3.weight"], ["reward.parts.r3", "has no weight"]),
    "mix of nothing": ([MIX, "~reward.parts.r3", "~reward.parts.rouge"], ["reward.parts", "at least one part"]),
    "scored by nobody": (["scored_by=initial"], ["scored_by=initial", "current, reference, lagged"]),
    "lag zero": (["scored_by=lagged", "lag=0"], ["lag=0", "at least 1"]),
    "verifier without a metric": (
        [OWN, "dataset.source=rows.jsonl", "dataset.metric=null", "reward=verifier"],
        ["judge=exact", "no metric", "reward=r3"],
    ),
    "verifier that only compares wording": (
        [OWN, "dataset.source=rows.jsonl", "reward=verifier"],
        ["reward=verifier", "reference_overlap", "verifies nothing", "dataset.metric=", "reward=rouge"],
    ),
    # judges
    "no endpoint": (["judge=openai"], ["judge.base_url", "needs an endpoint", "vllm serve"]),
    "endpoint without a scheme": ([*OPENAI, "judge.base_url=localhost:8000/v1"], ["judge.base_url", "begin with http"]),
    "endpoint with a password": (
        [*OPENAI, "judge.base_url=https://u:p@h/v1"],
        ["judge.base_url: must not hold a key"],
    ),
    "no judge model": ([*OPENAI, "judge.model=null"], ["judge.model", "needs the model's name"]),
    "no key": (
        [*OPENAI, "judge.api_key_env=NO_SUCH_KEY_HERE"],
        ["judge.api_key_env=NO_SUCH_KEY_HERE", "judge.api_key_env=null"],
    ),
    "a key in the configuration": ([*OPENAI, "+judge.api_key=sk-x"], ["a key must not stand in the configuration"]),
    "a key in place of its name": ([*OPENAI, "judge.api_key_env=sk-x"], ["name of an environment variable"]),
    "an endpoint that is not there": (OPENAI, ["127.0.0.1:9", "cannot be reached"]),
    "no calls at once": ([*OPENAI, "judge.max_concurrency=0"], ["judge.max_concurrency=0", "whole number"]),
    "no time": ([*OPENAI, "judge.timeout=0"], ["judge.timeout=0", "above 0"]),
    "no requests": ([*OPENAI, "judge.max_requests=0"], ["judge.max_requests=0"]),
    "threshold above one": (["judge=policy", "judge.threshold=1.5"], ["judge.threshold=1.5", "[0, 1]"]),
    "band negative": (["judge=policy", "judge.unknown_band=-0.1"], ["judge.unknown_band=-0.1"]),
    # data sets
    "hub that cannot be reached": ([CNLI, "dataset.source=hub"], ["kiddothe2b/contract-nli"]),
    "rar from a hub that cannot be reached": ([RAR, "dataset.source=hub"], ["ScaleAI/RaR-Medicine"]),
    "source unknown": (
        [CNLI, "dataset.source=web"],
        ["dataset.source=web", "neither a known word nor an existing file"],
    ),
    "a label that is not one of three": (
        [CNLI, "dataset.source=bad_label.json"],
        ["bad_label.json", "the label is 'Unsure'", "Entailment, Contradiction"],
    ),
    "a label number that is not one of three": (
        [CNLI, "dataset.source=pairs.jsonl"],
        ["pairs.jsonl", "the label is 3"],
    ),
    "evidence beyond the contract": (
        [CNLI, "dataset.source=evidence_beyond.json"],
        ["no usable row is left", "evidence"],
    ),
    "contract limit zero": ([CNLI, "dataset.max_prompt_chars=0"], ["dataset.max_prompt_chars=0", "at least 1"]),
    "contract twin too long": ([CNLI, "+dataset.twin.steps_max=9"], ["dataset.twin.steps_max=9"]),
    "rar without a question": ([RAR, "dataset.source=no_question.jsonl"], ["no_question.jsonl"]),
    "rar twin's preset": ([RAR, "dataset.twin.preset=hard"], ["'hard'", "default"]),
    "finqa answers in words": ([FINQA, "dataset.answer_as=words"], ["dataset.answer_as=words", "number, program"]),
    "finqa programs of the twin": ([FINQA, "dataset.answer_as=program"], ["the twin", "dataset.source=hub"]),
    "finqa twin cut": ([FINQA, "dataset.max_prompt_chars=50"], ["dataset.max_prompt_chars=50", "leave it out"]),
    "finqa twin's knob": ([FINQA, "+dataset.twin.error_rate=much"], ["error_rate=much", "a number"]),
    "ood rows negative": (["dataset.sizes.ood=-1"], ["dataset.sizes", "at least 0"]),
    "a row without a reference": ([OWN, "dataset.source=no_reference.jsonl"], ["line 1", "`reference`", "is missing"]),
    "a row with an empty reference": ([OWN, "dataset.source=empty_reference.jsonl"], ["line 1", "is empty"]),
    "a metric that is not there": (
        [OWN, "dataset.source=rows.jsonl", "dataset.metric=no.such.metric"],
        ["dataset.metric", "no.such.metric", "imported"],
    ),
    # evaluation and monitors
    "another split, as a word": (["evaluation.also=ood"], ["evaluation.also=ood", "must be a list"]),
    "another split, unknown": (["evaluation.also=[dev]"], ["dev", "validation, test, train, ood"]),
    "greedy a word": (["evaluation.greedy=maybe"], ["evaluation.greedy=maybe", "true or false"]),
    "more tries than samples": (["evaluation.pass_at=[8]"], ["evaluation.pass_at", "evaluation.samples"]),
    "right above one": (["evaluation.pass_quality=1.5"], ["evaluation.pass_quality=1.5", "[0, 1]"]),
    "objective of another data set": (["objective=macro_f1"], ["objective=macro_f1", "must be one of quality"]),
    "monitor's action": (["health.truncated.action=die"], ["health.truncated.action=die", "warn, stop, off"]),
    "monitor's share": (["health.truncated.share=2"], ["health.truncated.share=2", "[0, 1]"]),
    "monitor's key": (["+health.truncated.shar=0.5"], ["health.truncated.shar", "unknown key"]),
    "monitor without code": (["+health.mine=3"], ["health.mine", "_target_"]),
}


@pytest.fixture(autouse=True)
def _own_files(own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, content in FILES.items():
        rows = content if name.endswith(".jsonl") else [content]
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows))
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    for name, write in MADE.items():
        write(tmp_path / name)


def test_there_are_at_least_sixty() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
@pytest.mark.tried("bad inputs")
def test_bad_input_to_a_part_of_dro_is_refused(name: str, policy: Path, tmp_path: Path) -> None:
    overrides, expected = CASES[name]
    ended = run_main(small_run(policy, overrides))
    assert ended.code == 2
    assert_refused(ended, tmp_path, expected)
