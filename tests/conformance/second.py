"""A second implementation of docs/format.md, written from that page alone. It shares no code with the package.

It reads and makes cookie values, judges and chooses; it is not fast, and knows nothing of WSGI. test_vectors.py uses it
to show that the page suffices, and that the package does what it says.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from email.utils import parsedate_to_datetime
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


# Fences


def session_fence(session_id: bytes) -> bytes:
    return hashlib.sha256(b"wsgi_rollsession/v1/session\0" + session_id).digest()[:16]


def tag_fence(tag: str) -> bytes:
    return hashlib.sha256(b"wsgi_rollsession/v1/tag\0" + tag.encode("utf-8")).digest()[:16]


EVERYTHING = hashlib.sha256(b"wsgi_rollsession/v1/everything").digest()[:16]


def revoked_before(store_ms: int) -> int:
    whole, rest = divmod(store_ms + 2000, 1000)
    return whole + (1 if rest else 0)


def next_number(store_ms: int, held: int, everything: bool) -> int | None:
    """None: it has to wait."""
    number = max(revoked_before(store_ms), held + 1)
    if everything and number % 2 == 1:
        number += 1
    return None if 5 < number - revoked_before(store_ms) <= 10 else number


def genesis(store_ms: int) -> int:
    number = revoked_before(store_ms) + 6
    return number if number % 2 == 1 else number + 1


# Names


def slots(anonymous: str) -> list[tuple[str, str]]:
    """The two names of each pair."""
    return [(f"{anonymous}-{pair}", f"{anonymous}-{pair}b") for pair in (1, 2, 3, 4)]


def slot_of(value: str | None) -> int:
    return int(value) if value in ("1", "2", "3", "4") else 0


def slot_of_login(anonymous: str, slot: int, presented: list[str]) -> str:
    candidates = [slots(anonymous)[(slot + step) % 4] for step in range(4)]
    for name, other in candidates:
        if name not in presented and other not in presented:
            return name
    return candidates[0][0]


def found_in(anonymous: str, header: str) -> dict[str, Any]:
    """What a Cookie header holds: the values of sessions and of leases, by name, and the slot."""
    sessions = [anonymous, *(name for pair in slots(anonymous) for name in pair)]
    found: dict[str, Any] = {"sessions": [], "leases": [], "slot": 0}
    for cookie in header[-65536:].split(";"):
        name, equals, value = cookie.strip(" \t").partition("=")
        value = value.strip(' \t"')
        if equals and name in sessions:
            found["sessions"].append([name, value])
        elif equals and name in [f"{each}-lease" for each in sessions]:
            found["leases"].append([name, value])
        elif equals and name == f"{anonymous}-slot":
            found["slot"] = slot_of(value)
    return found


# Versions


def written(version: int) -> int | None:
    """The next version in the same epoch."""
    return None if version % 65536 == 65535 else version + 1


def next_epoch(version: int) -> int | None:
    epoch = version // 65536 + 1
    return epoch * 65536 + 1 if epoch <= 16383 else None


# Judging and choosing


def activity(issued: int, idle: int, version: int, leases: list[tuple[int, int, int]]) -> tuple[int, int]:
    """The last activity and the idle timeout stamped, of a session with some authentic leases."""
    counting = [each for each in leases if each[0] > issued and each[2] <= version and each[2] >> 16 == version >> 16]
    if not counting:
        return issued, idle
    latest = max(counting)
    return latest[0], min(latest[1], idle)


def over(session: dict[str, Any], idle_timeout: int | None, absolute_timeout: int | None, now: int) -> str | None:
    """Why a session is over by the clock, or None."""
    ends = session["ends"]
    if absolute_timeout is not None:
        ends = min(ends, (session["authenticated"] or session["created"]) + 1000 * absolute_timeout)
    if now >= ends:
        return "absolute timeout"
    unlimited = 2**32 - 1
    idle = min(session["stamped"], unlimited if idle_timeout is None else idle_timeout)
    if idle != unlimited and now >= session["last_activity"] + 1000 * idle:
        return "idle timeout"
    return "issued in the future" if session["last_activity"] > now + 60000 else None


def refused(session: dict[str, Any], everything: int, own: int, tags: list[int]) -> str | None:
    """Why the fences with these numbers refuse a session, or None."""
    before = (session["created"] - 1) // 1000
    if everything > max(session["passed"], before):
        return "revoked" if everything % 2 == 0 else "the revocation store lost its data"
    if own > session["version"]:
        return "logged out" if own == 2**32 - 1 else "superseded by a later version"
    for number, tag in zip(tags, session["tags"], strict=True):
        if number > max(tag["passed"], before):
            return "revoked"
    return None


def chosen(sessions: list[dict[str, Any]]) -> int:
    """Which of several sessions that are alive is *the* session."""

    def rank(at: int) -> tuple[Any, ...]:
        each = sessions[at]
        return each["authenticated"] > 0, each["created"], each["version"], each["last_activity"]

    return max(range(len(sessions)), key=rank)


# Caches


def directives(values: list[str]) -> list[tuple[str, str]]:
    """The members of a Cache-Control field; the argument without quotes, "" if there is none."""
    members = re.findall(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|$))+', ",".join(values))
    pairs = (member.partition("=") for member in members)
    return [(name.strip().lower(), argument.strip().strip('"')) for name, _, argument in pairs]


def may_be_stored(headers: list[list[str]], now: float) -> bool:
    """Whether a shared cache may store a response."""
    lifetimes = ("max-age", "s-maxage", "cache-maxage")

    def forbids(found: list[tuple[str, str]]) -> bool:
        names = [name for name, _ in found]
        return ("private", "") in found or ("no-store" in names and "must-understand" not in names)

    def allows(found: list[tuple[str, str]]) -> bool:
        ages = [argument for name, argument in found if name in lifetimes]
        return not forbids(found) and (("public" in dict(found)) or any(not re.fullmatch("0+", age) for age in ages))

    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    for name, values in fields.items():
        if name.endswith("-cache-control") or name in ("cache-control", "surrogate-control", "edge-control"):
            if allows(directives(values)):
                return True
        elif name == "x-accel-expires" and any(value.strip() not in ("", "0", "off") for value in values):
            return True
    plain = directives(fields.get("cache-control", []))
    if forbids(plain) or any(name in (*lifetimes, "no-cache") for name, _ in plain):
        return False
    return any(is_after(value, now) for value in fields.get("expires", []))


def is_after(date: str, now: float) -> bool:
    try:
        return parsedate_to_datetime(date).timestamp() > now
    except (ValueError, TypeError):
        return False


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
        + record["authenticated"].to_bytes(8, "big")
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
        "authenticated": int.from_bytes(take(8), "big"),
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
