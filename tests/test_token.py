"""Records and leases as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_rollsession import SessionConflict
from wsgi_rollsession.revocation.fence import ENDED
from wsgi_rollsession.token import (
    BLOCK,
    FAIL_OPEN,
    LEASE_SIZE,
    MAX_TAGS,
    MOST_WRITES,
    NEVER,
    TRANSIENT,
    UNASKED,
    UNLIMITED,
    Lease,
    Record,
    epoch,
    is_worn,
    next_epoch,
    pack,
    pack_lease,
    unpack,
    unpack_lease,
)

RECORD = Record(
    id=bytes(range(16)),
    version=3,
    created=1_800_000_000_000,
    authenticated=1_800_000_060_000,
    idle=3600,
    ends=1_800_086_400_000,
    flags=FAIL_OPEN | TRANSIENT,
    passed=(1_700_000_000, 1_750_000_000),
    tags=(b"t" * 16,),
    data=b'{"a":1}',
)

u32, u48 = st.integers(0, UNLIMITED), st.integers(0, NEVER)
sixteen = st.binary(min_size=16, max_size=16)


@st.composite
def records(draw: st.DrawFn) -> Record:
    tags = tuple(draw(st.lists(sixteen, max_size=MAX_TAGS)))
    return Record(
        id=draw(sixteen),
        version=draw(u32),
        created=draw(u48),
        authenticated=draw(u48),
        idle=draw(u32),
        ends=draw(u48),
        flags=draw(st.integers(0, 255)),
        passed=tuple(draw(st.lists(u32, min_size=len(tags) + 1, max_size=len(tags) + 1))),
        tags=tags,
        data=draw(st.binary(max_size=300)),
    )


@settings(derandomize=True, database=None)
@given(records())
def test_round_trip(record: Record) -> None:
    """What was packed is unpacked unchanged, and the packed length is a multiple of the block."""
    packed = pack(record)
    assert unpack(packed) == record
    assert len(packed) % BLOCK == 0


@settings(derandomize=True, database=None)
@given(u48, u32, u32)
def test_lease_round_trip(renewed: int, idle: int, version: int) -> None:
    """What a lease says is unpacked unchanged, and its length never varies."""
    packed = pack_lease(Lease(renewed, idle, version))
    assert len(packed) == LEASE_SIZE == 14
    assert unpack_lease(packed) == Lease(renewed, idle, version)


def test_bytes() -> None:
    """The layout is the one of docs/format.md."""
    assert pack(RECORD).hex() == (
        "000102030405060708090a0b0c0d0e0f"  # id
        "00000003"  # version
        "000001a3185c5000"  # created
        "000001a3185d3a60"  # authenticated
        "00000e10"  # idle
        "000001a31d82ac00"  # ends
        "05"  # flags
        "01"  # tags
        "6553f100"  # everything's number passed
        "74747474747474747474747474747474"
        "684ee180"  # the tag's
        "00000007"
        "7b2261223a317d" + "00" * 11
    )


@pytest.mark.parametrize("length", range(0, 150, 7))
def test_padding_hides_the_length(length: int) -> None:
    """A record takes the fewest blocks of 48 bytes that hold it, and the rest is zero."""
    packed = pack(RECORD._replace(tags=(), passed=(0,), data=b"x" * length))
    assert len(packed) == -(-(58 + length) // 48) * 48
    assert packed[58 + length :].count(0) == len(packed) - 58 - length


def damaged(at: int, *values: int) -> bytes:
    packed = bytearray(pack(RECORD))
    packed[at : at + len(values)] = bytes(values)
    return bytes(packed)


@pytest.mark.parametrize(
    ("plaintext", "message"),
    [
        (b"", "too short"),
        (bytes(57), "too short"),
        (damaged(49, 2), "tags exceed"),  # and leave no room for the length
        (damaged(49, 4), "tags exceed"),
        (damaged(49, 255), "tags exceed"),
        (damaged(74, 0, 0, 0, 19), "data exceeds"),
        (damaged(74, 255, 255, 255, 255), "data exceeds"),
    ],
)
def test_malformed(plaintext: bytes, message: str) -> None:
    """An authentic plaintext that does not follow the format is refused, with the reason."""
    with pytest.raises(ValueError, match=message):
        unpack(plaintext)


@settings(derandomize=True, database=None, max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes(plaintext: bytes) -> None:
    """Any plaintext is a record or a ValueError."""
    try:
        unpack(plaintext)
    except ValueError:
        pass


def test_numbers_go_with_their_tags() -> None:
    """A record whose numbers are not one for everything and one for each tag is not packed."""
    for passed in ((), (0,), (0, 0, 0)):
        with pytest.raises((ValueError, IndexError)):
            pack(RECORD._replace(passed=passed))


@pytest.mark.parametrize(
    ("version", "of", "worn", "following"),
    [
        (1, 0, False, 1 << 16 | 1),
        (MOST_WRITES - 1, 0, False, 1 << 16 | 1),
        (MOST_WRITES, 0, True, 1 << 16 | 1),
        (1 << 16 | 1, 1, False, 2 << 16 | 1),
        (16_382 << 16 | 9, 16_382, False, 16_383 << 16 | 1),
        (16_383 << 16 | 1, 16_383, False, None),
        (16_383 << 16 | MOST_WRITES, 16_383, True, None),
    ],
)
def test_epochs(version: int, of: int, worn: bool, following: int | None) -> None:
    """A version is an epoch and a number of writes; the next epoch begins with one write, and there is a last one."""
    assert (epoch(version), is_worn(version)) == (of, worn)
    if following is None:
        with pytest.raises(SessionConflict):
            next_epoch(version)
    else:
        assert next_epoch(version) == following > version


def test_no_version_is_a_time_or_the_number_that_ends_a_session() -> None:
    """The last version of the last epoch is smaller than any time in seconds, and than ENDED, which refuses all."""
    assert 16_383 << 16 | MOST_WRITES < 1_700_000_000 < ENDED


def test_flags_are_different_bits() -> None:
    """Each flag of a record is a bit of its own."""
    assert FAIL_OPEN | UNASKED | TRANSIENT == FAIL_OPEN + UNASKED + TRANSIENT == 7
