"""The frozen vectors of format version 1, by the package and by a second implementation, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, Session, policy, seal
from wsgi_rollsession.keys import PREFIX, Key, KeyRing
from wsgi_rollsession.revocation import fence
from wsgi_rollsession.token import Lease, Record, pack, unpack

from . import second
from .browser import KEY, START, Browser, Clock, get, put, who, wrap

FOLDER = Path(__file__).parent / "vectors"


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


KEYS, SESSION, LEASE, FENCE = load("keys"), load("session"), load("lease"), load("fence")


def short(vector: Any) -> str:
    return str(vector.get("comment", vector.get("reason", "")))


def record_of(vector: dict[str, Any]) -> Record:
    fields = vector["record"]
    return Record(
        id=bytes.fromhex(fields["id"]),
        version=fields["version"],
        created=fields["created"],
        idle=fields["idle"],
        ends=fields["ends"],
        flags=fields["flags"],
        passed=(fields["passed"], *(tag["passed"] for tag in fields["tags"])),
        tags=tuple(bytes.fromhex(tag["fence_key"]) for tag in fields["tags"]),
        data=fields["data"].encode("utf-8"),
    )


@pytest.mark.parametrize("vector", KEYS["keys"])
def test_keys(vector: dict[str, str]) -> None:
    """The text of a key, its id and its subkeys are those of the vectors, by both implementations."""
    master = bytes.fromhex(vector["master"])
    assert PREFIX + second.b64u(master) == vector["text"]
    (key,) = KeyRing(vector["text"]).by_id.values()
    assert key.id.hex() == vector["id"]
    assert key.session_aead._key.hex() == vector["session_key"]
    assert Key(master).lease_mac.digest(b"") == second.hmac.digest(bytes.fromhex(vector["lease_key"]), b"", "sha256")
    assert second.master_key(vector["text"]) == master
    assert second.key_id(master).hex() == vector["id"]
    assert second.hkdf(master, "wsgi_rollsession/v1/session", 32).hex() == vector["session_key"]
    assert second.hkdf(master, "wsgi_rollsession/v1/lease", 32).hex() == vector["lease_key"]


@pytest.mark.parametrize("vector", KEYS["refused"], ids=short)
def test_refused_keys(vector: dict[str, str]) -> None:
    """Texts that are no keys are refused, for the reason given."""
    with pytest.raises(ConfigurationError, match=vector["reason"]):
        KeyRing([vector["text"]])
    with pytest.raises(second.Refused):
        second.master_key(vector["text"])


@pytest.mark.parametrize("vector", SESSION["sealed"], ids=short)
def test_session_seals(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A record, sealed with the vector's nonce, gives the vector's value."""
    nonce = bytes.fromhex(vector["nonce"])
    monkeypatch.setattr(seal, "urandom", lambda size: nonce if size == len(nonce) else None)
    plaintext = pack(record_of(vector))
    assert plaintext.hex() == vector["plaintext"]
    assert seal.seal_session(KeyRing(vector["key"]), vector["name"], vector["issued"], plaintext) == vector["value"]


@pytest.mark.parametrize("vector", SESSION["sealed"], ids=short)
def test_session_opens(vector: dict[str, Any]) -> None:
    """A value opens to the vector's record."""
    issued, plaintext = seal.open_session(KeyRing(vector["key"]), vector["name"], vector["value"])
    assert issued == vector["issued"] == seal.peek(vector["value"])
    assert unpack(plaintext) == record_of(vector)


@pytest.mark.parametrize("vector", SESSION["sealed"], ids=short)
def test_session_by_the_second_implementation(vector: dict[str, Any]) -> None:
    """The second implementation seals and opens the same."""
    key, name, value = vector["key"], vector["name"], vector["value"]
    assert second.open_session([key], name, value) == (vector["issued"], vector["record"])
    nonce = bytes.fromhex(vector["nonce"])
    assert second.seal_session(key, name, vector["issued"], nonce, vector["record"]) == value


@pytest.mark.parametrize("vector", SESSION["refused"], ids=short)
def test_refused_sessions(vector: dict[str, Any]) -> None:
    """Values that are no session are refused for the reason given, by both implementations."""
    ring, name, value = vector["ring"], vector["name"], vector["value"]
    if vector["reason"] == "malformed":
        _, plaintext = seal.open_session(KeyRing(ring), name, value)
        with pytest.raises(ValueError, match=r"too short|exceed"):
            unpack(plaintext)
    else:
        with pytest.raises(seal.Unsealable, match=f"^{vector['reason']}$"):
            seal.open_session(KeyRing(ring), name, value)
    with pytest.raises(second.Refused, match=f"^{vector['reason']}$"):
        second.open_session(ring, name, value)


def test_every_reason_has_a_vector() -> None:
    """The negative vectors cover every reason for which a session value is refused."""
    reasons = {"wrong length", "not base64url", "unknown format version", "unknown key", "not authentic", "malformed"}
    assert {vector["reason"] for vector in SESSION["refused"]} == reasons
    text = (FOLDER.parent.parent / "docs" / "format.md").read_text("utf-8")
    assert all(f"`{reason}`" in text for reason in reasons)


