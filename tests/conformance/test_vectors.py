"""The frozen vectors of format version 1, by the package and by a second implementation, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, Session, SessionConflict, policy, seal, token
from wsgi_rollsession.caching import is_storable
from wsgi_rollsession.cookies import Cookies
from wsgi_rollsession.keys import PREFIX, Key, KeyRing
from wsgi_rollsession.presented import Opened, Presented, rank
from wsgi_rollsession.revocation import clock, fence
from wsgi_rollsession.token import NEVER, UNLIMITED, Lease, Record, pack, unpack

from ..browser import KEY, START, Browser, Clock, get, open_browser, put, settings, who
from . import second

FOLDER = Path(__file__).parent / "vectors"
PAGE = Path(__file__).parents[2] / "docs" / "format.md"


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


KEYS, SESSION, LEASE, FENCE = load("keys"), load("session"), load("lease"), load("fence")
JUDGED, NAMES, CACHES = load("judged"), load("names"), load("caches")


def short(vector: Any) -> str:
    return str(vector.get("comment", vector.get("reason", "")))


def a_record(**fields: Any) -> Record:
    """A record of which only some fields count."""
    given: dict[str, Any] = {"passed": (0,), "tags": (), "data": b"{}", "ends": NEVER, "idle": UNLIMITED}
    return Record(**{"id": bytes(16), "version": 1, "created": 0, "authenticated": 0, "flags": 0, **given, **fields})


def cookies_of(anonymous: str) -> Cookies:
    """The cookies of a configuration in which the anonymous session has this name."""
    name, secure = anonymous.removeprefix("__Host-"), anonymous.startswith("__Host-")
    return Cookies(settings(cookie_name=name, insecure_http=not secure))


def record_of(vector: dict[str, Any]) -> Record:
    fields = vector["record"]
    return Record(
        id=bytes.fromhex(fields["id"]),
        version=fields["version"],
        created=fields["created"],
        authenticated=fields["authenticated"],
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
    assert issued == vector["issued"]
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
    text = PAGE.read_text("utf-8")
    assert all(f"`{reason}`" in text for reason in reasons)


@pytest.mark.parametrize("vector", LEASE["sealed"], ids=short)
def test_leases(vector: dict[str, Any]) -> None:
    """Leases are sealed and opened as in the vectors, by both implementations."""
    id_, name, value = bytes.fromhex(vector["session_id"]), vector["name"], vector["value"]
    fields = (vector["renewed"], vector["idle"], vector["version"])
    ring = KeyRing(vector["key"])
    assert seal.seal_lease(ring, name, id_, Lease(*fields)) == value
    assert seal.open_lease(ring, name, id_, value) == Lease(*fields)
    assert seal.unauthenticated_lease(value) == Lease(*fields)
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


@pytest.mark.parametrize("vector", LEASE["counts"], ids=short)
def test_what_a_lease_counts(vector: dict[str, Any]) -> None:
    """Of a session's authentic leases, that one counts which the vectors say, by both implementations."""
    record = a_record(version=vector["version"], idle=vector["idle"])
    leases = [(each["renewed"], each["idle"], each["version"]) for each in vector["leases"]]
    expected = (vector["last_activity"], vector["stamped"])
    by_lease = [policy.extended(record, vector["issued"], Lease(*each)) for each in leases]
    assert max([(vector["issued"], vector["idle"]), *by_lease], key=lambda each: each[0]) == expected
    assert second.activity(vector["issued"], vector["idle"], vector["version"], leases) == expected


def test_fences() -> None:
    """Fence keys and numbers are those of the vectors, by both implementations."""
    for vector in FENCE["sessions"]:
        id_ = bytes.fromhex(vector["id"])
        assert fence.session_key(id_).hex() == second.session_fence(id_).hex() == vector["fence_key"]
    for vector in FENCE["tags"]:
        assert fence.tag_key(vector["tag"]).hex() == second.tag_fence(vector["tag"]).hex() == vector["fence_key"]
    assert fence.EVERYTHING.hex() == second.EVERYTHING.hex() == FENCE["everything"]
    for vector in FENCE["revoked_before"]:
        assert fence.revoked_before(vector["store_ms"]) == second.revoked_before(vector["store_ms"]) == vector["number"]


@pytest.mark.parametrize("vector", FENCE["next"], ids=short)
def test_next_numbers(vector: dict[str, Any]) -> None:
    """A revocation raises to the number of the vectors, that of everything being even, by both implementations."""
    now, held, everything = vector["store_ms"], vector["held"], vector["everything"]
    assert clock.next_revoked_before(now, [held], everything=everything) == vector["number"]
    assert second.next_number(now, held, everything) == vector["number"]


