"""judge=openai against servers that are not scripted: vLLM, which keeps to a schema and gives log-probabilities, and
`transformers serve`, which does neither."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: `make test-vllm` runs this folder")

from openai import OpenAI

from dro_lab.judges.endpoint import Endpoint, Settings
from dro_lab.judges.openai import OpenAIJudge
from dro_lab.judges.protocol import NO, UNKNOWN, YES, Pair
from dro_lab.judges.replies import VERDICTS, choice_of, schema
from tests.openai_judge_fixture import ROW, TASK, questions
from tests.vllm.engine import save_policy
from tests.vllm.servers import transformers_server

# no seed: on a CPU vLLM's server dies of several requests with a seed at once
OPTIONS = {"temperature": 1.0, "max_tokens": 64, "logprobs": True, "top_logprobs": 4}
ANSWERS = [f"There were {n}." for n in range(12)]


def judge(url, model):
    settings = Settings(base_url=f"{url}/v1", model=model, api_key_env=None, options=OPTIONS, timeout=120.0)
    return OpenAIJudge(TASK, Endpoint(settings), show_query=True)


def chat(url, model):
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    messages = [{"role": "user", "content": "A number?"}]
    answer = client.chat.completions.create(
        model=model, messages=messages, response_format=schema("verdict", VERDICTS), **OPTIONS
    )
    return answer.choices[0]


def test_a_vllm_server_keeps_to_the_schema_and_gives_log_probabilities(vllm_url):
    made = judge(vllm_url, "tiny")
    made.endpoint.check()  # it has the model
    found = made.verdicts(questions(*ANSWERS))
    metrics = made.metrics()
    # the policy is random: without the schema it would write no JSON at all
    assert metrics["unparsed"] == 0
    assert metrics["unanswered"] == 0
    assert set(found) <= {YES, NO, UNKNOWN}
    assert {YES, NO} & set(found)
    assert metrics["tokens_out"] > 0
    preferred = made.preferences([Pair(row=ROW, first="42", second=answer) for answer in ANSWERS[:3]])
    assert set(preferred) <= {0.0, 0.5, 1.0}
    choice = chat(vllm_url, "tiny")
    assert choice_of(choice.message.content, "verdict", VERDICTS) is not None
    tokens = choice.logprobs.content
    assert len(tokens) >= 3
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 4 for token in tokens)


def test_transformers_serve_ignores_both_and_the_judge_counts_what_it_cannot_read(tmp_path):
    policy = save_policy(tmp_path / "policy")
    with transformers_server(policy, tmp_path / "log.txt") as url:
        made = judge(url, str(policy))
        found = made.verdicts(questions(*ANSWERS[:4]))
        metrics = made.metrics()
        choice = chat(url, str(policy))
    assert found == [UNKNOWN] * 4
    assert (metrics["unparsed"], metrics["unknown_verdicts"], metrics["unanswered"]) == (4, 4, 0)
    assert choice.logprobs is None
    assert choice_of(choice.message.content, "verdict", VERDICTS) is None
