"""An OpenAI-compatible endpoint: many calls at once within limits, retried where that helps, cached, never raising on
what it replies.

The official client sends the requests; its own retries are off, since ours count, spend and can be cancelled. A call
that gets no usable reply comes back as a `Reply` without text, so that a run goes on.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from dro_lab.errors import UserError
from dro_lab.judges.budget import Budget, SpentError
from dro_lab.judges.cache import ReplyCache, key_of
from dro_lab.judges.common import say
from dro_lab.judges.faults import Failed, failed
from dro_lab.secrets import hide, holds_a_secret

T = TypeVar("T")

PROBE_SECONDS = 10.0
OVERHEAD = 256
"""Tokens that a chat template and an output schema may add to a message, for the spend limit (generous)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to reach an endpoint and what it may cost; conf/judge/openai.yaml says what each key means."""

    base_url: str
    model: str
    api_key_env: str | None = "OPENAI_API_KEY"
    max_concurrency: int = 8
    timeout: float = 60.0
    max_retries: int = 4
    backoff: float = 0.5
    max_wait: float = 60.0
    give_up_after: int = 32
    max_requests: int | None = None
    max_tokens_total: int | None = None
    structured: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    cache_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One message to the model. ``template`` names the wording and its version, for the cache."""

    template: str
    text: str
    response_format: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # over those of the settings


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; ``text`` None: nothing, and ``failure`` says why."""

    text: str | None
    failure: str = ""


class Endpoint:
    """Asks one model at one endpoint.

    Raises:
        UserError: the key's variable is empty, or the cache cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter({"requests": 0, "cache_hits": 0, "retries": 0})
        self.counts.update({"tokens_in": 0, "tokens_out": 0, "unanswered": 0})
        self._key = api_key(settings)
        if settings.api_key_env is not None:
            holds_a_secret(settings.api_key_env)
        self._cache = ReplyCache(
            None if settings.cache_dir is None else Path(settings.cache_dir).expanduser(), model=settings.model
        )
        self._budget = Budget(max_requests=settings.max_requests, max_tokens=settings.max_tokens_total)
        self._structured = settings.structured
        self._random = random.Random(0)  # jitter of its own: the run's seeds stay untouched
        self._sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self._client: Any = None
        self._slots: asyncio.Semaphore | None = None
        self._answered = self._failed_in_a_row = 0
        self._fatal: UserError | None = None
        self._said: set[str] = set()

    def metrics(self) -> Mapping[str, float]:
        """Requests, retries, tokens, cache hits, calls without a reply, failures by kind."""
        return {**{name: float(count) for name, count in self.counts.items()}, "cache_damaged": self._cache.damaged}

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on: what was counted and spent. Replies are in the cache."""
        return {"counts": dict(self.counts), "budget": self._budget.carried()}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self.counts = Counter(carried["counts"])
        self._budget.resume(carried["budget"])

    def check(self) -> None:
        """Ask the endpoint which models it has, unless it is known to have answered for this one before.

        Raises:
            UserError: it cannot be reached, refuses the key, or does not have the model.
        """
        if not len(self._cache):
            _run(self._check())

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        """A reply to each call, in order; equal calls are sent once.

        Raises:
            UserError: the endpoint refuses the key or the model, and has never answered.
        """
        keys = [self._key_of(call) for call in calls]
        found: dict[str, Reply] = {}
        missing: dict[str, Call] = {}
        for key, call in zip(keys, calls, strict=True):
            if key in found or key in missing:
                continue
            if (entry := self._cache.get(key)) is not None:
                found[key] = Reply(entry["text"], entry["failure"])
                self.counts["cache_hits"] += 1
            else:
                missing[key] = call
        if missing:
            self._failed_in_a_row = 0
            replies = _run(self._all(missing))
            if self._fatal is not None:
                raise self._fatal
            found.update(zip(missing, replies, strict=True))
        return [found[key] for key in keys]

    def _key_of(self, call: Call) -> str:
        options = {**self.settings.options, **call.options}
        return key_of(model=self.settings.model, template=call.template, content=call.text, options=options)

    async def _all(self, calls: Mapping[str, Call]) -> list[Reply]:
        return list(await asyncio.gather(*(self._one(key, call) for key, call in calls.items())))

    async def _one(self, key: str, call: Call) -> Reply:
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        self._slots = self._slots or asyncio.Semaphore(self.settings.max_concurrency)
        async with self._slots:
            if self._fatal is not None:
                return Reply(None, "refused")
            if self._failed_in_a_row >= self.settings.give_up_after:
                return self._none(
                    "given_up", "too many calls in a row got no reply; the rest of this round is not asked"
                )
            retrying = AsyncRetrying(
                stop=stop_after_attempt(1 + self.settings.max_retries),
                wait=self._wait,
                retry=retry_if_exception(lambda error: isinstance(error, Failed) and error.again),
                before_sleep=self._count_retry,
                sleep=self._sleep,
                reraise=True,
            )
            try:
                reply: Reply = await retrying(self._attempt, call)
            except SpentError:
                limits = f"max_requests={self.settings.max_requests}, max_tokens_total={self.settings.max_tokens_total}"
                return self._none(
                    "over_budget", f"the spend limit is reached (judge.{limits.replace(', ', ', judge.')})"
                )
            except Failed as failure:
                self._failed_in_a_row += 1
                if failure.kind == "refused" and failure.hint and not self._answered:
                    self._fatal = UserError(self._hide(f"judge.{failure.hint}: {failure}"))
                    return Reply(None, "refused")
                return self._none(failure.kind, str(failure))
            self._failed_in_a_row = 0
            self._answered += 1
            self._cache.put(key, text=reply.text, failure=reply.failure)
            return reply

    async def _attempt(self, call: Call) -> Reply:
        """One request, and a second one without the schema where the endpoint does not take it.

        Raises:
            Failed: no usable reply.
            SpentError: the spend limit forbids the request.
        """
        try:
            return await self._request(call, structured=self._structured and call.response_format is not None)
        except Failed as failure:
            if not (failure.status == 400 and self._structured and call.response_format is not None):
                raise
        reply = await self._request(call, structured=False)
        if self._structured:  # the same message without the schema was taken: so it was the schema
            self._structured = False
            self._say_once("plain", f"{self.settings.base_url} does not take a schema; replies are asked for as text")
        return reply

    async def _request(self, call: Call, *, structured: bool) -> Reply:
        options = {**self.settings.options, **call.options}
        most = len(call.text.encode()) + OVERHEAD + int(output_limit(options) or 0)
        await self._budget.reserve(most)
        self.counts["requests"] += 1
        used = most  # of a request that never came back nobody knows what it cost
        client = self._connected()
        try:
            async with asyncio.timeout(self.settings.timeout):
                completion = await client.chat.completions.create(
                    model=self.settings.model,
                    messages=[{"role": "user", "content": call.text}],
                    extra_body=options,
                    **({"response_format": call.response_format} if structured else {}),
                )
            reply, tokens = _read(completion)
            if tokens is not None:
                self.counts["tokens_in"] += tokens[0]
                self.counts["tokens_out"] += tokens[1]
                used = sum(tokens)
        except Exception as error:
            failure = failed(error, base_url=self.settings.base_url, model=self.settings.model)
            if failure is None:
                raise
            failure.again = failure.again and (failure.after or 0.0) <= self.settings.max_wait
            self.counts[f"failures/{failure.kind}"] += 1
            used = 0 if failure.free else used
            raise failure from error
        finally:
            await self._budget.settle(most, used)
        if reply.failure:
            self.counts[f"failures/{reply.failure}"] += 1
        return reply

    def _connected(self) -> Any:
        if self._client is None:
            from openai import AsyncOpenAI

            self._client = AsyncOpenAI(
                base_url=self.settings.base_url,
                api_key=self._key,
                max_retries=0,
                timeout=self.settings.timeout,
            )
        return self._client

    async def _check(self) -> None:
        where = f"judge.base_url={self.settings.base_url}"
        client = self._connected()
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                listed = [str(model.id) for model in (await client.models.list()).data]
        except Exception as error:
            failure = failed(error, base_url=self.settings.base_url, model=self.settings.model)
            if failure is None and not isinstance(error, AttributeError | TypeError):
                raise
            if failure is not None and failure.status in (401, 403):
                raise UserError(self._hide(f"judge.{failure.hint}: {failure}")) from error
            if failure is not None and failure.kind in ("connection", "timeout"):
                raise UserError(
                    self._hide(
                        f"{where}: the endpoint cannot be reached ({failure}). Is it running and the address right "
                        "(http://HOST:PORT/v1)?"
                    )
                ) from error
            return  # it does not list its models: the first request will tell
        if listed and self.settings.model not in listed:
            # some endpoints load or rename models on demand: ask before refusing
            try:
                await self._request(Call(template="probe", text="Reply with yes.", options={}), structured=False)
            except (Failed, SpentError) as failure:
                raise UserError(
                    self._hide(
                        f"judge.model={self.settings.model}: {self.settings.base_url} does not have it ({failure}); it "
                        f"lists {', '.join(listed[:8])}{', ...' if len(listed) > 8 else ''}"
                    )
                ) from failure

    def _wait(self, state: Any) -> float:
        failure = state.outcome.exception()
        if failure.after is not None:
            return float(failure.after)
        longest = min(self.settings.max_wait, self.settings.backoff * 2 ** (state.attempt_number - 1))
        return longest * self._random.uniform(0.5, 1.0)

    def _count_retry(self, _: Any) -> None:
        self.counts["retries"] += 1

    def _none(self, kind: str, why: str) -> Reply:
        self.counts["unanswered"] += 1
        if kind in ("over_budget", "given_up"):
            self.counts[f"failures/{kind}"] += 1
        self._say_once(kind, f"{why}; what was not answered counts as unknown")
        return Reply(None, kind)

    def _say_once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            say(self._hide(f"judge=openai: {text}"))

    def _hide(self, text: str) -> str:
        """Some endpoints quote the key that they refuse."""
        return hide(text.replace(self._key, "***") if self._key != NO_KEY else text)


NO_KEY = "none"
"""What is sent to endpoints that want no key; the client insists on one."""


def api_key(settings: Settings) -> str:
    """The key from the environment. Raises `UserError` where the variable is empty or holds what cannot be a key."""
    if settings.api_key_env is None:
        return NO_KEY
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key or not key.isascii() or any(char.isspace() for char in key):
        state = "holds no key" if key else "is empty"
        raise UserError(
            f"judge.api_key_env={settings.api_key_env}: this environment variable {state}; put the key there, or set "
            "judge.api_key_env=null for an endpoint that wants none (vllm serve, transformers serve)"
        )
    return key


def output_limit(options: Mapping[str, Any]) -> int | None:
    """Tokens that a reply may have at most, where the options say so."""
    limit = options.get("max_completion_tokens", options.get("max_tokens"))
    return int(limit) if isinstance(limit, int) else None


def _read(completion: Any) -> tuple[Reply, tuple[int, int] | None]:
    """The reply and its tokens, in and out. Raises ValueError for what is no completion."""
    try:
        choice = completion.choices[0]
        message, finish = choice.message, choice.finish_reason
        text, refusal = message.content, getattr(message, "refusal", None)
    except (AttributeError, TypeError, IndexError) as error:
        raise ValueError("the reply is no chat completion") from error
    usage = getattr(completion, "usage", None)
    sent, received = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    tokens = (sent, received) if isinstance(sent, int) and isinstance(received, int) else None
    if refusal or finish == "content_filter" or not isinstance(text, str):
        return Reply(None, "refusal"), tokens
    return Reply(text, "cut" if finish == "length" else ""), tokens


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on the loop of this process; an interrupt here cancels the work there."""
    future = asyncio.run_coroutine_threadsafe(work, _loop(os.getpid()))
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own: callers may have a loop running (notebooks), and Ctrl-C leaves at once."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="judge", daemon=True).start()
    return loop