@pytest.mark.parametrize("vector", LEASE["sealed"], ids=short)
def test_leases(vector: dict[str, Any]) -> None:
    """Leases are sealed and opened as in the vectors, by both implementations."""
    id_, name, value = bytes.fromhex(vector["session_id"]), vector["name"], vector["value"]
    fields = (vector["renewed"], vector["idle"], vector["version"])
    ring = KeyRing(vector["key"])
    assert seal.seal_lease(ring, name, id_, Lease(*fields)) == value
    assert seal.open_lease(ring, name, id_, value) == Lease(*fields)
    assert seal.peek(value) == vector["renewed"]
    assert second.seal_lease(vector["key"], name, id_, *fields) == value
    assert second.open_lease([vector["key"]], name, id_, value) == fields


@pytest.mark.parametrize("vector", LEASE["refused"], ids=short)
def test_refused_leases(vector: dict[str, Any]) -> None:
    """Values that are no lease of that session are refused for the reason given, by both implementations."""
    id_, name, value = bytes.fromhex(vector["session_id"]), vector["name"], vector["value"]
    with pytest.raises(seal.Unsealable, match=f"^{vector['reason']}$"):
        seal.open_lease(KeyRing(vector["ring"]), name, id_, value)
    with pytest.raises(second.Refused, match=f"^{vector['reason']}$"):
        second.open_lease(vector["ring"], name, id_, value)


def test_fences() -> None:
    """Fence keys, name tags and revoked-before numbers are those of the vectors, by both implementations."""
    for vector in FENCE["sessions"]:
        id_ = bytes.fromhex(vector["id"])
        assert fence.session_key(id_).hex() == second.session_fence(id_).hex() == vector["fence_key"]
        assert second.name_tag(id_) == vector["name_tag"]
        assert second.b64u(fence.session_digest(id_)[16:22]) == vector["name_tag"]
    for vector in FENCE["tags"]:
        assert fence.tag_key(vector["tag"]).hex() == second.tag_fence(vector["tag"]).hex() == vector["fence_key"]
    assert fence.EVERYTHING.hex() == second.EVERYTHING.hex() == FENCE["everything"]
    for vector in FENCE["revoked_before"]:
        assert fence.revoked_before(vector["store_ms"]) == second.revoked_before(vector["store_ms"]) == vector["number"]


@pytest.mark.parametrize("vector", FENCE["judged"], ids=short)
def test_judgements(vector: dict[str, Any]) -> None:
    """Fences refuse the sessions that the vectors say they refuse, by both implementations."""
    passed = (vector["passed"], *vector["tags"])
    numbers = (vector["everything"], vector["own"], *vector["numbers"])
    session = Record(bytes(16), vector["version"], vector["created"], 0, 0, 0, passed, (), b"")
    assert (policy.refused(session, numbers) is not None) is vector["refused"]
    record = {
        "version": vector["version"],
        "created": vector["created"],
        "passed": vector["passed"],
        "tags": [{"passed": number} for number in vector["tags"]],
    }
    assert second.is_refused(record, vector["everything"], vector["own"], vector["numbers"]) is vector["refused"]


# The two implementations, in one browser


def browser() -> Browser:
    clock = Clock()
    return Browser(wrap(clock, amnesia="accept"), clock)


def test_the_second_implementation_reads_what_the_package_sends() -> None:
    """A session and a lease that the filter has sent are read by the second implementation."""
    one = browser()

    def login(session: Session) -> str:
        session.regenerate(tags=["user:42"])
        session["größe"] = ["日本", 1]
        return session.id

    one.application.revoke("user:42")  # type: ignore[attr-defined]
    id_ = bytes.fromhex(one.do(login))
    one.clock.advance(100)
    one.do(who)
    name = f"__Host-session-{second.name_tag(id_)}"
    assert set(one.cookies) == {name, f"{name}-lease"}
    now = int(START * 1000)
    issued, record = second.open_session([KEY], name, one.cookies[name])
    assert issued == now
    assert record == {
        "id": id_.hex(),
        "version": 1,
        "created": now,
        "idle": 3600,
        "ends": now + 86_400_000,
        "flags": 1,
        "passed": 0,
        "tags": [{"fence_key": second.tag_fence("user:42").hex(), "passed": int(START) + 2}],
        "data": '{"größe":["日本",1]}',
    }
    lease = second.open_lease([KEY], f"{name}-lease", id_, one.cookies[f"{name}-lease"])
    assert lease == (now + 100_000, 3600, 1)


def test_the_package_reads_what_the_second_implementation_sends() -> None:
    """A session and a lease that the second implementation has made are taken, kept alive, and written on."""
    one = browser()
    now = int(START * 1000)
    id_ = bytes(range(16))
    name = f"__Host-session-{second.name_tag(id_)}"
    record = {
        "id": id_.hex(),
        "version": 3,
        "created": now - 7_000_000,
        "idle": 3600,
        "ends": now + 80_000_000,
        "flags": 1,
        "passed": 0,
        "tags": [{"fence_key": second.tag_fence("user:42").hex(), "passed": 0}],
        "data": '{ "a" : 1, "text": "\\u00e9" }',
    }
    session = second.seal_session(KEY, name, now - 7_000_000, bytes(range(24)), record)
    lease = second.seal_lease(KEY, f"{name}-lease", id_, now - 1_000_000, 3600, 3)
    assert one.call(get("a"), header=f"{name}={session}").result is None, "idle for too long without its lease"
    answer = one.receive(one.call(put("b", 2), header=f"{name}={session}; {name}-lease={lease}"))
    assert list(answer.sent()) == [name]
    assert one.do(lambda s: (dict(s), s.version, "user:42" in s.tags)) == ({"a": 1, "text": "é", "b": 2}, 4, True)