@pytest.mark.parametrize("vector", FENCE["genesis"], ids=lambda vector: str(vector["store_ms"]))
def test_genesis(vector: dict[str, Any]) -> None:
    """A loss of data raises everything to the number of the vectors, which is odd, by both implementations."""
    assert clock.genesis(vector["store_ms"]) == second.genesis(vector["store_ms"]) == vector["number"]
    assert vector["number"] % 2 == 1


@pytest.mark.parametrize("vector", JUDGED["by_clock"], ids=short)
def test_judgements_by_the_clock(vector: dict[str, Any]) -> None:
    """The clock ends the sessions that the vectors say, and for that reason, by both implementations."""
    session, now = vector["session"], vector["now"]
    idle_timeout, absolute_timeout = vector["idle_timeout"], vector["absolute_timeout"]
    record = a_record(
        created=session["created"],
        authenticated=session["authenticated"],
        ends=session["ends"],
        idle=session["stamped"],
    )
    idle = policy.idle(record, UNLIMITED if idle_timeout is None else idle_timeout)
    ends = policy.end(record, NEVER if absolute_timeout is None else absolute_timeout * 1000)
    ended = policy.expired(now, session["last_activity"], idle, ends)
    assert (None if ended is None else str(ended)) == vector["refused"]
    assert second.over(session, idle_timeout, absolute_timeout, now) == vector["refused"]


@pytest.mark.parametrize("vector", JUDGED["by_fences"], ids=short)
def test_judgements_by_the_fences(vector: dict[str, Any]) -> None:
    """Fences refuse the sessions that the vectors say, and for that reason, by both implementations."""
    record = a_record(
        version=vector["version"],
        created=vector["created"],
        passed=(vector["passed"], *vector["tags"]),
        tags=tuple(bytes([at] * 16) for at in range(len(vector["tags"]))),
    )
    numbers = (vector["everything"], vector["own"], *vector["numbers"])
    ended = policy.refused(numbers, policy.limits(record))
    assert (None if ended is None else str(ended)) == vector["refused"]
    session = {
        "version": vector["version"],
        "created": vector["created"],
        "passed": vector["passed"],
        "tags": [{"passed": number} for number in vector["tags"]],
    }
    assert second.refused(session, vector["everything"], vector["own"], vector["numbers"]) == vector["refused"]


def test_every_reason_to_end_has_a_vector() -> None:
    """The vectors cover every reason for which a session that opens is not alive, and the page names them."""
    reasons = {vector["refused"] for vector in (*JUDGED["by_clock"], *JUDGED["by_fences"])} - {None}
    assert reasons == {str(each) for each in policy.Ended} - {str(policy.Ended.NEVER), str(policy.Ended.KEY_GONE)}
    text = PAGE.read_text("utf-8")
    assert all(f"`{reason}`" in text for reason in reasons)


@pytest.mark.parametrize("vector", JUDGED["chosen"], ids=short)
def test_chosen(vector: dict[str, Any]) -> None:
    """Of several sessions that are alive, *the* session is that of the vectors, by both implementations."""

    def presented(fields: dict[str, int]) -> Presented:
        record = a_record(**{name: fields[name] for name in ("authenticated", "created", "version")})
        return Presented("n", Opened(fields["last_activity"], UNLIMITED, NEVER, record, (bytes(16),) * 2, (0, 0)))

    ranks = [rank(presented(each)) for each in vector["sessions"]]
    assert ranks.index(max(ranks)) == second.chosen(vector["sessions"]) == vector["chosen"]


@pytest.mark.parametrize("vector", NAMES["slots"], ids=short)
def test_slots(vector: dict[str, Any]) -> None:
    """A login takes the slot of the vectors, by both implementations."""
    anonymous, value, presented = vector["anonymous"], vector["slot"], vector["presented"]
    cookies = cookies_of(anonymous)
    header = "" if value is None else f"{anonymous}-slot={value}"
    slot = cookies.parse(header).slot if value != "1 " else 0  # a header cannot carry that blank
    assert cookies.in_pair(cookies.next_pair(slot, presented)) == vector["login"]
    assert second.slot_of_login(anonymous, second.slot_of(value), presented) == vector["login"]


