"""Log-probabilities of a text's last tokens from vLLM: its engine in this process, or its server.

Source of what is guarded against here: vLLM 0.31, whose reading of cached positions (``kv_cache_manager``,
``gpu_model_runner``) leaves a prompt's log-probabilities unwritten where its tokens came from the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dro_lab.secrets import beginning


class CannotScoreError(Exception):
    """vLLM gives no log-probabilities for these texts, or none that can be trusted. ``reason`` names the kind."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, of which the last ``targets`` are scored."""

    ids: tuple[int, ...]
    targets: int


@dataclass(slots=True)
class Reading:
    """What the engine did, in tokens and texts since the start."""

    tokens: int = 0
    cached: int = 0  # tokens whose keys and values were in vLLM's cache
    again: int = 0  # texts read again without the cache: it reached into their targets


class Engine(Protocol):
    """Scores texts under the weights it holds."""

    reading: Reading

    def score(self, texts: Sequence[Text]) -> list[list[float]]:
        """Of each text: the log-probabilities of its last ``targets`` tokens, at temperature 1.

        Raises:
            CannotScoreError: the engine refuses, or its answer cannot be trusted.
        """
        ...


def target_logps(found: Sequence[Any] | None, text: Text, *, unread: int = 0) -> list[float]:
    """The log-probabilities of a text's targets out of vLLM's list, one entry a position: ``{token: log-prob}``.

    The list is read from its end: an engine that skips cached positions gives a shorter one. Every entry must hold
    its target, and a finite number.

    Args:
        found: vLLM's ``prompt_logprobs``.
        text: what was scored.
        unread: positions at the beginning that the engine may have left out.

    Raises:
        CannotScoreError: a list of another length, or an entry without its target.
    """
    if found is None or not len(text.ids) - unread <= len(found) <= len(text.ids) or len(found) < text.targets:
        length = "no list" if found is None else f"a list of {len(found)}"
        raise CannotScoreError("lists", f"vLLM gave {length} for a text of {len(text.ids)} tokens, {unread} cached")
    logps = []
    for entry, token in zip(found[len(found) - text.targets :], text.ids[-text.targets :], strict=True):
        value = _logp(entry, token)
        if value is None or not -9999 < value <= 1e-3:  # vLLM's server writes -9999 for minus infinity
            raise CannotScoreError("values", f"vLLM gave {entry!r:.80} where token {token} stands")
        logps.append(min(value, 0.0))
    return logps


def _logp(entry: Any, token: int) -> float | None:
    """Of an entry of the engine (keys are ids, values have ``logprob``) or of the server's JSON."""
    if not isinstance(entry, Mapping):
        return None
    item = entry.get(token, entry.get(str(token)))
    value = item.get("logprob") if isinstance(item, Mapping) else getattr(item, "logprob", None)
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


@dataclass
class Colocated:
    """vLLM's engine in this process.

    By default vLLM does not read its prefix cache where a prompt's log-probabilities are asked for. Directly after
    sampling, prompt and reasoning are in the cache, so reading it is forced where ``read_cache`` says so; a text whose
    cached part reaches into its targets is read again with vLLM's default.

    Args:
        llm: a ``vllm.LLM``.
        read_cache: whether to force reading.
    """

    llm: Any
    read_cache: bool = True
    reading: Reading = field(default_factory=Reading)

    @property
    def dtype(self) -> str:
        """Of its weights, e.g. ``torch.bfloat16``."""
        return str(self.llm.llm_engine.model_config.dtype)

    def score(self, texts: Sequence[Text]) -> list[list[float]]:
        """See `Engine.score`."""
        longest = int(self.llm.llm_engine.model_config.max_model_len) - 1  # vLLM always samples one token
        for text in texts:
            if len(text.ids) > longest:
                raise CannotScoreError("length", f"a text of {len(text.ids)} tokens; vLLM takes {longest}")
        outputs = self._read(texts, cache=self.read_cache)
        if self.read_cache:
            unsafe = [
                n for n, (out, text) in enumerate(zip(outputs, texts, strict=True)) if not cache_is_safe(out, text)
            ]
            for number, out in zip(unsafe, self._read([texts[n] for n in unsafe], cache=False), strict=True):
                outputs[number] = out
            self.reading.again += len(unsafe)
        found = []
        for out, text in zip(outputs, texts, strict=True):
            if list(out.prompt_token_ids or ()) != list(text.ids):
                raise CannotScoreError("lists", "vLLM scored other tokens than it was given")
            cached = int(out.num_cached_tokens or 0)
            self.reading.tokens += len(text.ids)
            self.reading.cached += cached
            found.append(target_logps(out.prompt_logprobs, text, unread=cached))
        return found

    def _read(self, texts: Sequence[Text], *, cache: bool) -> list[Any]:
        if not texts:
            return []
        from vllm import SamplingParams

        how = SamplingParams(
            max_tokens=1,
            temperature=0.0,  # of the token that is sampled and thrown away: no random number is drawn
            prompt_logprobs=0,
            detokenize=False,  # ids of cached positions may be garbage
            skip_reading_prefix_cache=False if cache else None,
        )
        prompts = [{"prompt_token_ids": list(text.ids)} for text in texts]
        try:
            outputs: list[Any] = self.llm.generate(prompts, sampling_params=how, use_tqdm=False)
        except Exception as error:  # whatever the engine raises, the policy itself can still be asked
            raise CannotScoreError("engine", f"{type(error).__name__}: {beginning(str(error), 200)}") from error
        return outputs


def cache_is_safe(output: Any, text: Text) -> bool:
    """Whether every target's log-probability was computed: the one of token i comes from position i - 1."""
    cached = output.num_cached_tokens
    return cached is not None and cached < len(text.ids) - text.targets


@dataclass
class Served:
    """A vLLM server, asked through its completions endpoint with vLLM's own ``prompt_logprobs``.

    The server's default holds: it does not read its prefix cache for these.

    Args:
        url: of the server, without ``/v1``.
        timeout: seconds a request may take.
    """

    url: str
    timeout: float = 240.0
    reading: Reading = field(default_factory=Reading)
    _client: Any = None
    _model: str = ""

    AT_ONCE = 32
    """Texts of one request."""

    def score(self, texts: Sequence[Text]) -> list[list[float]]:
        """See `Engine.score`."""
        found: list[list[float]] = []
        try:
            for start in range(0, len(texts), self.AT_ONCE):
                found += self._request(texts[start : start + self.AT_ONCE])
        except CannotScoreError:
            raise
        except Exception as error:  # unreachable, refused, or an answer without the fields that vLLM gives
            raise CannotScoreError("server", f"{type(error).__name__}: {beginning(str(error), 200)}") from error
        return found

    def _request(self, texts: Sequence[Text]) -> list[list[float]]:
        if self._client is None:
            from openai import OpenAI

            client = OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=self.timeout, max_retries=2)
            self._model = client.models.list().data[0].id
            self._client = client
        answer = self._client.completions.create(
            model=self._model,
            prompt=[list(text.ids) for text in texts],
            max_tokens=1,
            temperature=0.0,
            extra_body={"prompt_logprobs": 0},
        )
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        if len(choices) != len(texts):
            raise CannotScoreError("lists", f"the server gave {len(choices)} answers to {len(texts)} texts")
        self.reading.tokens += sum(len(text.ids) for text in texts)
        lists = [(choice.model_extra or {}).get("prompt_logprobs") for choice in choices]
        return [target_logps(found, text) for found, text in zip(lists, texts, strict=True)]
