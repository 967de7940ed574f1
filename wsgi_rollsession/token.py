"""What the cookies say, as frozen records, and their bytes. No cryptography here; docs/format.md is normative."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

#: The largest u48 and u32: a deadline or timeout that does not apply.
NEVER = (1 << 48) - 1
UNLIMITED = (1 << 32) - 1

#: The plaintext is padded to a multiple of this. It hides the exact length, and it makes the cookie's bytes a
#: multiple of three, so that base64 has neither padding nor spare bits: one text per value.
BLOCK = 48

ID_SIZE = 16
TAG_SIZE = 16
MAX_TAGS = 32

_HEAD = Struct(">16sIQIQBBI")  # id, version, created, idle, ends, flags, number of tags, everything-fence
_TAG = Struct(">16sI")  # a tag's hash and fence
_LENGTH = Struct(">I")
_LEASE = Struct(">HIII")  # renewed (u48 in two parts), idle, version


#: Flags of a record. It was begun by ``regenerate()``, as at a login, and not by storing something into none.
ESTABLISHED = 1
#: It was begun under ``outage="open"``: it may be extended while nobody can be asked.
UNCHECKED = 2


class Record(NamedTuple):
    """A session, as its cookie carries it. Times are Unix milliseconds, timeouts are seconds.

    *passed* are the revoked-before numbers that existed when the session began, of everything and of each tag: only
    larger ones, raised since, can refuse it. Otherwise a login just after a "log out everywhere", which reaches into
    the future by the clocks' tolerance, would be refused.
    """

    id: bytes
    version: int
    created: int
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


def pack(record: Record) -> bytes:
    """The plaintext of a session cookie."""
    id_, version, created, idle, ends, flags, passed, tags, data = record
    head = _HEAD.pack(id_, version, created, idle, ends, flags, len(tags), passed[0])
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
    id_, version, created, idle, ends, flags, count, everything = _HEAD.unpack_from(plaintext)
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
    return Record(id_, version, created, idle, ends, flags, passed, tags, plaintext[start : start + length])


def pack_lease(lease: tuple[int, int, int]) -> bytes:
    """The clear bytes of a lease, without version and key id in front and the code behind."""
    renewed, idle, version = lease
    return _LEASE.pack(renewed >> 32, renewed & 0xFFFF_FFFF, idle, version)


def unpack_lease(packed: bytes) -> Lease:
    """The lease in ``LEASE_SIZE`` authenticated bytes."""
    high, low, idle, version = _LEASE.unpack(packed)
    return Lease(high << 32 | low, idle, version)
