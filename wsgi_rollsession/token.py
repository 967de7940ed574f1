"""What the cookies say, as frozen records, and their bytes. No cryptography here; docs/format.md is normative."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from .errors import SessionConflict

#: The largest u48 and u32: a deadline or timeout that does not apply.
NEVER = (1 << 48) - 1
UNLIMITED = (1 << 32) - 1

#: The plaintext is padded to a multiple of this. It hides the exact length, and it makes the cookie's bytes a
#: multiple of three, so that base64 has neither padding nor spare bits: one text per value.
BLOCK = 48

ID_SIZE = 16
KEY_SIZE = 16
MAX_TAGS = 32

# id, version, created, authenticated, idle, ends, flags, number of tags, everything-fence
_HEAD = Struct(">16sIQQIQBBI")
_TAG = Struct(">16sI")  # a tag's hash and fence
_LENGTH = Struct(">I")
_LEASE = Struct(">HIII")  # renewed (u48 in two parts), idle, version

#: Flags of a record. It was begun under ``outage="open"``: it may be extended while nobody can be asked.
FAIL_OPEN = 1
#: It was begun while nobody could be asked, so it has passed no fence.
UNASKED = 2
#: Its cookies have no Max-Age: browsers forget them when they are closed.
TRANSIENT = 4

_WRITES_BITS = 16
#: The number of writes after which a session begins a new epoch.
MOST_WRITES = (1 << _WRITES_BITS) - 1
#: So that a version is smaller than any time in seconds: stores keep a fence until the clock has passed its number.
_MOST_EPOCHS = (1 << 14) - 1


class Record(NamedTuple):
    """A session, as its cookie carries it. Times are Unix milliseconds, timeouts are seconds.

    *version* is an epoch and a count of writes in one number: ``epoch << 16 | writes``. *authenticated* is when its
    user logged in, 0 for an anonymous session. *passed* are the numbers that the fences of everything and of each tag
    had when the session began: only larger ones, raised since, can refuse it. Otherwise a login just after a "log out
    everywhere", which reaches into the future by the clocks' tolerance, would be refused.
    """

    id: bytes
    version: int
    created: int
    authenticated: int
    idle: int
    ends: int
    flags: int
    passed: tuple[int, ...]
    tags: tuple[bytes, ...]
    data: bytes


class Lease(NamedTuple):
    """A session was seen alive: at *renewed* (Unix ms), under an idle timeout (s), when it had *version*."""

    renewed: int
    idle: int
    version: int


LEASE_SIZE = _LEASE.size


def epoch(version: int) -> int:
    """The epoch of a version."""
    return version >> _WRITES_BITS


def next_epoch(version: int) -> int:
    """The first version of the epoch after that of *version*.

    Raises:
        SessionConflict: there is none.
    """
    following = (version >> _WRITES_BITS) + 1
    if following > _MOST_EPOCHS:
        raise SessionConflict("the session has had all its epochs: log in again")
    return following << _WRITES_BITS | 1


def is_worn(version: int) -> bool:
    """Whether the epoch of *version* has no more writes."""
    return version & MOST_WRITES == MOST_WRITES


def pack(record: Record) -> bytes:
    """The plaintext of a session cookie."""
    id_, version, created, authenticated, idle, ends, flags, passed, tags, data = record
    head = _HEAD.pack(id_, version, created, authenticated, idle, ends, flags, len(tags), passed[0])
    fences = [_TAG.pack(tag, number) for tag, number in zip(tags, passed[1:], strict=True)]
    packed = b"".join((head, *fences, _LENGTH.pack(len(data)), data))
    return packed + bytes(-len(packed) % BLOCK)


def unpack(plaintext: bytes) -> Record:
    """The record in an authenticated plaintext.

    Raises:
        ValueError: it is malformed: sealed by a program that does not follow docs/format.md.
    """
    size = len(plaintext)
    if size < _HEAD.size + _LENGTH.size:
        raise ValueError("plaintext too short")
    id_, version, created, authenticated, idle, ends, flags, count, everything = _HEAD.unpack_from(plaintext)
    start = _HEAD.size
    if start + count * _TAG.size + _LENGTH.size > size:
        raise ValueError("tags exceed the plaintext")
    tags: tuple[bytes, ...] = ()
    passed: tuple[int, ...] = (everything,)
    for _ in range(count):
        tag, number = _TAG.unpack_from(plaintext, start)
        tags += (tag,)
        passed += (number,)
        start += _TAG.size
    (length,) = _LENGTH.unpack_from(plaintext, start)
    start += _LENGTH.size
    if start + length > size:
        raise ValueError("data exceeds the plaintext")
    data = plaintext[start : start + length]
    return Record(id_, version, created, authenticated, idle, ends, flags, passed, tags, data)


def pack_lease(lease: tuple[int, int, int]) -> bytes:
    """The clear bytes of a lease, without version and key id in front and the code behind."""
    renewed, idle, version = lease
    return _LEASE.pack(renewed >> 32, renewed & 0xFFFF_FFFF, idle, version)


def unpack_lease(packed: bytes) -> Lease:
    """The lease in ``LEASE_SIZE`` authenticated bytes."""
    high, low, idle, version = _LEASE.unpack(packed)
    return Lease(high << 32 | low, idle, version)
