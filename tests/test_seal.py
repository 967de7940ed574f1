"""Sealing: a value opens with its key, under its name, unchanged, and not otherwise."""

from __future__ import annotations

import pytest

from wsgi_rollsession import generate_key
from wsgi_rollsession.keys import KeyRing
from wsgi_rollsession.seal import (
    LEASE_LENGTH,
    SMALLEST_SESSION,
    Unsealable,
    open_lease,
    open_session,
    seal_lease,
    seal_session,
    unauthenticated_lease,
)
from wsgi_rollsession.token import Lease

OLD, NEW = generate_key(), generate_key()
RING = KeyRing(NEW)
NAME = "__Host-session-1"
ID = bytes(range(16))
NOW = 1_800_000_000_123
PLAINTEXT = b"p" * 96
LEASE = Lease(NOW, 3600, 5)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def session() -> str:
    return seal_session(RING, NAME, NOW, PLAINTEXT)


def lease() -> str:
    return seal_lease(RING, f"{NAME}-lease", ID, LEASE)


def test_session_opens() -> None:
    """A session value opens to when it was issued and what was sealed."""
    assert open_session(RING, NAME, session()) == (NOW, PLAINTEXT)


def test_lease_opens() -> None:
    """A lease value opens to what it says."""
    assert open_lease(RING, f"{NAME}-lease", ID, lease()) == LEASE


def test_sizes() -> None:
    """A lease has always the same length, a session at least one block, and neither needs base64 padding."""
    assert len(lease()) == LEASE_LENGTH == 48
    assert len(seal_session(RING, NAME, NOW, bytes(48))) == SMALLEST_SESSION == 132
    for blocks in range(1, 9):
        assert "=" not in seal_session(RING, NAME, NOW, bytes(48 * blocks))


def test_what_no_browser_keeps_is_not_opened() -> None:
    """A value longer than a cookie can be is refused by its length, though it is authentic."""
    for blocks, opens in ((62, True), (63, False)):
        value = seal_session(RING, NAME, NOW, bytes(48 * blocks))
        if opens:
            assert len(value) <= 4096
            assert open_session(RING, NAME, value) == (NOW, bytes(48 * blocks))
        else:
            with pytest.raises(Unsealable, match="wrong length"):
                open_session(RING, NAME, value)


def test_nonces_are_never_repeated() -> None:
    """The same session sealed again gives another value."""
    assert len({session() for _ in range(100)}) == 100


def test_an_unauthenticated_lease() -> None:
    """What a lease says in the clear can be read without its key."""
    found = unauthenticated_lease(lease())
    assert found is not None
    assert found.renewed == NOW


@pytest.mark.parametrize("value", ["", "A", "é" * 48, "=" * 48, "+" * 48, "x" * 47, session()])
def test_an_unauthenticated_lease_of_garbage(value: str) -> None:
    """Garbage says nothing."""
    assert unauthenticated_lease(value) is None


@pytest.mark.parametrize("keys", [[NEW, OLD], [OLD, NEW]])
def test_all_keys_open(keys: list[str]) -> None:
    """Every key of a ring opens, whichever is the newest."""
    ring = KeyRing(keys)
    assert open_session(ring, NAME, session()) == (NOW, PLAINTEXT)
    assert open_lease(ring, f"{NAME}-lease", ID, lease()) == LEASE


def test_the_newest_key_seals() -> None:
    """The first key of a ring seals."""
    value = seal_session(KeyRing([OLD, NEW]), NAME, NOW, PLAINTEXT)
    assert open_session(KeyRing(OLD), NAME, value) == (NOW, PLAINTEXT)
    with pytest.raises(Unsealable, match="unknown key"):
        open_session(RING, NAME, value)


def test_every_character_of_a_session_counts() -> None:
    """A session value with any one character changed does not open."""
    value = session()
    for at, character in enumerate(value):
        changed = value[:at] + ALPHABET[(ALPHABET.index(character) + 1) % 64] + value[at + 1 :]
        with pytest.raises(Unsealable):
            open_session(RING, NAME, changed)


