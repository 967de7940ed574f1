"""The vocabulary of the revocation set: 16-byte keys and 32-bit numbers.

A *fence* maps a key to a number, and only ever grows. There are two kinds of number:

* for a session key, the lowest ``version`` that is still accepted; ``ENDED`` refuses all of them,
* for a tag key and for ``EVERYTHING``, a *revoked-before* in whole Unix seconds: sessions with
  ``created_ms <= number * 1000`` are refused. That of ``EVERYTHING`` says by its lowest bit why: it is even where
  somebody revoked, odd where a store lost its data or was new (a *genesis*). 0 refuses nothing, and is neither.

Both fit into an unsigned 32-bit integer (until 2106), which is what lets a local set hold a fence in
about ten bytes (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

#: The number that refuses every version of a session: it has been logged out.
ENDED = 0xFFFF_FFFF

#: How far the clocks of two machines may be apart, in milliseconds, before "log out everywhere" can
#: miss a session created a moment earlier by the machine whose clock is ahead.
CLOCK_SKEW_MS = 2_000

_LABEL = b"wsgi_rollsession/v1/"


def session_key(session_id: bytes) -> bytes:
    """The fence key (16 bytes) of the session with this id (16 bytes)."""
    return sha256(_LABEL + b"session\0" + session_id).digest()[:16]


def tag_key(tag: str) -> bytes:
    """The fence key (16 bytes) of an application's tag, such as ``user:42``.

    The hash is not keyed, for a fence must outlive a change of keys: it keeps names out of the store's
    keys, and does not hide a name from somebody who can guess it.

    Raises:
        TypeError, ValueError: it is no text, or empty: no session has such a tag, and to revoke it would end nothing.
    """
    if not isinstance(tag, str):
        raise TypeError(f"tag: requires text such as user:42, received {type(tag).__name__}")
    if not tag:
        raise ValueError("tag: requires text such as user:42, received none")
    return sha256(_LABEL + b"tag\0" + tag.encode("utf-8")).digest()[:16]


#: The fence key that applies to every session. A store always holds it: it is written when the store is
#: first found empty, so that its absence shows that the store has lost its data.
EVERYTHING = sha256(_LABEL + b"everything").digest()[:16]


def exceed(numbers: Sequence[int], limits: Sequence[tuple[bytes, int]]) -> bool:
    """Whether any of *numbers*, which are those of the keys of *limits*, is more than its limit."""
    return any(number > limit for number, (_, limit) in zip(numbers, limits))


def revoked_before(store_ms: int) -> int:
    """The revoked-before number that refuses all sessions created until *store_ms* (Unix milliseconds).

    Rounded up to whole seconds after adding ``CLOCK_SKEW_MS``.
    """
    return -(-(store_ms + CLOCK_SKEW_MS) // 1000)
