"""Cookie values <-> authenticated bytes. Nothing is read before it is authenticated, but the version and key id, which
say how to open a value, and ``unauthenticated_lease``.

    session = b64u( 0x01 | key id 4 | issued u48 | nonce 24 | XAES-256-GCM(plaintext) )
    lease   = b64u( 0x01 | key id 4 | renewed u48 | idle u32 | version u32 | HMAC-SHA-256 truncated to 17 )

The additional data, and the start of what is authenticated, is a purpose label, the clear bytes in front and the
cookie's full name; for a lease the session id too. So a value opens under its own name only. docs/format.md.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from functools import lru_cache
from hmac import compare_digest
from os import urandom

from cryptography.exceptions import InvalidTag

from .keys import KeyRing
from .token import BLOCK, LEASE_SIZE, Lease, pack_lease, unpack_lease
from .xaes import NONCE_SIZE, TAG_SIZE

VERSION = b"\x01"
#: What browsers accept for a cookie's name, value and attributes together (RFC 6265, 6.1).
LIMIT = 4096
_SESSION_LABEL = b"wsgi_rollsession/v1/session\0"
_LEASE_LABEL = b"wsgi_rollsession/v1/lease\0"
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

_CLEAR = 11  # version, key id, issued
_SEALED = _CLEAR + NONCE_SIZE
_LEASE_CLEAR = 5 + LEASE_SIZE
_MAC_SIZE = 17  # 19 + 17 bytes make 48 characters: no padding, no spare bits

#: Characters of base64url in the smallest session value and in every lease value.
SMALLEST_SESSION = (_SEALED + BLOCK + TAG_SIZE) * 4 // 3
LEASE_LENGTH = (_LEASE_CLEAR + _MAC_SIZE) * 4 // 3


class Unsealable(Exception):
    """A cookie value that is not authentic. The message says why, without its content."""


class UnknownKey(Unsealable):
    """It was sealed with a key that is not in the ring, or looks so."""


@lru_cache(1024)  # a browser sends the same lease until the next roll
def unauthenticated_lease(value: str) -> Lease | None:
    """What a lease value says in the clear, or None for garbage. It is not authenticated, so only ever a hint."""
    try:
        return unpack_lease(_decoded(value)[5:_LEASE_CLEAR]) if len(value) == LEASE_LENGTH else None
    except Unsealable:
        return None


def _encoded(sealed: bytes) -> str:
    """The base64url of a multiple of three bytes, which needs no padding."""
    return b2a_base64(sealed, newline=False).translate(_URL_SAFE).decode("ascii")


def _decoded(value: str) -> bytes:
    """The bytes of base64url without padding, whose length is a multiple of four.

    Raises:
        Unsealable: it is not the one text that encodes these bytes.
    """
    if "+" in value or "/" in value:
        raise Unsealable("not base64url")
    try:
        decoded = a2b_base64(value.replace("-", "+").replace("_", "/"))
    except ValueError:
        raise Unsealable("not base64url") from None
    if len(decoded) * 4 != len(value) * 3:  # a2b_base64 passes over what is not of its alphabet
        raise Unsealable("not base64url")
    return decoded


def seal_session(ring: KeyRing, name: str, issued: int, plaintext: bytes) -> str:
    """The value of the session cookie *name* for a packed record, issued at *issued* (Unix ms)."""
    key = ring.newest
    clear = VERSION + key.id + issued.to_bytes(6, "big")
    nonce = urandom(NONCE_SIZE)
    sealed = key.session_aead.seal(nonce, plaintext, _SESSION_LABEL + clear + name.encode("ascii"))
    return _encoded(clear + nonce + sealed)


def open_session(ring: KeyRing, name: str, value: str) -> tuple[int, bytes]:
    """When the session cookie *name* was issued (Unix ms), and its packed record.

    Raises:
        Unsealable
    """
    length = len(value)
    if not SMALLEST_SESSION <= length <= LIMIT or (length - SMALLEST_SESSION) % (BLOCK * 4 // 3):
        raise Unsealable("wrong length")
    sealed = _decoded(value)
    if sealed[:1] != VERSION:
        raise Unsealable("unknown format version")
    key = ring.by_id.get(sealed[1:5])
    if key is None:
        raise UnknownKey("unknown key")
    clear = sealed[:_CLEAR]
    try:
        plaintext = key.session_aead.open(
            sealed[_CLEAR:_SEALED], sealed[_SEALED:], _SESSION_LABEL + clear + name.encode("ascii")
        )
    except InvalidTag:
        raise Unsealable("not authentic") from None
    return int.from_bytes(clear[5:], "big"), plaintext


def seal_lease(ring: KeyRing, name: str, session_id: bytes, lease: tuple[int, int, int]) -> str:
    """The value of the lease cookie *name*, bound to one session. *lease* is a ``Lease``, or a tuple as good as one."""
    key = ring.newest
    clear = VERSION + key.id + pack_lease(lease)
    mac = key.lease_mac.digest(_LEASE_LABEL + clear + session_id + name.encode("ascii"))
    return _encoded(clear + mac[:_MAC_SIZE])


def open_lease(ring: KeyRing, name: str, session_id: bytes, value: str) -> Lease:
    """What the lease cookie *name* says of the session with that id.

    Raises:
        Unsealable
    """
    if len(value) != LEASE_LENGTH:
        raise Unsealable("wrong length")
    sealed = _decoded(value)
    clear = sealed[:_LEASE_CLEAR]
    key = ring.by_id.get(clear[1:5])
    if clear[:1] != VERSION or key is None:
        raise UnknownKey("unknown key")
    mac = key.lease_mac.digest(_LEASE_LABEL + clear + session_id + name.encode("ascii"))
    if not compare_digest(mac[:_MAC_SIZE], sealed[_LEASE_CLEAR:]):
        raise Unsealable("not authentic")
    return unpack_lease(clear[5:])