def test_every_character_of_a_lease_counts() -> None:
    """A lease value with any one character changed does not open."""
    value = lease()
    for at, character in enumerate(value):
        changed = value[:at] + ALPHABET[(ALPHABET.index(character) + 1) % 64] + value[at + 1 :]
        with pytest.raises(Unsealable):
            open_lease(RING, f"{NAME}-lease", ID, changed)


def test_every_length_counts() -> None:
    """A value cut off or continued anywhere does not open."""
    value = session()
    for length in range(len(value)):
        with pytest.raises(Unsealable):
            open_session(RING, NAME, value[:length])
    for more in ("A", "AAAA", "A" * 64, "=", "===="):
        with pytest.raises(Unsealable):
            open_session(RING, NAME, value + more)
        with pytest.raises(Unsealable):
            open_lease(RING, f"{NAME}-lease", ID, lease() + more)


def url_free(value: str) -> str:
    """The value in the other alphabet of base64, where that differs."""
    return value.replace("-", "+").replace("_", "/")


def one_with_both() -> str:
    while True:
        value = session()
        if "-" in value and "_" in value:
            return value


def test_one_text_for_each_value() -> None:
    """Other spellings of the same bytes are refused: the other alphabet, padding, white space, line ends."""
    value = one_with_both()
    for other in (
        url_free(value),
        value.replace("-", "+"),
        value.replace("_", "/"),
        value[:60] + "\n" + value[61:],
        value[:60] + " " + value[61:],
        value[:-4] + "\n\n\n\n",
        value[:-1] + "=",
        value[:-1] + "é",
    ):
        with pytest.raises(Unsealable):
            open_session(RING, NAME, other)


@pytest.mark.parametrize(
    "name",
    ["", "__Host-session-2", "__Host-session-1b", "__Host-session", "session-1", f"{NAME}-lease", "__Host-other-1"],
)
def test_a_session_opens_under_its_own_name_only(name: str) -> None:
    """A session value copied to another cookie name does not open."""
    with pytest.raises(Unsealable, match="not authentic"):
        open_session(RING, name, session())


@pytest.mark.parametrize(
    ("name", "id_"),
    [(NAME, ID), (f"{NAME}b-lease", ID), ("__Host-session-lease", ID), (f"{NAME}-lease", bytes(16)), ("", ID)],
)
def test_a_lease_opens_for_its_own_session_only(name: str, id_: bytes) -> None:
    """A lease value copied to another cookie name, or beside another session, does not open."""
    with pytest.raises(Unsealable, match="not authentic"):
        open_lease(RING, name, id_, lease())


def test_a_session_is_no_lease_and_a_lease_no_session() -> None:
    """A value of the one kind does not open as the other, under either name."""
    for name in (NAME, f"{NAME}-lease"):
        with pytest.raises(Unsealable):
            open_lease(RING, name, ID, session())
        with pytest.raises(Unsealable):
            open_session(RING, name, lease())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "wrong length"),
        ("A" * 131, "wrong length"),
        ("A" * 133, "wrong length"),
        ("A" * 132, "unknown format version"),
        ("AQAAAAAA" + "A" * 124, "unknown key"),
        ("!" * 132, "not base64url"),
        ("é" * 132, "not base64url"),
    ],
)
def test_reasons(value: str, reason: str) -> None:
    """The error says which check failed, and nothing of the content."""
    with pytest.raises(Unsealable, match=f"^{reason}$"):
        open_session(RING, NAME, value)


@pytest.mark.parametrize("name", ["__Host-session-größe123", "\x00", "日本"])
def test_a_name_that_is_not_ascii(name: str) -> None:
    """A cookie name that no cookie of ours has is refused, not an error of its own kind."""
    with pytest.raises((Unsealable, ValueError)):
        open_session(RING, name, session())
