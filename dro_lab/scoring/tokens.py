"""Exact text positions of tokens: where in the decoded text does each token id begin and end?

Byte-level tokenizers (Qwen, Llama 3, GPT-2, the shipped policy) map every token to bytes, so positions are exact sums,
also inside a multi-byte character. For other tokenizers a position is found by decoding prefixes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from tokenizers import decoders
from transformers import PreTrainedTokenizerBase


class Reading(Protocol):
    """A decoded token sequence. Positions count *units*: bytes, or characters if the tokenizer has no byte pieces."""

    def find(self, text: str, start: int = 0, stop: int | None = None) -> int:
        """First position of ``text`` within units ``[start, stop)``, or -1."""

    def length(self, text: str) -> int:
        """How many units ``text`` takes."""

    def text(self, start: int = 0, stop: int | None = None) -> str:
        """The text of units ``[start, stop)``; incomplete characters read as U+FFFD, as in the tokenizer's decode."""

    def units(self, start: int = 0, stop: int | None = None) -> str:
        """Units ``[start, stop)``, one character a unit; ASCII characters, and only they, stand for themselves."""

    def whole(self, token: int) -> bool:
        """Whether no character is cut where token number ``token`` begins."""

    def offset(self, token: int) -> int:
        """The position at which token number ``token`` begins."""

    def reach(self, position: int) -> int:
        """The least number of leading tokens that hold all units before ``position``."""


class TokenText:
    """Reads token ids as text with exact token positions.

    Special tokens stay in the text, since a reasoning delimiter may be one; the caller cuts at the end of sequence.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.byte_level = backend is not None and isinstance(backend.decoder, decoders.ByteLevel)
        self._pieces: dict[int, str] = _Pieces(tokenizer)

    def read(self, ids: Sequence[int]) -> Reading:
        """The reading of ``ids``."""
        if self.byte_level:
            return _ByteReading([self._pieces[token] for token in ids])
        return _PrefixReading(self._tokenizer, list(ids))


class _ByteReading:
    """Bytes held as latin-1 characters: one character a byte, so that plain string search works."""

    def __init__(self, pieces: list[str]) -> None:
        self._raw = "".join(pieces)
        self._ends = [0, *accumulate(map(len, pieces))]

    def find(self, text: str, start: int = 0, stop: int | None = None) -> int:
        return self._raw.find(_latin(text), start, stop)

    def length(self, text: str) -> int:
        return len(text.encode())

    def text(self, start: int = 0, stop: int | None = None) -> str:
        return self._raw[start:stop].encode("latin-1").decode("utf-8", "replace")

    def units(self, start: int = 0, stop: int | None = None) -> str:
        return self._raw[start:stop]

    def whole(self, token: int) -> bool:
        return (
            not "\x80" <= self._raw[self._ends[token] : self._ends[token] + 1] <= "\xbf"
        )  # a byte that continues a character

    def offset(self, token: int) -> int:
        return self._ends[token]

    def reach(self, position: int) -> int:
        return bisect_left(self._ends, position)


class _PrefixReading:
    """Positions by decoding prefixes, found by bisection: about ``log2(tokens)`` decodes a position."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> None:
        self._tokenizer, self._ids = tokenizer, ids
        self._text = self._decode(len(ids))

    def _decode(self, tokens: int) -> str:
        text = self._tokenizer.decode(self._ids[:tokens], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def find(self, text: str, start: int = 0, stop: int | None = None) -> int:
        return self._text.find(text, start, stop)

    def length(self, text: str) -> int:
        return len(text)

    def text(self, start: int = 0, stop: int | None = None) -> str:
        return self._text[start:stop]

    def units(self, start: int = 0, stop: int | None = None) -> str:
        return self._text[start:stop]

    def whole(self, token: int) -> bool:
        return self._text.startswith(self._decode(token))

    def offset(self, token: int) -> int:
        return len(self._decode(token))

    def reach(self, position: int) -> int:
        wanted, low, high = self._text[:position], 0, len(self._ids)
        while low < high:
            middle = (low + high) // 2
            if self._decode(middle)[:position] == wanted:
                high = middle
            else:
                low = middle + 1
        return low


class _Pieces(dict[int, str]):
    """Token id -> its bytes as latin-1 characters, filled on first use."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str:
        token = self._tokenizer.convert_ids_to_tokens(int(token_id))
        if not isinstance(token, str):  # the embedding matrix may be wider than the vocabulary
            piece = ""
        elif all(char in _BYTE_OF for char in token):
            piece = "".join(_BYTE_OF[char] for char in token)
        else:  # an added token is literal text
            piece = _latin(token)
        self[token_id] = piece
        return piece


def _latin(text: str) -> str:
    return text.encode().decode("latin-1")


def _byte_alphabet() -> dict[str, str]:
    """GPT-2's printable stand-ins for the 256 bytes, each mapped back to its byte as a latin-1 character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): chr(byte) for byte in printable}
    table.update({chr(256 + number): chr(byte) for number, byte in enumerate(others)})
    return table


_BYTE_OF = _byte_alphabet()
