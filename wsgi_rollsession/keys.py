"""The key ring: master keys as text, and what is derived from them."""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from os import urandom

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import ConfigurationError
from .xaes import XAES256GCM

#: What every key's text starts with, for secret scanners: ``rollsession_v1_[A-Za-z0-9_-]{43}``.
PREFIX = "rollsession_v1_"
MASTER_SIZE = 32


def generate_key() -> str:
    """A new master key as text: ``rollsession_v1_`` and 32 random bytes in base64url."""
    return PREFIX + urlsafe_b64encode(urandom(MASTER_SIZE)).decode("ascii").rstrip("=")


class HMAC:
    """HMAC-SHA-256 (RFC 2104) under one key: the states after the padded keys are made once and copied for every use.

    ``hmac.HMAC.copy()`` does the same with more Python code around it.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(64, b"\0")  # the keys here have 32 bytes, so that none has to be hashed first
        self._inner = sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(self, message: bytes) -> bytes:
        """The 32-byte code of *message*."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class Key:
    """A master key's id and its two subkeys, each derived by HKDF-SHA-256 (RFC 5869) under its own label."""

    __slots__ = ("id", "lease_mac", "session_aead")

    def __init__(self, master: bytes) -> None:
        #: 4 bytes, public: says which key of a ring sealed a cookie.
        self.id = _derive(master, b"wsgi_rollsession/v1/key-id", 4)
        self.session_aead = XAES256GCM(_derive(master, b"wsgi_rollsession/v1/session", 32))
        self.lease_mac = HMAC(_derive(master, b"wsgi_rollsession/v1/lease", 32))


class KeyRing:
    """Newest key first: the first seals, all of them open.

    Args:
        keys: texts made by ``generate_key()``; one string may hold several, separated by white space or commas.

    Raises:
        ConfigurationError: no key, or one that is malformed or given twice. Names its position, not its value.
    """

    __slots__ = ("by_id", "newest")

    def __init__(self, keys: str | Sequence[str]) -> None:
        if not isinstance(keys, Sequence):
            raise ConfigurationError(f"keys: requires text, or a list of texts, received {type(keys).__name__}")
        texts = re.split(r"[\s,]+", keys.strip()) if isinstance(keys, str) else list(keys)
        if not texts or texts == [""]:
            raise ConfigurationError("keys: requires at least one key made by `rollsession keygen`, received none")
        ring = [Key(_parse(text, place)) for place, text in enumerate(texts, 1)]
        #: Choosing a key is a look-up, not trial decryption.
        self.by_id = {key.id: key for key in ring}
        if len(self.by_id) != len(ring):
            raise ConfigurationError("keys: requires different keys, received one of them twice")
        self.newest = ring[0]


def _parse(text: str, place: int) -> bytes:
    requirement = f"keys: requires {PREFIX} and 43 characters of base64url, as `rollsession keygen` prints; key {place}"
    if not isinstance(text, str) or not text.startswith(PREFIX):
        raise ConfigurationError(f"{requirement} does not start with {PREFIX}")
    body = text[len(PREFIX) :]
    if len(body) != 43:
        raise ConfigurationError(f"{requirement} has {len(body)} characters")
    try:
        master = urlsafe_b64decode(body + "=") if re.fullmatch(r"[A-Za-z0-9_-]+", body) else b""
    except binascii.Error:  # pragma: no cover - 43 characters of the alphabet always decode
        master = b""
    # One text per key: the two spare bits of the last character are zero.
    if len(master) != MASTER_SIZE or urlsafe_b64encode(master).decode("ascii").rstrip("=") != body:
        raise ConfigurationError(f"{requirement} is not base64url of {MASTER_SIZE} bytes")
    if len(set(master)) < 8:  # 32 random bytes have so few different ones once in 2**140
        raise ConfigurationError(f"{requirement} is not random")
    return master


def _derive(master: bytes, label: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=label).derive(master)
