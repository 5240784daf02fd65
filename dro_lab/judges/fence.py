"""What is judged is data: it stands between fences that it cannot close, and holds no control tokens.

A fence is a line with a token that is derived from a hash of everything it encloses. A writer who wants to close it
would have to put into a text the hash of that very text; should that ever be met, another token is taken. "Meeting" is
read loosely (case, spaces, signs and look-alike forms are ignored), since a judge reads loosely too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import sha256

CONTROL = re.compile(
    r"<[|｜]|[|｜]>"  # <|im_end|>, <|eot_id|>, <｜Assistant｜>
    r"|</?(?:s|bos|eos|pad|unk|think|start_of_turn|end_of_turn|tool_call|tool_response|reserved_[a-z0-9_]+)>"
    r"|<</?sys>>|\[/?(?:inst|system_prompt|available_tools|tool_calls|tool_results)\]",
    re.IGNORECASE,
)
"""Control tokens of common chat templates: an endpoint's tokenizer would take them for the end of the message."""


def neutral(text: str, control: Sequence[re.Pattern[str]] = (CONTROL,)) -> str:
    """``text`` with a space inside every control token, so that no tokenizer takes it for one.

    Nothing else is changed, and the words stay readable: ``<|im_end|>`` becomes ``< |im_end| >``.
    """
    while any(pattern.search(text) for pattern in control):
        for pattern in control:
            text = pattern.sub(_broken, text)
    return text


def _broken(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


def literal_tokens(tokens: Iterable[str]) -> list[re.Pattern[str]]:
    """A pattern for the added tokens of one tokenizer, for `neutral`; none where there is nothing to break.

    Tokens of white space (some tokenizers add runs of spaces) and of one character cannot end a message.
    """
    words = sorted({token.strip() for token in tokens if len(token.strip()) > 1}, key=len, reverse=True)
    return [re.compile("|".join(map(re.escape, words)))] if words else []


def folded(text: str) -> str:
    """Letters and digits alone, in one form and case: how loosely a closing fence is looked for."""
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum())


def fence_for(texts: Sequence[str]) -> str:
    """A token that none of ``texts`` holds, even read loosely; the same texts give the same token."""
    inside = [folded(text) for text in texts]
    joined = "\x1f".join(texts).encode("utf-8", "surrogatepass")
    for number in range(len(joined) + 2):  # texts of n characters hold fewer than n tokens
        token = sha256(joined + number.to_bytes(8, "big")).hexdigest()[:16]
        if not any(token in text for text in inside):
            return token
    raise AssertionError("unreachable: more tokens than characters")


def enclose(name: str, text: str, fence: str) -> str:
    """``text`` between an opening and a closing line that carry the fence."""
    return f"[begin {name} {fence}]\n{text}\n[end {name} {fence}]"
