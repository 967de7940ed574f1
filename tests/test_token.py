"""Records and leases as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_rollsession.token import (
    BLOCK,
    LEASE_SIZE,
    MAX_TAGS,
    NEVER,
    UNLIMITED,
    Lease,
    Record,
    pack,
    pack_lease,
    unpack,
    unpack_lease,
)

RECORD = Record(bytes(range(16)), 3, 1_800_000_000_000, 3600, 1_800_086_400_000, True, (b"t" * 16,), b'{"a":1}')

u32, u48 = st.integers(0, UNLIMITED), st.integers(0, NEVER)
sixteen = st.binary(min_size=16, max_size=16)
records = st.builds(
    Record,
    id=sixteen,
    version=u32,
    created=u48,
    idle=u32,
    ends=u48,
    established=st.booleans(),
    tags=st.lists(sixteen, max_size=MAX_TAGS).map(tuple),
    data=st.binary(max_size=300),
)


@settings(derandomize=True, database=None)
@given(records)
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
        "00000e10"  # idle
        "000001a31d82ac00"  # ends
        "01"  # established
        "01"  # tags
        "74747474747474747474747474747474"
        "00000007"
        "7b2261223a317d" + "00" * 27
    )


@pytest.mark.parametrize("length", range(0, 150, 7))
def test_padding_hides_the_length(length: int) -> None:
    """A record takes the fewest blocks of 48 bytes that hold it, and the rest is zero."""
    packed = pack(RECORD._replace(tags=(), data=b"x" * length))
    assert len(packed) == -(-(46 + length) // 48) * 48
    assert packed[46 + length :].count(0) == len(packed) - 46 - length


def damaged(at: int, *values: int) -> bytes:
    packed = bytearray(pack(RECORD))
    packed[at : at + len(values)] = bytes(values)
    return bytes(packed)


@pytest.mark.parametrize(
    ("plaintext", "message"),
    [
        (b"", "too short"),
        (bytes(45), "too short"),
        (damaged(41, 4), "tags exceed"),
        (damaged(41, 255), "tags exceed"),
        (damaged(58, 0, 0, 0, 35), "data exceeds"),
        (damaged(58, 255, 255, 255, 255), "data exceeds"),
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


@pytest.mark.parametrize(("flags", "established"), [(0, False), (1, True), (2, False), (3, False), (255, False)])
def test_unknown_flags_claim_nothing(flags: int, established: bool) -> None:
    """Only the flags that this version defines are taken for a login."""
    assert unpack(damaged(40, flags)).established is established