@pytest.mark.parametrize("vector", NAMES["epochs"], ids=lambda vector: str(vector["version"]))
def test_epochs(vector: dict[str, Any]) -> None:
    """The versions that follow one are those of the vectors, by both implementations."""
    version = vector["version"]
    assert (None if token.is_worn(version) else version + 1) == second.written(version) == vector["written"]
    assert second.next_epoch(version) == vector["next_epoch"]
    if vector["next_epoch"] is None:
        with pytest.raises(SessionConflict):
            token.next_epoch(version)
    else:
        assert token.next_epoch(version) == vector["next_epoch"]


@pytest.mark.parametrize("vector", NAMES["headers"], ids=short)
def test_headers(vector: dict[str, Any]) -> None:
    """A Cookie header holds what the vectors say, by both implementations."""
    found = cookies_of(vector["anonymous"]).parse(vector["header"])
    leases = {f"{name}-lease": values for name, values in found.leases.items()}
    expected: dict[str, list[str]] = {}
    for name, value in vector["leases"]:
        expected.setdefault(name, []).append(value)
    assert [list(each) for each in found.sessions] == vector["sessions"]
    assert (leases, found.slot) == (expected, vector["slot"])
    by_second = second.found_in(vector["anonymous"], vector["header"])
    assert by_second == {name: vector[name] for name in ("sessions", "leases", "slot")}


@pytest.mark.parametrize("vector", CACHES["responses"], ids=lambda vector: repr(vector["headers"]))
def test_responses_that_caches_store(vector: dict[str, Any]) -> None:
    """A shared cache may store the responses that the vectors say, by both implementations."""
    headers = [(name, value) for name, value in vector["headers"]]
    assert is_storable(headers, vector["now"]) is vector["stored"]
    assert second.may_be_stored(vector["headers"], vector["now"]) is vector["stored"]


# The two implementations, in one browser


def browser() -> Browser:
    clock = Clock()
    return open_browser(clock, amnesia="accept")


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
    name = "__Host-session-1"
    assert set(one.cookies) == {name, f"{name}-lease", "__Host-session-slot"}
    assert second.slot_of(one.cookies["__Host-session-slot"]) == 1
    now = int(START * 1000)
    issued, record = second.open_session([KEY], name, one.cookies[name])
    assert issued == now
    assert record == {
        "id": id_.hex(),
        "version": 1,
        "created": now,
        "authenticated": now,
        "idle": 3600,
        "ends": now + 86_400_000,
        "flags": 0,
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
    name = "__Host-session-3b"
    record = {
        "id": id_.hex(),
        "version": 1 << 16 | 3,
        "created": now - 7_000_000,
        "authenticated": now - 7_000_000,
        "idle": 3600,
        "ends": now + 80_000_000,
        "flags": 0,
        "passed": 0,
        "tags": [{"fence_key": second.tag_fence("user:42").hex(), "passed": 0}],
        "data": '{ "a" : 1, "text": "\\u00e9" }',
    }
    session = second.seal_session(KEY, name, now - 7_000_000, bytes(range(24)), record)
    lease = second.seal_lease(KEY, f"{name}-lease", id_, now - 1_000_000, 3600, 1 << 16 | 2)
    assert one.call(get("a"), header=f"{name}={session}").result is None, "idle for too long without its lease"
    answer = one.receive(one.call(put("b", 2), header=f"{name}={session}; {name}-lease={lease}"))
    assert list(answer.sent()) == [name]
    assert one.do(lambda s: (dict(s), s.version, "user:42" in s.tags)) == (
        {"a": 1, "text": "é", "b": 2},
        1 << 16 | 4,
        True,
    )


def test_the_package_goes_on_as_the_second_implementation_says() -> None:
    """A login takes the slot, and a new epoch the name and the version, that the second implementation computes."""
    one = browser()
    seen: list[str] = []
    for _ in range(6):
        slot = second.slot_of(one.cookies.get("__Host-session-slot"))
        expected = second.slot_of_login("__Host-session", slot, list(one.cookies))
        answer = one.receive(one.call(lambda session: (session.invalidate(), session.regenerate(tags=["user:1"]))))
        seen += [name for name, value in answer.sent().items() if len(value) > 100]
        assert seen[-1] == expected
    assert len(set(seen)) > 1
    before = one.do(lambda session: session.version)
    answer = one.receive(one.call(lambda session: session.regenerate()))
    assert answer.sent()[f"{seen[-1]}b"]
    _, record = second.open_session([KEY], f"{seen[-1]}b", one.cookies[f"{seen[-1]}b"])
    assert record["version"] == second.next_epoch(before)
