"""What can go wrong with a request, by kind, and whether asking again can help."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from dro_lab.secrets import beginning


class Failed(Exception):
    """A request without a usable reply.

    Attributes:
        kind: timeout, connection, rate_limit, server, refused or body; a metric each.
        again: whether the same request may succeed later.
        after: seconds that the endpoint asks to wait; None: it does not say.
        status: of HTTP; None where there is none.
        free: whether it surely cost no tokens.
        hint: the key of the configuration that is likely wrong, with its value; "" where none is.
    """

    def __init__(
        self,
        kind: str,
        why: str,
        *,
        again: bool,
        after: float | None = None,
        status: int | None = None,
        free: bool = True,
        hint: str = "",
    ) -> None:
        super().__init__(why)
        self.kind, self.again, self.after = kind, again, after
        self.status, self.free, self.hint = status, free, hint


TRANSIENT = frozenset({408, 409, 425, 429})
MISCONFIGURED: Mapping[int, str] = {401: "api_key_env", 403: "api_key_env", 404: "model"}


def failed(error: Exception, *, base_url: str, model: str) -> Failed | None:
    """The failure that an exception of the client stands for; None for one that is a mistake of ours."""
    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Failed("timeout", f"{base_url} did not answer in time", again=True, free=False)
    if isinstance(error, openai.APIConnectionError):
        return Failed("connection", f"no connection to {base_url}: {_short(error.__cause__ or error)}", again=True)
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        why = f"{base_url} answered {status}: {_short(error)}"
        if status in TRANSIENT or status >= 500:
            kind = "rate_limit" if status == 429 else "server"
            return Failed(kind, why, again=True, after=retry_after(error.response.headers), status=status)
        hint = MISCONFIGURED.get(status, "")
        todo = {
            "api_key_env": "is the key in this environment variable the endpoint's?",
            "model": "has the endpoint this model, and does judge.base_url end as it wants (often /v1)?",
        }.get(hint, "")
        value = model if hint == "model" else "..."
        return Failed(
            "refused",
            f"{why}. {todo}".strip(),
            again=False,
            status=status,
            hint=f"{hint}={value}" if hint == "model" else hint,
        )
    if isinstance(error, openai.OpenAIError | ValueError):  # half a body, or a body that is no completion
        return Failed("body", f"{base_url} sent what cannot be read ({_short(error)})", again=True, free=False)
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``Retry-After`` (seconds or a date); None where it is not said."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    seconds = _number(said)
    if seconds is None and said:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except ValueError:
            return None
    return None if seconds is None else max(0.0, seconds)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return beginning(text, 200)
