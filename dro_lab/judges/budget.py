"""A spend limit in requests and tokens that concurrent requests cannot overrun."""

from __future__ import annotations

import asyncio


class SpentError(Exception):
    """The limit does not allow another request."""


class Budget:
    """Requests reserve the most that they can cost before they are sent; what they did not use is given back.

    A request that fits only once others have come back waits for them.

    Args:
        max_requests: requests at most, retries included; None: any number.
        max_tokens: tokens at most, in and out together; None: any number.
    """

    def __init__(self, *, max_requests: int | None, max_tokens: int | None) -> None:
        self._max_requests, self._max_tokens = max_requests, max_tokens
        self._requests = self._spent = self._reserved = 0
        self._changed = asyncio.Condition()

    def carried(self) -> list[int]:
        """Requests and tokens spent so far."""
        return [self._requests, self._spent]

    def resume(self, carried: list[int]) -> None:
        """Go on from there: the limit is the whole run's."""
        self._requests, self._spent = carried

    async def reserve(self, most: int) -> None:
        """Take one request of ``most`` tokens.

        Raises:
            SpentError: not even with all that is under way given back.
        """
        async with self._changed:
            while True:
                if self._max_requests is not None and self._requests >= self._max_requests:
                    raise SpentError
                if self._max_tokens is None or self._spent + self._reserved + most <= self._max_tokens:
                    break
                if not self._reserved:
                    raise SpentError
                await self._changed.wait()
            self._requests += 1
            self._reserved += most

    async def settle(self, most: int, used: int) -> None:
        """A request that had reserved ``most`` tokens has used ``used``."""
        async with self._changed:
            self._reserved -= most
            self._spent += used
            self._changed.notify_all()
