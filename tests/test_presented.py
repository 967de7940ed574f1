"""A Cookie header as it is opened: what is authentic, with the expiry, the fences and the limits that apply to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsgi_rollsession import generate_key, presented
from wsgi_rollsession.cookies import Cookies, Found
from wsgi_rollsession.keys import KeyRing
from wsgi_rollsession.policy import OVER, Ended
from wsgi_rollsession.presented import LONGEST_REMEMBERED, MOST_TRIALS, Opened, Opening, Presented, Site, rank
from wsgi_rollsession.revocation.fence import EVERYTHING, session_key
from wsgi_rollsession.seal import seal_lease, seal_session
from wsgi_rollsession.token import NEVER, UNLIMITED, Lease, Record, pack

from .browser import KEY, Clock, memory, settings

T = 1_800_000_000_000
HOUR = 3_600_000
RING = KeyRing(KEY)
ID = bytes(range(16))
ANONYMOUS, LOGIN = "__Host-session", "__Host-session-1"
RECORD = Record(ID, 3, T, T, 3600, T + 24 * HOUR, 0, (10, 11), (b"t" * 16,), b"{}")


@pytest.fixture
def site() -> Site:
    return site_of()


def site_of(**options: Any) -> Site:
    """What all requests share, over an empty store."""
    return Site(settings(**options), memory(Clock()))


def cookie(name: str = LOGIN, issued: int = T, ring: KeyRing = RING, **fields: Any) -> str:
    return f"{name}={seal_session(ring, name, issued, pack(RECORD._replace(**fields)))}"


def lease(
    renewed: int, *, name: str = LOGIN, idle: int = 3600, version: int = 3, id_: bytes = ID, ring: KeyRing = RING
) -> str:
    return f"{name}-lease={seal_lease(ring, f'{name}-lease', id_, Lease(renewed, idle, version))}"


def opened(site: Site, *cookies: str) -> Opened:
    """What the only session of a header says."""
    ((_, found),) = site.open_header("; ".join(cookies)).sessions
    return found


def test_opened(site: Site) -> None:
    """A session cookie gives its record, when it was active last, and the fences with their limits."""
    assert opened(site, cookie()) == Opened(
        last_activity=T,
        idle=3600,
        ends=T + 24 * HOUR,
        record=RECORD,
        keys=(EVERYTHING, session_key(ID), b"t" * 16),
        limits=((T - 1) // 1000, 3, (T - 1) // 1000),
    )


@pytest.mark.parametrize(
    ("options", "idle", "ends"),
    [
        ({}, 3600, T + 24 * HOUR),
        ({"idle_timeout": "10m"}, 600, T + 24 * HOUR),
        ({"idle_timeout": "5h"}, 3600, T + 24 * HOUR),
        ({"rolling": False}, 3600, T + 24 * HOUR),
        ({"absolute_timeout": "8h"}, 3600, T + 8 * HOUR),
        ({"absolute_timeout": "7d"}, 3600, T + 24 * HOUR),
    ],
)
def test_the_configuration_of_today(options: dict[str, Any], idle: int, ends: int) -> None:
    """Today's time-outs apply to sessions of yesterday where they are shorter, with and without a lease."""
    site = site_of(**options)
    for cookies in ([cookie()], [cookie(), lease(T + 5)]):
        found = opened(site, *cookies)
        assert (found.idle, found.ends) == (idle, ends)


@pytest.mark.parametrize(
    ("leases", "last_activity", "idle"),
    [
        ([], T, 3600),
        ([lease(T + 5)], T + 5, 3600),
        ([lease(T + 5, idle=900)], T + 5, 900),
        ([lease(T + 5), lease(T + 9), lease(T + 7)], T + 9, 3600),
        ([lease(T + 9, version=4), lease(T + 5)], T + 5, 3600),
        ([lease(T + 9, version=1 << 16 | 1)], T, 3600),
        ([lease(T - 5), lease(T)], T, 3600),
        ([lease(T + 5), "__Host-session-1-lease=junk"], T + 5, 3600),
        (["__Host-session-1-lease=junk", lease(T + 5)], T + 5, 3600),
        ([lease(T + 9, id_=bytes(16)), lease(T + 5)], T + 5, 3600),
        ([lease(T + 9, ring=KeyRing(generate_key())), lease(T + 5)], T + 5, 3600),
        ([lease(T + 9, name=ANONYMOUS), lease(T + 9, name="__Host-session-1b")], T, 3600),
    ],
)
def test_the_best_lease_counts(site: Site, leases: list[str], last_activity: int, idle: int) -> None:
    """Of several leases the latest counts that is authentic, of this session and of its epoch; the rest is nothing."""
    for cookies in ([cookie(), *leases], [*leases, cookie()]):
        found = opened(site, *cookies)
        assert (found.last_activity, found.idle) == (last_activity, idle)


