"""For tests of *your application*: log in a user without the login page, look into a session, let time pass.

    from webob import Request
    from wsgi_rollsession import Ended, RollSession, generate_key
    from wsgi_rollsession.testing import Clock, fresh_revocations, read_session, session_cookies

    clock = Clock()
    site = RollSession(application, keys=generate_key(), revocations=fresh_revocations(clock), clock=clock)
    alice = session_cookies(site, {"cart": ["tea"]}, tags=["user:alice"])     # a dict: alice is logged in
    response = Request.blank("/cart", cookies=alice).get_response(site)
    alice.receive(response.headers.getall("Set-Cookie"))                      # as a browser would
    assert read_session(site, alice).data == {"cart": ["tea"]}
    clock.advance(3600)
    assert read_session(site, alice).ended is Ended.IDLE

docs/testing.md has it with WebTest, with Werkzeug's and Flask's client, and with no client at all. Nothing here needs a
framework for tests. (``testing.stores`` is something else: what a revocation store of your own must do.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..middleware import RollSession
from ..policy import Ended
from ..revocation import Revocations, StoreOptions
from ..revocation.memory import MemoryRevocations
from ..session import Tags
from ..sessions import Sessions

__all__ = ["Clock", "Cookies", "Snapshot", "fresh_revocations", "read_session", "session_cookies"]


class Clock:
    """A clock that stands still until it is told to move: ``RollSession(…, clock=clock)``.

    Args:
        now: what it shows at first, in Unix seconds. By default what the host's clock shows.
    """

    def __init__(self, now: float | None = None) -> None:
        #: What it shows, in Unix seconds.
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: *seconds* is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds: requires 0 or more, received {seconds!r}")
        self.now += seconds


class Cookies(dict[str, str]):
    """The cookies of a browser, by name. It knows one site, so it looks at no domain, no path, and no ``Secure``."""

    @property
    def header(self) -> str:
        """The Cookie header that they make: ``environ["HTTP_COOKIE"]``."""
        return "; ".join(f"{name}={value}" for name, value in self.items())

    def receive(self, set_cookies: Iterable[str]) -> None:
        """Do what a response says.

        Args:
            set_cookies: the values of its Set-Cookie headers. Of their attributes, ``Max-Age=0`` alone counts: what
                expires with time stays, and that a session has ended is for the application to see.
        """
        for each in set_cookies:
            pair, *attributes = each.split(";")
            name, _, value = pair.strip().partition("=")
            if any(attribute.strip().lower() == "max-age=0" for attribute in attributes):
                self.pop(name, None)
            else:
                self[name] = value


@dataclass(frozen=True)
class Snapshot:
    """What the application would find in a session. To change it changes nothing."""

    #: A copy.
    data: dict[str, Any]
    #: 32 hexadecimal digits, as ``Sessions.revoke_session`` wants them. None: there is no session.
    id: str | None
    #: 0: there is no session.
    version: int
    #: Ask by the text: ``"user:42" in snapshot.tags``. Only hashes are kept.
    tags: Tags
    #: In UTC, all of these. None: there is no session.
    created: datetime | None
    #: None: nobody is logged in.
    authenticated_at: datetime | None
    last_activity: datetime | None
    #: When it ends without further activity. None, too, if it has no end.
    expires: datetime | None
    #: Why nobody is logged in; None while somebody is.
    ended: Ended | None

    @property
    def logged_in(self) -> bool:
        """Whether somebody is."""
        return self.ended is None


def fresh_revocations(clock: Callable[[], float] | None = None) -> Callable[[StoreOptions], Revocations]:
    """An empty revocation set, in memory, for each application that is made: ``revocations=fresh_revocations(clock)``.

    It has lost nothing: no session is refused because it began earlier.

    Args:
        clock: Unix seconds; the one that the ``clock`` option gets. It may stand still, and must not go back.
    """

    def opened(options: StoreOptions) -> Revocations:
        options = replace(options, accept_amnesia=True)
        return MemoryRevocations(options) if clock is None else MemoryRevocations.by_clock(options, clock)

    return opened


def session_cookies(
    site: RollSession | Sessions,
    data: Mapping[str, Any] | None = None,
    *,
    tags: Iterable[str] | None = None,
    age: float = 0,
) -> Cookies:
    """The cookies of a browser that has this session: a request that sends them is its user's.

    Somebody is logged in if *data* have the site's identity key, or *tags* are given, be it none (``[]``). Otherwise
    the session is anonymous; and if there are no data either, there is no session. What is revoked later ends it; what
    was revoked before this call does not, whatever its age.

    Args:
        site: where it is to be valid.
        data: what it holds.
        tags: as for ``Session.regenerate``. That of the identity is added.
        age: how many seconds ago it began. Nothing has happened in it since.

    Raises:
        TypeError: *site* is something else, such as the application inside or around the filter.
        ValueError: *age* is negative; or there are more than 32 tags.
        SessionValueError: what JSON cannot carry.
        SessionTooLarge: it does not fit into a cookie.
        StoreUnavailable: as the outage policy has it.
    """
    if age < 0:
        raise ValueError(f"age: requires 0 seconds or more, received {age!r}")
    sessions = _sessions(site)
    if age:
        now = sessions.settings.clock
        sessions = sessions.by_clock(lambda: now() - age)
    session = sessions.begin_header("")
    if tags is not None:
        session.regenerate(tags=tags)
    session.update(data or {})
    _, parts = sessions.commit_parts(session, "200 OK", [])
    return Cookies((part.name, part.value) for part in parts)


def read_session(site: RollSession | Sessions, cookies: str | Mapping[str, Any] | Iterable[Any]) -> Snapshot:
    """What the application would find in the session of a request with these cookies, now. It extends nothing.

    Args:
        site: where it is to be valid.
        cookies: a Cookie header; or a mapping from names to values (``Cookies``, ``TestApp.cookies``, a
            ``SimpleCookie``); or objects with ``name`` and ``value`` (a ``http.cookiejar.CookieJar``); or the values of
            the Set-Cookie headers of one response. A response that only extends a session, or leaves it alone, does not
            send it: then read what the client holds.

    Raises:
        TypeError: *cookies* are none of these, or *site* is something else.
        StoreUnavailable: as the outage policy has it.
    """
    session = _sessions(site).begin_header(_header(cookies))
    return Snapshot(
        data=session.copy(),
        id=session.id if session.version else None,
        version=session.version,
        tags=session.tags,
        created=session.created,
        authenticated_at=session.authenticated_at,
        last_activity=session.last_activity,
        expires=session.expires,
        ended=session.ended,
    )


def _sessions(site: RollSession | Sessions) -> Sessions:
    if isinstance(site, RollSession):
        return site.sessions
    if isinstance(site, Sessions):
        return site
    received = type(site).__name__
    raise TypeError(f"site: requires a RollSession or Sessions, received {received} (Flask: rollsessions.sessions)")


def _header(cookies: str | Mapping[str, Any] | Iterable[Any]) -> str:
    """The Cookie header of a client with these *cookies*."""
    if isinstance(cookies, str):
        return cookies
    pairs: list[tuple[Any, Any]] = []
    received = Cookies()
    if isinstance(cookies, Mapping):
        pairs += [(name, getattr(cookie, "value", cookie)) for name, cookie in cookies.items()]
    else:
        for each in cookies:
            if isinstance(each, str):
                received.receive([each])
            elif hasattr(each, "name") and hasattr(each, "value"):
                pairs.append((each.name, each.value))
            else:
                raise _unknown(each)
    for name, value in pairs:
        # A response's headers, say: not to be taken for the cookies of nobody.
        if not isinstance(value, str) or str(name).lower() in ("cookie", "set-cookie"):
            raise _unknown((name, value))
    return "; ".join([*(f"{name}={value}" for name, value in pairs), received.header]).strip("; ")


def _unknown(received: object) -> TypeError:
    kinds = "a Cookie header, a mapping from names to values, a cookie jar, or values of Set-Cookie headers"
    return TypeError(f"cookies: requires {kinds}, received {received!r}")
