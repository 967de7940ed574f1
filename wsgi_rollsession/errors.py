"""Every exception this package raises, under one base."""

from __future__ import annotations

import re

_KEY = re.compile("rollsession_v1_[A-Za-z0-9_-]+")


def without_keys(text: str) -> str:
    """*text* without the keys that stand in it: one may have been given where a name belongs, and be quoted."""
    return _KEY.sub("rollsession_v1_…", text)


class RollSessionError(Exception):
    """Base of every exception raised by wsgi_rollsession."""


class ConfigurationError(RollSessionError, ValueError):
    """An option is wrong. The message names the option, what it requires and what it received.

    The values of keys, and the passwords in store URLs, never appear in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_keys(message))


class SessionValueError(RollSessionError, TypeError):
    """A value that JSON cannot carry was put into the session. The message names its key."""


class SessionTooLarge(RollSessionError):
    """The sealed session does not fit into one cookie of 4096 bytes. The message names the largest keys."""


class SessionCommitted(RollSessionError):
    """The session was changed after the response headers were sent, so the change cannot be kept."""


class SessionConflict(RollSessionError):
    """The session has been ended since it was loaded, or (``versioned``) another request wrote it first."""


class StoreUnavailable(RollSessionError):
    """The revocation store did not confirm an operation. What it asked for may or may not have happened."""
