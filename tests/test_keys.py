"""The key ring: what is a key, which one seals, and what is derived from it."""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, generate_key
from wsgi_rollsession.keys import HMAC, PREFIX, Key, KeyRing

from .browser import Browser, Clock, login, open_browser, put, who, wrap

A, B = generate_key(), generate_key()


def text(master: bytes) -> str:
    return PREFIX + urlsafe_b64encode(master).decode("ascii").rstrip("=")


def test_generated_keys_are_found_by_secret_scanners() -> None:
    """A generated key has a prefix and a form that a secret scanner can look for."""
    assert re.fullmatch(r"rollsession_v1_[A-Za-z0-9_-]{43}", generate_key())


def test_generated_keys_differ() -> None:
    """No two generated keys are the same."""
    assert len({generate_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "keys",
    [f"{A},{B}", f"{A} {B}", f" {A}\n\t{B}\n", f"{A} , {B}", [A, B], (A, B)],
    ids=["commas", "spaces", "lines", "both", "list", "tuple"],
)
def test_forms(keys: Any) -> None:
    """Several keys can be given in one text, or as a sequence, newest first."""
    ring = KeyRing(keys)
    assert ring.newest.id == KeyRing(A).newest.id
    assert set(ring.by_id) == {KeyRing(A).newest.id, KeyRing(B).newest.id}


REFUSED = [
    ("short", [A[:-1]], "key 1 has 42 characters"),
    ("long", [A + "A"], "key 1 has 44 characters"),
    ("empty among others", [A, ""], "key 2 does not start with"),
    ("no prefix", [A.removeprefix(PREFIX)], "key 1 does not start with"),
    ("another version", [A.replace("v1", "v2")], "key 1 does not start with"),
    ("not the alphabet", [PREFIX + "*" * 43], "key 1 is not base64url"),
    ("the other alphabet", [PREFIX + "+" * 43], "key 1 is not base64url"),
    ("not ASCII", [PREFIX + "é" * 43], "key 1 is not base64url"),
    ("spare bits", [text(bytes(range(32)))[:-1] + "9"], "key 1 is not base64url of 32 bytes"),
    ("zeros", [text(bytes(32))], "key 1 is not random"),
    ("a pattern", [text(b"abcd" * 8)], "key 1 is not random"),
    ("a passphrase", ["correct horse battery staple"], "key 1 does not start with"),
    ("bytes", A.encode(), "key 1 does not start with"),
    ("a number", [7], "key 1 does not start with"),
    ("the same twice", [A, B, A], "one of them twice"),
    ("none", "  ", "received none"),
    ("an empty list", [], "received none"),
    ("nothing", None, "received NoneType"),
]


@pytest.mark.parametrize(("keys", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(keys: Any, message: str) -> None:
    """Short, malformed, guessable or duplicate keys are refused, by their position and not by their value."""
    with pytest.raises(ConfigurationError, match=f"^keys: requires .*{message}") as caught:
        KeyRing(keys)
    for key in keys or ():
        if isinstance(key, str) and len(key) > 20:
            assert key not in str(caught.value)
            assert key.removeprefix(PREFIX) not in str(caught.value)


def test_each_purpose_has_a_key_of_its_own() -> None:
    """What seals sessions, what authenticates leases and what names the key are derived apart."""
    key = Key(bytes(range(32)))
    assert len({bytes(range(32)), key.session_aead._key, key.lease_mac.digest(b"")}) == 3
    assert len(key.id) == 4
    assert not bytes(range(32)).startswith(key.id)


def test_representations_carry_no_key() -> None:
    """Printing a key or a ring shows none of its bytes."""
    ring = KeyRing(A)
    assert A.removeprefix(PREFIX) not in f"{ring!r} {ring.newest!r} {ring.newest.session_aead!r}"


def test_rotation() -> None:
    """A new key in front keeps old sessions valid and seals new cookies; removing the old key ends its sessions."""
    clock = Clock()
    old = wrap(clock, keys=A, amnesia="accept")
    both = wrap(clock, keys=[B, A], amnesia="accept")
    new = wrap(clock, keys=B, amnesia="accept")
    alice, bob = Browser(old, clock), Browser(old, clock)
    for browser in (alice, bob):
        browser.do(login("somebody"))
        browser.application = both
        assert browser.do(who) == "somebody"
    alice.do(put("a", 1))
    for browser in (alice, bob):
        browser.application = new
    assert alice.do(who) == "somebody", "written since: sealed with the new key"
    assert bob.do(who) is None, "not written since: sealed with the removed key"


def test_rotation_does_not_send_the_session_again() -> None:
    """A response that did not change the session does not send it, even if its key is no longer the newest."""
    clock = Clock()
    browser = open_browser(clock, keys=A, amnesia="accept")
    browser.do(login("alice"))
    (name,) = browser.sessions
    clock.advance(100)
    browser.application = wrap(clock, keys=[B, A], amnesia="accept")
    answer = browser.receive(browser.call(who))
    assert set(answer.sent()) == {f"{name}-lease"}
    assert browser.do(who) == "alice", "the lease is of the new key, the session of the old one"


@pytest.mark.parametrize(
    ("key", "message", "code"),
    [  # RFC 4231, test cases 1 to 4
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (
            bytes(range(1, 26)),
            b"\xcd" * 50,
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        ),
    ],
)
def test_hmac_vectors(key: bytes, message: bytes, code: str) -> None:
    """The code of leases is HMAC-SHA-256, by the RFC's vectors, however often it is used."""
    mac = HMAC(key)
    assert [mac.digest(message).hex() for _ in range(2)] == [code, code]


def test_hmac_is_the_librarys() -> None:
    """It agrees with the standard library on messages of every length around the block size."""
    key = bytes(range(32))
    for size in range(200):
        assert HMAC(key).digest(b"m" * size) == hmac.digest(key, b"m" * size, "sha256")
