"""``wsgi_rollsession.beaker``: what an application that leaves Beaker finds in ``environ["beaker.session"]``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import Ended, RollSession, Session, SessionCommitted, SessionTooLarge, SessionValueError
from wsgi_rollsession.beaker import BeakerSession, SessionMiddleware
from wsgi_rollsession.sessions import SESSION
from wsgi_rollsession.testing import fresh_revocations

from ..browser import KEY, Browser, Clock
from .random_views import Framework, play

Handler = Callable[[Any], Any]


def site(clock: Clock, *, around: bool = False, environ_key: str = "beaker.session", **options: Any) -> Any:
    """An application that knows Beaker's session only."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["test.holder"]["result"] = environ["test.handler"](environ[environ_key])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    given: Any = {
        "keys": KEY,
        "revocations": fresh_revocations(clock),
        "identity_key": "user_id",
        "clock": clock,
        "environ_key": environ_key,
        **options,
    }
    wrapped = SessionMiddleware(application, **given)
    if not around:
        return wrapped
    return RollSession(wrapped, keys=KEY, revocations=fresh_revocations(clock), identity_key="user_id", clock=clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def browser(clock: Clock) -> Browser:
    return Browser(site(clock), clock)


def saved(key: str, value: Any) -> Handler:
    """Store something, and save."""

    def handler(session: Any) -> None:
        session[key] = value
        session.save()

    return handler


def login(user: str) -> Handler:
    return saved("user_id", user)


def get(key: str) -> Handler:
    return lambda session: session.get(key)


who = get("user_id")


def popped(session: Any) -> None:
    session.pop("user_id", None)
    session.save()


def cleared(session: Any) -> None:
    session.clear()
    session.save()


LOGOUTS: dict[str, Handler] = {
    "delete": lambda session: session.delete(),
    "invalidate": lambda session: session.invalidate(),
    "pop": popped,
    "clear": cleared,
}


def test_it_is_the_session(browser: Browser) -> None:
    """It is a ``BeakerSession`` around the package's session."""
    assert browser.do(lambda session: isinstance(session, BeakerSession) and isinstance(session.rollsession, Session))


def test_saving(browser: Browser) -> None:
    """What was saved is there in the next request, also what was changed after ``save()``; what was not, is not."""
    browser.do(saved("a", [1]))

    def changes(session: Any) -> None:
        session["a"].append(2)
        session["b"] = 1

    browser.do(changes)
    assert browser.do(lambda session: session.copy()) == {"a": [1]}

    def saves_first(session: Any) -> None:
        session.save()
        changes(session)

    browser.do(saves_first)
    assert browser.do(lambda session: dict(session)) == {"a": [1, 2], "b": 1}
    browser.do(lambda session: (changes(session), session.save(accessed_only=True)))
    assert browser.do(get("a")) == [1, 2]


def test_auto(clock: Clock) -> None:
    """With ``auto``, all changes are kept."""
    browser = Browser(site(clock, auto=True), clock)
    browser.do(lambda session: session.update(a=1))
    assert browser.do(get("a")) == 1


def test_what_is_not_looked_at_is_not_loaded(browser: Browser, clock: Clock) -> None:
    """A request that does not look at it extends the session when that is due."""
    assert browser.do(lambda session: session.accessed()) is False
    browser.do(login("alice"))
    for _ in range(3):
        clock.advance(3000)
        browser.do(lambda session: None)
    assert browser.do(who) == "alice"


@pytest.mark.parametrize("logout", LOGOUTS.values(), ids=LOGOUTS)
def test_replay_after_logout(browser: Browser, logout: Handler) -> None:
    """After each kind of logout, no copy of the cookie and no answer in flight logs in again."""
    browser.do(login("alice"))
    thief, late = browser.copied(), browser.call(saved("a", 1))
    newer = browser.call(lambda session: session.regenerate_id())
    browser.do(logout if logout is not popped else LOGOUTS["pop"])
    for answer in (late, newer):
        browser.receive(answer)
        assert browser.do(who) is None and thief.do(who) is None


def test_what_is_stored_after_a_logout(browser: Browser) -> None:
    """A message that is stored after ``invalidate()`` or ``delete()`` is kept for nobody."""
    for name in ("invalidate", "delete"):
        browser.do(login("alice"))

        def handler(session: Any, name: str = name) -> None:
            getattr(session, name)()
            session["message"] = "goodbye"
            session.save()

        browser.do(handler)
        assert browser.do(lambda session: dict(session)) == {"message": "goodbye"}


def test_fixation(browser: Browser) -> None:
    """A login begins a new session; a cookie from before it is worth nothing."""
    browser.do(saved("cart", "tea"))
    planted = browser.copied()
    browser.do(login("alice"))
    assert browser.do(get("cart")) == "tea" and planted.do(who) is None


def test_another_user(browser: Browser) -> None:
    """Who logs in over somebody has nothing of hers."""
    browser.do(login("alice"))
    browser.do(saved("is_admin", True))
    browser.do(login("bob"))
    assert browser.do(lambda session: dict(session)) == {"user_id": "bob"}


def test_regenerate_id(browser: Browser) -> None:
    """``regenerate_id()`` makes cookies from before worthless, and is kept without ``save()``."""
    browser.do(login("alice"))
    old = browser.copied()
    browser.do(lambda session: session.regenerate_id())
    assert browser.do(who) == "alice"
    assert old.do(lambda session: session.rollsession.ended) is Ended.SUPERSEDED


def test_revoke(browser: Browser) -> None:
    """``revoke("user:…")`` works for logins by the identity key."""
    browser.do(login("alice"))
    browser.application.revoke("user:alice")  # type: ignore[attr-defined]
    assert browser.do(who) is None


def test_get_by_id_is_refused(browser: Browser) -> None:
    """Sessions cannot be had by their ids, and the error says what can be done instead."""
    with pytest.raises(NotImplementedError, match="revoke_session"):
        browser.do(lambda session: session.get_by_id("x"))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"deep": [time]}])
