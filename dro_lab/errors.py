"""The one error a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, said in one message: the key or file and row, the value got, what is allowed, what to do next.

    The command line prints the message without a traceback and exits with status 2.
    """
