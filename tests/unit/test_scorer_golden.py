"""The scorer's engines against REPRO's released code: mean log-probability of the answer after every prefix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from dro_lab.scoring.plain import PlainEngine
from dro_lab.scoring.shared import SharedEngine
from dro_lab.scoring.sharing import Sharing
from dro_lab.scoring.tree import Branch, Candidate, Stem, Tree

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
SIZES = {"tokens_per_batch": 64, "lm_head_chunk": 16}


@pytest.fixture(scope="module")
def released():
    file = GOLDEN / "repro_e2e_tiny_qwen2.json"
    if not file.is_file():
        pytest.skip("no shared/golden beside the project: the released code's values are not at hand")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def model(released):
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(
        GOLDEN / "tiny_qwen2", dtype=torch.float32, local_files_only=True
    ).eval()


@pytest.mark.parametrize("engine", [SharedEngine(**SIZES), PlainEngine(**SIZES)], ids=["shared", "plain"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_answer_after_every_prefix_is_as_likely_as_in_the_released_code(released, model, engine, attention):
    model.set_attn_implementation(attention)
    with torch.no_grad():
        assert Sharing(SharedEngine(**SIZES), PlainEngine(**SIZES)).reason(model) is None
        pad = 0
        prefixes = [[length for at, length in released["forking_token_indices"] if at == row] for row in range(4)]
        answers, responses = released["answer_token_ids"], released["responses"]
        stems = [
            Stem(
                prompt=row,
                ids=responses[row][: lengths[-1]],
                end=Branch(lengths[-1], (), answers[row]),
                candidates=[Candidate(length, Branch(length, (), answers[row])) for length in lengths[1:-1]],
            )
            for row, lengths in enumerate(prefixes)
        ]
        tree = Tree(
            prompts=[[token for token in prompt if token != pad] for prompt in released["prompts"]],
            roots=[Branch(0, (), answer) for answer in answers],
            stems=stems,
        )
        found = engine.score(model, tree, lambda entropies: range(len(entropies)), ranks=False)
    got, entropies = [], []
    for row, (root, stem) in enumerate(zip(found.roots, found.stems, strict=True)):
        got += [-float(scores.mean()) for scores in (root, *stem.candidates, stem.end)]
        of_tokens = released["policy_entropy_of_response_tokens"][row]
        entropies += [(got_, of_tokens[c.place]) for got_, c in zip(stem.entropies, stems[row].candidates, strict=True)]
    assert got == pytest.approx(released["nll"], abs=1e-4)
    assert [a for a, _ in entropies] == pytest.approx([b for _, b in entropies], abs=1e-4)
