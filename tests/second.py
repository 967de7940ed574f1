"""A second implementation of docs/format.md, written from that page alone. It shares no code with the package.

It reads and makes cookie values; it is not fast, and knows nothing of WSGI. tests/test_vectors.py uses it to show that
the page suffices, and that the package does what it says.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC


class Refused(Exception):
    """The reason, in the words of docs/format.md."""


def b64u(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")


# Keys


def master_key(text: str) -> bytes:
    if not re.fullmatch("rollsession_v1_[A-Za-z0-9_-]{43}", text):
        raise Refused("not a key")
    master = urlsafe_b64decode(text[15:] + "=")
    if b64u(master) != text[15:] or len(set(master)) < 8:
        raise Refused("not a key")
    return master


def hkdf(master: bytes, label: str, length: int) -> bytes:
    """RFC 5869 with an empty salt, for at most 32 bytes."""
    extracted = hmac.digest(bytes(32), master, "sha256")
    return hmac.digest(extracted, label.encode("ascii") + b"\x01", "sha256")[:length]


def key_id(master: bytes) -> bytes:
    return hkdf(master, "wsgi_rollsession/v1/key-id", 4)


def choose(ring: list[str], id_: bytes) -> bytes:
    for text in ring:
        if key_id(master := master_key(text)) == id_:
            return master
    raise Refused("unknown key")


# Names and fences


def digest(session_id: bytes) -> bytes:
    return hashlib.sha256(b"wsgi_rollsession/v1/session\0" + session_id).digest()


def name_tag(session_id: bytes) -> str:
    return b64u(digest(session_id)[16:22])


def session_fence(session_id: bytes) -> bytes:
    return digest(session_id)[:16]


def tag_fence(tag: str) -> bytes:
    return hashlib.sha256(b"wsgi_rollsession/v1/tag\0" + tag.encode("utf-8")).digest()[:16]


EVERYTHING = hashlib.sha256(b"wsgi_rollsession/v1/everything").digest()[:16]


def revoked_before(store_ms: int) -> int:
    whole, rest = divmod(store_ms + 2000, 1000)
    return whole + (1 if rest else 0)


def is_refused(record: dict[str, Any], everything: int, own: int, tags: list[int]) -> bool:
    """By the fences with these numbers."""
    fences = [(everything, record["passed"])]
    fences += [(number, tag["passed"]) for number, tag in zip(tags, record["tags"], strict=True)]
    return record["version"] < own or any(n > passed and record["created"] <= 1000 * n for n, passed in fences)


# XAES-256-GCM, by its definition through CMAC


def xaes(key: bytes, nonce: bytes) -> AESGCM:
    derived = b""
    for counter in (b"\x00\x01", b"\x00\x02"):
        mac = CMAC(AES(key))
        mac.update(counter + b"X\x00" + nonce[:12])
        derived += mac.finalize()
    return AESGCM(derived)


# Values


def decoded(value: str) -> bytes:
    if not re.fullmatch("[A-Za-z0-9_-]*", value):
        raise Refused("not base64url")
    return urlsafe_b64decode(value)


def plaintext_of(record: dict[str, Any]) -> bytes:
    data = record["data"].encode("utf-8")
    packed = (
        bytes.fromhex(record["id"])
        + record["version"].to_bytes(4, "big")
        + record["created"].to_bytes(8, "big")
        + record["idle"].to_bytes(4, "big")
        + record["ends"].to_bytes(8, "big")
        + bytes([record["flags"], len(record["tags"])])
        + record["passed"].to_bytes(4, "big")
        + b"".join(bytes.fromhex(tag["fence_key"]) + tag["passed"].to_bytes(4, "big") for tag in record["tags"])
        + len(data).to_bytes(4, "big")
        + data
    )
    while len(packed) % 48:
        packed += b"\0"
    return packed


def record_of(plaintext: bytes) -> dict[str, Any]:
    rest = plaintext

    def take(count: int) -> bytes:
        nonlocal rest
        if len(rest) < count:
            raise Refused("malformed")
        taken, rest = rest[:count], rest[count:]
        return taken

    record: dict[str, Any] = {
        "id": take(16).hex(),
        "version": int.from_bytes(take(4), "big"),
        "created": int.from_bytes(take(8), "big"),
        "idle": int.from_bytes(take(4), "big"),
        "ends": int.from_bytes(take(8), "big"),
        "flags": take(1)[0],
    }
    count = take(1)[0]
    record["passed"] = int.from_bytes(take(4), "big")
    record["tags"] = [{"fence_key": take(16).hex(), "passed": int.from_bytes(take(4), "big")} for _ in range(count)]
    record["data"] = take(int.from_bytes(take(4), "big")).decode("utf-8")
    assert isinstance(json.loads(record["data"]), dict)
    return record


def seal_session(key: str, name: str, issued: int, nonce: bytes, record: dict[str, Any]) -> str:
    master = master_key(key)
    clear = b"\x01" + key_id(master) + issued.to_bytes(6, "big")
    aead = xaes(hkdf(master, "wsgi_rollsession/v1/session", 32), nonce)
    aad = b"wsgi_rollsession/v1/session\0" + clear + name.encode("ascii")
    return b64u(clear + nonce + aead.encrypt(nonce[12:], plaintext_of(record), aad))


def open_session(ring: list[str], name: str, value: str) -> tuple[int, dict[str, Any]]:
    if len(value) < 132 or (len(value) - 132) % 64:
        raise Refused("wrong length")
    sealed = decoded(value)
    if sealed[0] != 1:
        raise Refused("unknown format version")
    master = choose(ring, sealed[1:5])
    aead = xaes(hkdf(master, "wsgi_rollsession/v1/session", 32), sealed[11:35])
    aad = b"wsgi_rollsession/v1/session\0" + sealed[:11] + name.encode("ascii")
    try:
        plaintext = aead.decrypt(sealed[23:35], sealed[35:], aad)
    except InvalidTag:
        raise Refused("not authentic") from None
    return int.from_bytes(sealed[5:11], "big"), record_of(plaintext)


def lease_code(master: bytes, clear: bytes, session_id: bytes, name: str) -> bytes:
    text = b"wsgi_rollsession/v1/lease\0" + clear + session_id + name.encode("ascii")
    return hmac.digest(hkdf(master, "wsgi_rollsession/v1/lease", 32), text, "sha256")[:17]


def seal_lease(key: str, name: str, session_id: bytes, renewed: int, idle: int, version: int) -> str:
    master = master_key(key)
    clear = b"\x01" + key_id(master) + renewed.to_bytes(6, "big") + idle.to_bytes(4, "big") + version.to_bytes(4, "big")
    return b64u(clear + lease_code(master, clear, session_id, name))


def open_lease(ring: list[str], name: str, session_id: bytes, value: str) -> tuple[int, int, int]:
    if len(value) != 48:
        raise Refused("wrong length")
    sealed = decoded(value)
    if sealed[0] != 1:
        raise Refused("unknown key")
    master = choose(ring, sealed[1:5])
    if not hmac.compare_digest(lease_code(master, sealed[:19], session_id, name), sealed[19:]):
        raise Refused("not authentic")
    return (
        int.from_bytes(sealed[5:11], "big"),
        int.from_bytes(sealed[11:15], "big"),
        int.from_bytes(sealed[15:19], "big"),
    )