def test_values_that_json_cannot_carry(browser: Browser, value: Any) -> None:
    """Beaker pickled anything; here what JSON cannot carry is refused where it is stored, with its key."""
    with pytest.raises(SessionValueError, match="basket"):
        browser.do(saved("basket", value))

    def nested(session: Any) -> None:
        session["basket"] = []
        session["basket"].append(value)
        session.save()

    with pytest.raises(SessionValueError, match="basket"):
        browser.do(nested)
    assert browser.do(get("basket")) is None


def test_too_large(browser: Browser) -> None:
    """What does not fit is an error, and the session is what it was."""
    browser.do(login("alice"))
    with pytest.raises(SessionTooLarge, match="basket"):
        browser.do(saved("basket", "x" * 5000))
    assert browser.do(who) == "alice"


def test_an_application_that_fails(browser: Browser) -> None:
    """An application that raises has kept nothing."""

    def fails(session: Any) -> None:
        login("alice")(session)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        browser.do(fails)
    assert browser.do(who) is None


def test_attributes(browser: Browser, clock: Clock) -> None:
    """What Beaker's session says of itself, this says too; under the keys, too, that Beaker keeps it at."""

    def new(session: Any) -> None:
        assert session.is_new and session.last_accessed is None and session.created > 0
        assert not session.dirty() and not session.has_key("a") and "a" not in session
        session["a"] = 1
        session.save()
        assert session.dirty() and session.accessed() and session.has_key("a") and len(session) == 1

    browser.do(new)
    began = clock()
    clock.advance(100)

    def seen(session: Any) -> None:
        assert not session.is_new and session.created == began and session.last_accessed == began
        assert (session["_creation_time"], session.get("_accessed_time")) == (began, began)
        assert session["_id"] == session.id and len(session.id) == 32
        assert list(session) == ["a"] and repr(session).startswith("<Session")
        session.load(), session.lock(), session.unlock()
        session["a"] = 2
        session.revert()
        assert session["a"] == 1 and session.pop("a") == 1 and session.pop("a", 3) == 3
        with pytest.raises(KeyError):
            session["b"]
        with pytest.raises(KeyError):
            session.pop("b")

    browser.do(seen)


@pytest.mark.parametrize(
    ("name", "hint"), [("domain", "cookie_domain"), ("timeout", "idle_timeout"), ("user", "session")]
)
def test_attributes_cannot_be_set(browser: Browser, name: str, hint: str) -> None:
    """What Beaker lets be set for one session is an option here, and the error says which."""
    with pytest.raises(AttributeError, match=hint):
        browser.do(lambda session: setattr(session, name, "x"))


def test_the_other_environ_key(clock: Clock) -> None:
    """``environ_key`` is as in Beaker's middleware, and the package's own name works beside it."""
    browser = Browser(site(clock, environ_key="session"), clock)
    browser.do(saved("a", 1))
    assert browser.do(get("a")) == 1


def test_inside_another_filter(clock: Clock) -> None:
    """Inside a ``RollSession``, its session serves both."""
    browser = Browser(site(clock, around=True), clock)
    browser.do(login("alice"))
    assert browser.do(who) == "alice" and len(browser.cookies) == 2


def test_late_changes(clock: Clock) -> None:
    """A change in the body of a response is an error, and a response that starts over, for an error, keeps nothing."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        session = environ["beaker.session"]
        session["a"] = 1
        session.save()
        start_response("200 OK", [])
        start_response("500 Oops", [], (ValueError, ValueError(), None))
        with pytest.raises(SessionCommitted):
            session["b"] = 1
        assert environ[SESSION] is session.rollsession
        return [b""]

    wrapped = SessionMiddleware(application, keys=KEY, revocations=fresh_revocations(clock), clock=clock)
    answer = Browser(wrapped, clock).call(lambda session: None)
    assert answer.status == "500 Oops" and "__Host-session" in answer.sent()


AT_RANDOM = Framework(
    identity="user_id",
    login=lambda session, user: session.__setitem__("user_id", user),
    logout=lambda session: session.pop("user_id", None),
    acts={
        "clear": lambda session: session.clear(),
        "invalidate": lambda session: session.delete(),
        "regenerate": lambda session: session.regenerate_id(),
        "save": lambda session: session.rollsession.save(),
        "revert": lambda session: session.revert(),
    },
)


@pytest.mark.parametrize("seed", range(0, 200, 50))
def test_random_views(clock: Clock, seed: int) -> None:
    """What a view sees at its end is what the next request finds, and no copy from before a logout is anybody's."""
    application = site(clock, auto=True)
    for each in range(seed, seed + 50):
        play(each, Browser(application, clock), AT_RANDOM)


def test_the_page_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lines of docs/beaker.md make an application in which a logout is one."""
    page = (Path(__file__).parents[2] / "docs" / "beaker.md").read_text("utf-8")
    block = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    monkeypatch.setenv("ROLLSESSION_KEYS", KEY)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["test.holder"]["result"] = environ["test.handler"](environ["beaker.session"])
        start_response("200 OK", [])
        return [b""]

    names: dict[str, Any] = {"application": application, "os": os}
    exec(block.replace("sqlite:////var/lib/shop/revocations.db", "memory://"), names)
    browser = Browser(names["application"], Clock(time.time()))
    browser.do(login("alice"))
    thief = browser.copied()
    assert browser.do(who) == "alice"
    browser.do(LOGOUTS["delete"])
    assert (browser.do(who), thief.do(who)) == (None, None)