JUNK: list[tuple[str, str, bool]] = [
    ("__Host-session-1=junk", "wrong length", False),
    (cookie()[:-1], "wrong length", False),
    (cookie().replace("=A", "=B"), "unknown format version", False),
    (cookie(ring=KeyRing(generate_key())), "unknown key", True),
    (cookie(ANONYMOUS, ring=KeyRing(generate_key())), "unknown key", False),
    (cookie().replace("session-1", "session-2"), "not authentic", False),
    (f"{LOGIN}={seal_session(RING, LOGIN, T, bytes(48))}", "plaintext too short", False),
]


@pytest.mark.parametrize(("junk", "reason", "key_is_gone"), JUNK, ids=[row[1] for row in JUNK])
def test_what_is_not_authentic(site: Site, junk: str, reason: str, key_is_gone: bool) -> None:
    """It is no session. Why is kept, whether it looks like a login whose key is gone, and its name, to delete it."""
    opening = site.open_header(junk)
    assert (opening.sessions, opening.key_is_gone) == ((), key_is_gone)
    (refusal,) = opening.refusals
    assert reason in refusal
    assert opening.session_names == opening.names == (junk.partition("=")[0],)
    beside = site.open_header(f"{junk}; {cookie('__Host-session-3')}; {junk}")
    assert [name for name, _ in beside.sessions] == ["__Host-session-3"]


def test_nothing_of_ours(site: Site) -> None:
    """A header without our names opens to nothing, and costs nothing."""
    for header in ("", "a=1; b=2", "session=x"):
        assert site.open_header(header) is presented.NOTHING


