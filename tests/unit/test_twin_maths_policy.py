"""The maths twin's shipped policy: its guards, how often it repeats itself, and its belief along a reasoning."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_lab.data.twins.load import make_rows
from dro_lab.data.twins.maths import TWIN
from dro_lab.data.twins.maths_chains import count_segments
from dro_lab.policy.guards import (
    Guards,
    check_guards,
    limits_of,
    measure,
    prompt_text,
    sample,
    split_completion,
)

DEFAULT = TWIN.presets["default"]
SHIPPED = Path(__file__).parents[2] / "dro_lab/policy/maths"


def test_the_shipped_policy_was_built_as_documented() -> None:
    record = json.loads((SHIPPED / "build.json").read_text(encoding="utf-8"))
    assert record["seconds"] < 15 * 60
    check_guards(Guards(**record["guards"]), limits_of(TWIN))


@pytest.fixture(scope="module")
def policy():
    return AutoModelForCausalLM.from_pretrained(SHIPPED).eval(), AutoTokenizer.from_pretrained(SHIPPED)


@pytest.mark.slow
def test_the_shipped_policy_holds_its_guards_when_measured_anew(policy) -> None:
    model, tokenizer = policy
    guards = measure(model, tokenizer, TWIN, DEFAULT, rows=32, rollouts=8, seed=77)
    check_guards(guards, limits_of(TWIN))
    assert guards.wording_sigma < 0.05


@pytest.mark.slow
def test_the_shipped_policy_repeats_itself_and_turns_back_as_taught(policy) -> None:
    model, tokenizer = policy
    texts = sample(
        model, tokenizer, make_rows(TWIN, DEFAULT, "validation", 48, seed=0), rollouts=8, max_completion=128, seed=3
    )
    found = [count_segments(split_completion(text)[0]) for group in texts for text in group]
    steps = sum(one.necessary for one in found)
    assert sum(one.redundant for one in found) / steps == pytest.approx(DEFAULT.redundancy, abs=0.06)
    assert sum(one.backtracking for one in found) / steps == pytest.approx(DEFAULT.backtracking, abs=0.06)
    assert sum(one.redundant + one.backtracking for one in found) >= len(found)
    assert sum(one.other for one in found) < 0.02 * len(found)


@pytest.mark.slow
@pytest.mark.parametrize("closing", ["", "</think>\n\n"])
def test_the_belief_in_the_answer_grows_along_a_right_reasoning(policy, closing: str) -> None:
    """J, the mean log-probability of the reference right behind a prefix, closed or not, by finished steps: it does not
    fall on the way and jumps with the last one; a segment that only restates the count changes it little."""
    model, tokenizer = policy
    by_steps, restated = defaultdict(list), []
    for row in make_rows(TWIN, replace(DEFAULT, steps_min=3, steps_max=3), "validation", 24, seed=0):
        lines, total = [], int(re.findall(r"has (\d) ", row.prompt[0]["content"])[0])
        for friend, verb, amount in re.findall(r"(\w+) (gives|takes) (\d)\.", row.prompt[0]["content"]):
            sign = {"gives": "+", "takes": "-"}[verb]
            total += int(f"{sign}{amount}")
            lines.append(f"{friend} {sign}{amount} = {total}\n\n")
        for done in range(4):
            by_steps[done].append(belief(model, tokenizer, row, "".join(lines[:done]) + closing))
        again = "".join(lines[:2]) + f"So far {lines[1].split(' = ')[1]}"
        restated.append(belief(model, tokenizer, row, again + closing))
    means = [float(np.mean(by_steps[done])) for done in range(4)]
    assert min(np.diff(means)) > -0.03
    assert means[3] - max(means[:3]) > 0.3
    assert abs(np.mean(restated) - means[2]) < (means[3] - means[2]) / 2


@torch.no_grad()
def belief(model, tokenizer, row, reasoning: str) -> float:
    head = tokenizer.encode(prompt_text(tokenizer, row) + reasoning, add_special_tokens=False)
    tail = tokenizer.encode(row.reference, add_special_tokens=False)
    logps = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1].log_softmax(-1)
    return float(logps.gather(1, torch.tensor(tail)[:, None]).mean())
