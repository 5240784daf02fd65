"""The judge behind an OpenAI-compatible endpoint: ``vllm serve``, ``transformers serve``, or a hosted model.

What the endpoint replies is read strictly; whatever is not a verdict is unknown, and counted by kind. Keys come from
the environment alone and stand in no record, log or message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from dro_lab.checks import flag, number, whole
from dro_lab.errors import UserError
from dro_lab.judges.agreement import Agreement
from dro_lab.judges.common import refuse_unverifiable
from dro_lab.judges.endpoint import Call, Endpoint, Settings, output_limit
from dro_lab.judges.keys import KEY_IN_CONFIGURATION
from dro_lab.judges.prompts import check_prompt, pair_prompt
from dro_lab.judges.protocol import UNKNOWN, Pair, Question
from dro_lab.judges.replies import PREFERENCES, VERDICTS, choice_of, schema
from dro_lab.types import Need, Task

VERDICT, BETTER = "verdict", "better"


class OpenAIJudge:
    """Puts checks and comparisons to an endpoint (`dro_lab.judges.endpoint`).

    Other parts of a run that write with the same model (rubrics) ask ``endpoint`` themselves: its limits, cache and
    counts are one.
    """

    name = "openai"
    asks_reference = False

    def __init__(self, task: Task, endpoint: Endpoint, *, show_query: bool) -> None:
        self.endpoint, self._show_query = endpoint, show_query
        self._agreement = Agreement(task)
        self._counts = dict.fromkeys(("verdicts", "unknown_verdicts", "comparisons", "unknown_comparisons"), 0.0)
        self._counts["unparsed"] = 0.0

    def verdicts(self, questions: Sequence[Question]) -> list[int]:
        """The endpoint's verdicts; UNKNOWN where it gave none that can be read."""
        asked = [check_prompt(question, reply="json", show_query=self._show_query) for question in questions]
        format_ = schema(VERDICT, VERDICTS)
        chosen = self._choices(
            [Call(template=a.template, text=a.text, response_format=format_) for a in asked], VERDICT, VERDICTS
        )
        found = [UNKNOWN if word is None else VERDICTS[word] for word in chosen]
        self._agreement.add(questions, found)
        self._counts["verdicts"] += len(found)
        self._counts["unknown_verdicts"] += found.count(UNKNOWN)
        return found

    def preferences(self, pairs: Sequence[Pair]) -> list[float]:
        """The endpoint's comparisons; nan where it gave none that can be read."""
        asked = [pair_prompt(pair, reply="json") for pair in pairs]
        format_ = schema(BETTER, PREFERENCES)
        chosen = self._choices(
            [Call(template=a.template, text=a.text, response_format=format_) for a in asked], BETTER, PREFERENCES
        )
        found = [math.nan if word is None else PREFERENCES[word] for word in chosen]
        self._counts["comparisons"] += len(found)
        self._counts["unknown_comparisons"] += sum(map(math.isnan, found))
        return found

    def _choices(self, calls: Sequence[Call], key: str, allowed: Mapping[str, Any]) -> list[str | None]:
        chosen = []
        for reply in self.endpoint.ask(calls):
            word = None if reply.text is None else choice_of(reply.text, key, allowed)
            self._counts["unparsed"] += reply.text is not None and word is None
            chosen.append(word)
        return chosen

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on."""
        return {"counts": self._counts, "agreement": self._agreement.carried(), "endpoint": self.endpoint.carried()}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self._counts = dict(carried["counts"])
        self._agreement.resume(carried["agreement"])
        self.endpoint.resume(carried["endpoint"])

    def metrics(self) -> Mapping[str, float]:
        return {**self._counts, **self.endpoint.metrics(), **self._agreement.metrics()}

    def attach(self, **_: Any) -> None:
        """It asks no policy."""


OURS = ("model", "messages", "response_format", "stream", "n", "api_key", "extra_headers", "extra_body", "timeout")


def check(*, show_query: bool = True, api_key: object = None, **keys: Any) -> None:
    """Raises `UserError` for values that make no sense, before anything is sent."""
    if api_key is not None:
        raise UserError(KEY_IN_CONFIGURATION)
    flag("judge.show_query", show_query, todo="true is the default")
    unknown = sorted(set(keys) - set(Settings.__dataclass_fields__))
    if unknown:
        return  # the function's signature refuses it in the common wording
    _check_address(keys.get("base_url"), keys.get("model"))
    _check_variable(keys.get("api_key_env", "OPENAI_API_KEY"))
    _check_numbers(keys)
    _check_options(keys.get("options") or {}, keys.get("max_tokens_total"))
    if keys.get("cache_dir") is not None and not isinstance(keys["cache_dir"], str):
        raise UserError(f"judge.cache_dir={keys['cache_dir']}: must be a folder, or null to keep no replies")


def _check_address(base_url: object, model: object) -> None:
    example = "for example judge.base_url=http://localhost:8000/v1 (vllm serve) or https://api.openai.com/v1"
    if not isinstance(base_url, str) or not base_url.strip():
        raise UserError(f"judge.base_url={base_url}: judge=openai needs an endpoint, {example}")
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UserError(f"judge.base_url: cannot be read as an address; give one, {example}") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "judge.base_url: must not hold a user, a password, a query or a fragment: keys stand in the environment "
            "alone (judge.api_key_env)"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"judge.base_url={base_url}: must begin with http:// or https:// and name a host, {example}")
    if not isinstance(model, str) or not model.strip():
        raise UserError(
            f"judge.model={model}: judge=openai needs the model's name as the endpoint knows it, for example "
            "judge.model=Qwen/Qwen3-14B"
        )


def _check_variable(name: object) -> None:
    if name is not None and (not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
        # the value is not shown: it may be the key itself
        raise UserError(
            "judge.api_key_env: must be the name of an environment variable, such as OPENAI_API_KEY, never the key "
            "itself; null for an endpoint that wants none"
        )


def _check_numbers(keys: Mapping[str, Any]) -> None:
    todos = {
        "max_concurrency": (1, "requests at the same time; 8 is the default"),
        "max_retries": (0, "0 asks once, 4 is the default"),
        "give_up_after": (1, "calls in a row without a reply after which a round ends; 32 is the default"),
    }
    for key, (low, todo) in todos.items():
        if key in keys:
            whole(f"judge.{key}", keys[key], low=low, todo=todo)
    for key in ("max_requests", "max_tokens_total"):
        if keys.get(key) is not None:
            whole(f"judge.{key}", keys[key], low=1, todo="or null for no limit")
    for key, todo in (("timeout", "60 is the default"), ("backoff", "0.5 is the default"), ("max_wait", "try 60")):
        if key in keys:
            number(f"judge.{key}", keys[key], low=0.0, todo=f"seconds; {todo}")
    if keys.get("timeout") == 0:
        raise UserError("judge.timeout=0: must be above 0 seconds; 60 is the default")
    if "structured" in keys:
        flag("judge.structured", keys["structured"], todo="false asks for plain text from the start")


def _check_options(options: object, max_tokens_total: int | None) -> None:
    if not isinstance(options, Mapping):
        raise UserError(f"judge.options={options}: must hold keys and values, such as {{temperature: 0}}")
    if refused := [key for key in options if key in OURS or "key" in str(key).lower()]:
        raise UserError(f"judge.options.{refused[0]}: is set by the judge itself, or belongs into the environment")
    if max_tokens_total is not None and output_limit(options) is None:
        raise UserError(
            f"judge.max_tokens_total={max_tokens_total}: can only be kept where replies have a limit too; add "
            "judge.options.max_tokens=256 (or max_completion_tokens)"
        )


def openai(
    task: Task,
    *,
    needs: Iterable[Need],
    base_url: str,
    model: str,
    api_key_env: str | None = "OPENAI_API_KEY",
    max_concurrency: int = 8,
    timeout: float = 60.0,
    max_retries: int = 4,
    backoff: float = 0.5,
    max_wait: float = 60.0,
    give_up_after: int = 32,
    max_requests: int | None = None,
    max_tokens_total: int | None = None,
    structured: bool = True,
    options: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    show_query: bool = True,
    api_key: None = None,
) -> OpenAIJudge:
    """A model behind an endpoint as a judge.

    Raises:
        UserError: something needs the verifier and the data set has no metric; or there is no key, the endpoint cannot
            be reached, refuses the key or does not have the model.
    """
    refuse_unverifiable(task, needs, judge="openai")
    settings = Settings(
        base_url=base_url,
        model=model,
        api_key_env=api_key_env,
        max_concurrency=max_concurrency,
        timeout=timeout,
        max_retries=max_retries,
        backoff=backoff,
        max_wait=max_wait,
        give_up_after=give_up_after,
        max_requests=max_requests,
        max_tokens_total=max_tokens_total,
        structured=structured,
        options=dict(options or {}),
        cache_dir=cache_dir,
    )
    endpoint = Endpoint(settings)
    endpoint.check()
    return OpenAIJudge(task, endpoint, show_query=show_query)