def test_several(site: Site) -> None:
    """All authentic sessions are found, in the order of the header, with all names that are there and the slot."""
    header = "; ".join(
        [cookie("__Host-session-4b"), lease(T, name="__Host-session-2"), cookie(ANONYMOUS, authenticated=0)]
    )
    opening = site.open_header(f"{header}; __Host-session-slot=3; __Host-session-1=junk")
    assert [name for name, _ in opening.sessions] == ["__Host-session-4b", ANONYMOUS]
    assert opening.session_names == ("__Host-session-4b", ANONYMOUS, LOGIN)
    assert opening.names == ("__Host-session-4b", ANONYMOUS, LOGIN, "__Host-session-2-lease")
    assert opening.slot == 3


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of session cookies that were decrypted."""
    names: list[str] = []
    original = presented.open_session

    def counting(ring: KeyRing, name: str, value: str) -> tuple[int, bytes]:
        names.append(name)
        return original(ring, name, value)

    monkeypatch.setattr(presented, "open_session", counting)
    return names


@pytest.mark.parametrize(
    ("header", "often"),
    [
        (lambda: cookie(), 1),
        (lambda: f"{cookie()}; {lease(T + 5)}", 1),
        (lambda: "__Host-session-1=junk", 2),
        (lambda: f"{cookie()}; {'x' * LONGEST_REMEMBERED}=1", 1),
    ],
)
def test_what_is_remembered(site: Site, opens: list[str], header: Callable[[], str], often: int) -> None:
    """What has opened is not decrypted a second time; what has not is not remembered."""
    text = header()
    first: Opening = site.open_header(text)
    assert site.open_header(text) == first
    assert len(opens) == often


@pytest.mark.parametrize(
    ("header", "remembered"),
    [
        (lambda: cookie(), True),
        (lambda: f"{cookie()}; {lease(T + 5)}", True),
        (lambda: f"{cookie()}; __Host-session-2=junk", False),
        (lambda: f"{cookie()}; {LOGIN}-lease=junk", False),
        (lambda: f"{lease(T)}; __Host-session-slot=1", False),
        (lambda: "__Host-session-slot=1", False),
        (lambda: f"{cookie()}; x={'x' * LONGEST_REMEMBERED}", False),
    ],
)
def test_which_headers_are_remembered(
    site: Site, monkeypatch: pytest.MonkeyPatch, header: Callable[[], str], remembered: bool
) -> None:
    """A header is taken apart once if it opens as a whole; what anybody can make up displaces nothing."""
    parsed, original = [], Cookies.parse

    def parse(self: Cookies, text: str) -> Found:
        parsed.append(text)
        return original(self, text)

    monkeypatch.setattr(Cookies, "parse", parse)
    text = header()
    for _ in range(3):
        site.open_header(text)
    assert len(parsed) == (1 if remembered else 3)


@pytest.mark.parametrize(("length", "parsed"), [(LONGEST_REMEMBERED, 1), (LONGEST_REMEMBERED + 1, 2)])
def test_no_long_header_is_remembered_for_its_last_lease(
    monkeypatch: pytest.MonkeyPatch, length: int, parsed: int
) -> None:
    """What is kept in memory for each header is bounded."""
    taken_apart, original = [], Cookies.last_lease

    def last_lease(self: Cookies, header: str) -> Lease | None:
        taken_apart.append(header)
        return original(self, header)

    monkeypatch.setattr(Cookies, "last_lease", last_lease)
    site, text = site_of(), lease(T).rjust(length)
    for _ in range(2):
        found = site.last_lease(text)
        assert found is not None and found.renewed == T
    assert len(taken_apart) == parsed


def test_a_roll_does_not_decrypt_the_session_again(site: Site, opens: list[str]) -> None:
    """A new lease makes another header, of which the session is known."""
    session = cookie()
    for n in range(5):
        assert opened(site, session, lease(T + n + 1)).last_activity == T + n + 1
    assert len(opens) == 1


def test_many_leases(site: Site) -> None:
    """One session may have any number of leases. Of many sessions the last leases are tried with each."""
    many = [lease(T + n, version=1) for n in range(1, 301)]
    assert opened(site, cookie(), *many).last_activity == T + 300
    assert opened(site, cookie(), *reversed(many)).last_activity == T + 300
    sessions = [cookie(version=n) for n in range(1, 21)]
    found = site.open_header("; ".join([*sessions, *reversed(many)])).sessions
    assert [each.last_activity for _, each in found] == [T + MOST_TRIALS // 20] * 20


def one(name: str = LOGIN, last_activity: int = T, **fields: Any) -> Presented:
    record = RECORD._replace(**fields)
    keys = (EVERYTHING, session_key(record.id), b"t" * 16)
    return Presented(name, Opened(last_activity, record.idle, record.ends, record, keys, (1, record.version, 1)))


def test_a_login_is_known_by_its_time() -> None:
    """A session with a login time is a login, whatever its name."""
    assert one().is_login
    assert not one(authenticated=0).is_login
    assert one(ANONYMOUS).is_login


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        (one(authenticated=0, created=T + 5, version=9, last_activity=T + 9), one(last_activity=T)),
        (one(version=9, last_activity=T + 9), one(created=T + 1)),
        (one(authenticated=T + 9), one(created=T + 1)),
        (one(version=3, last_activity=T + 9), one(version=4)),
        (one(version=65_535), one(version=1 << 16 | 1)),
        (one(), one(last_activity=T + 1)),
        (one(authenticated=0), one(authenticated=0, created=T + 1)),
    ],
)
def test_rank(smaller: Presented, larger: Presented) -> None:
    """A login comes before an anonymous session, then the later creation, version, and activity."""
    assert rank(smaller) < rank(larger)


@pytest.mark.parametrize("ended", [None, *Ended])
def test_may_live_elsewhere(ended: Ended | None) -> None:
    """What a fence has refused is dead for everybody; a clock may be another's, and a version may be an old copy."""
    each = one()
    each.ended = ended
    assert each.may_live_elsewhere(T) is (ended not in OVER)
    assert each.may_live_elsewhere(T - 10 * HOUR) is (ended not in OVER), "issued in the future, by another's clock"
    assert each.may_live_elsewhere(T + HOUR + 59_999) is (ended not in OVER)
    assert not each.may_live_elsewhere(T + HOUR + 60_000)


def test_may_live_elsewhere_under_another_configuration() -> None:
    """The time-outs that were stamped count, and not those of this process."""
    session = Presented(LOGIN, opened(site_of(idle_timeout="10m"), cookie()))
    assert session.expired(T + HOUR // 2) is Ended.IDLE
    assert session.may_live_elsewhere(T + HOUR // 2)
    assert not session.may_live_elsewhere(T + 2 * HOUR)


def test_without_time_outs() -> None:
    """A session without an idle timeout and without an end is never over by the clock."""
    session = one(idle=UNLIMITED, ends=NEVER)
    assert session.expired(T + 100_000 * HOUR) is None
    assert session.may_live_elsewhere(T + 100_000 * HOUR)


def test_written() -> None:
    """The next version has the fences of the session and its own limit."""
    session = one()
    following = session.written(RECORD._replace(version=4), T + 5, 900)
    assert (following.name, following.last_activity, following.idle, following.ends) == (
        LOGIN,
        T + 5,
        900,
        session.ends,
    )
    assert following.keys == session.keys
    assert following.limits == (1, 4, 1)
