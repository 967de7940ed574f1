"""Django: its ``login()`` and ``logout()`` keep what this package promises, without a change to the application."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

django = pytest.importorskip("django")

from asgiref.sync import async_to_sync  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.core.wsgi import WSGIHandler  # noqa: E402
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse  # noqa: E402
from django.test import Client, RequestFactory, override_settings  # noqa: E402
from django.test.utils import setup_test_environment, teardown_test_environment  # noqa: E402
from django.urls import path  # noqa: E402

from wsgi_rollsession import ConfigurationError, StoreUnavailable  # noqa: E402
from wsgi_rollsession.migration import DjangoCookie  # noqa: E402
from wsgi_rollsession.testing import fresh_revocations  # noqa: E402

from ..browser import KEY, Answer, Browser, Clock, call  # noqa: E402
from .random_views import Framework, play  # noqa: E402

Do = Callable[[HttpRequest], Any]

MIDDLEWARE = [
    "wsgi_rollsession.django.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]


def dispatch(request: HttpRequest) -> HttpResponse:
    """The only view: what the test brings."""
    result = request.META["test.handler"](request)
    if isinstance(result, HttpResponse | StreamingHttpResponse):
        return result
    request.META["test.holder"]["result"] = result
    return HttpResponse("ok")


def echo(request: HttpRequest) -> HttpResponse:
    """For Django's test client."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(f"{request.user.get_username() or 'nobody'} {request.session['visits']}")


def sign_out(request: HttpRequest) -> HttpResponse:
    """For Django's test client."""
    auth.logout(request)
    return HttpResponse()


urlpatterns = [path("echo/", echo), path("logout/", sign_out), path("", dispatch)]

settings.configure(
    ALLOWED_HOSTS=["*"],
    AUTH_PASSWORD_VALIDATORS=[],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "wsgi_rollsession.django",
    ],
    LOGGING_CONFIG=None,
    MIDDLEWARE=MIDDLEWARE,
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROLLSESSION={"keys": KEY, "revocations": "memory://"},
    ROOT_URLCONF=__name__,
    SECRET_KEY="a secret of the tests",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    USE_TZ=True,
)
django.setup()

from django.contrib import auth, messages  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.auth.views import LogoutView  # noqa: E402
from django.contrib.sessions.backends import signed_cookies  # noqa: E402
from django.contrib.sessions.backends.base import UpdateError  # noqa: E402
from django.core.management import call_command  # noqa: E402

from wsgi_rollsession.django import SessionMiddleware, revoke_user, sessions  # noqa: E402
from wsgi_rollsession.django import checks as system_checks  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def database() -> None:
    """The tables of Django's users."""
    call_command("migrate", verbosity=0)


@pytest.fixture(autouse=True)
def users() -> None:
    """Alice and Bob."""
    User.objects.all().delete()
    User.objects.create_user("alice", password="a", pk=1)
    User.objects.create_user("bob", password="b", pk=2)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def site(clock: Clock) -> Iterator[Browser]:
    """A browser at a project with a store of its own."""
    with configured(clock):
        yield Browser(WSGIHandler(), clock)


def configured(clock: Clock, **options: Any) -> Any:
    """Settings for one test: options of ROLLSESSION; in capitals, of Django."""
    ours = {key: value for key, value in options.items() if not key.isupper()}
    given = {"keys": KEY, "revocations": fresh_revocations(clock), "clock": clock, **ours}
    return override_settings(ROLLSESSION=given, **{key: value for key, value in options.items() if key.isupper()})


# What a view does


def login(name: str) -> Do:
    """Django's ``login()``."""

    def view(request: HttpRequest) -> None:
        auth.login(request, User.objects.get(username=name), "django.contrib.auth.backends.ModelBackend")

    return view


def who(request: HttpRequest) -> str:
    """Who is logged in."""
    return request.user.get_username()


def put(key: str, value: Any) -> Do:
    """Store something."""
    return lambda request: request.session.__setitem__(key, value)


def get(key: str) -> Do:
    """Read something."""
    return lambda request: request.session.get(key)


def change_password(request: HttpRequest) -> None:
    """As Django's documentation has it."""
    request.user.set_password("new")
    request.user.save()
    auth.update_session_auth_hash(request, request.user)


def fails(do: Do, status: int = 500) -> Do:
    """The same, and an error after it."""

    def view(request: HttpRequest) -> HttpResponse:
        do(request)
        return HttpResponse(status=status)

    return view


def outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store does not answer."""

    def unavailable(*_: object) -> Any:
        raise StoreUnavailable("no answer")

    for name in ("lookup", "lookup_now", "fence", "fence_now", "compare_and_raise"):
        monkeypatch.setattr(sessions().revocations, name, unavailable)


# Logging out

LOGOUTS: dict[str, Do] = {
    "logout()": auth.logout,
    "alogout()": async_to_sync(auth.alogout),
    "LogoutView": lambda request: post(request, LogoutView.as_view(next_page="/")),
    "session.flush()": lambda request: request.session.flush(),
    "session.aflush()": lambda request: async_to_sync(request.session.aflush)(),
    "session.clear()": lambda request: request.session.clear(),
    "session.delete()": lambda request: request.session.delete(),
    "del session[…]": lambda request: request.session.__delitem__(auth.SESSION_KEY),
    "session.pop(…)": lambda request: request.session.pop(auth.SESSION_KEY, None),
    "logout(), then a message": lambda request: (auth.logout(request), messages.info(request, "Goodbye")),
    "revoke_user()": lambda request: revoke_user(request.user),
    "session.create()": lambda request: request.session.create(),
}
every_logout = pytest.mark.parametrize("logout", LOGOUTS.values(), ids=list(LOGOUTS))


def post(request: HttpRequest, view: Callable[[HttpRequest], HttpResponse]) -> HttpResponse:
    """Have *view* believe that it is a POST."""
    request.method = "POST"
    request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
    return view(request)


def test_sessions_of_signed_cookies_move_in(clock: Clock) -> None:
    """Who is logged in with Django's engine ``signed_cookies`` stays so, once, until the logout."""
    clock.now = time.time()  # Django signs with its own
    request = RequestFactory().get("/")
    request.session = signed_cookies.SessionStore()
    login("alice")(request)
    request.session["cart"] = ["tea"]
    old = DjangoCookie(settings.SECRET_KEY, switched_by="2200-01-01")
    with configured(clock, moving_in=[old]):
        browser = Browser(WSGIHandler(), clock)
        browser.jar["sessionid"] = (request.session._get_session_key(), None, "HttpOnly; Path=/")
        thief = browser.copied()
        assert browser.do(lambda r: (who(r), r.session.get("cart"))) == ("alice", ["tea"])
        assert browser.do(who) == "alice" and thief.do(who) == "" and "sessionid" not in browser.cookies
        browser.do(auth.logout)
        assert browser.do(who) == "" and thief.do(who) == ""


@every_logout
def test_a_logout_ends_every_copy(site: Browser, logout: Do) -> None:
    """Whatever cookie was ever issued for the login: after it, it is nobody's."""
    thieves = []
    for step in (login("alice"), put("cart", ["tea"]), change_password, put("cart", [])):
        site.do(step)
        thieves.append(site.copied())
    assert site.do(who) == "alice"
    site.do(logout)
    assert site.do(who) == ""
    for thief in thieves:
        assert thief.do(lambda r: (who(r), r.session.get("cart"))) == ("", None)


@every_logout
def test_what_arrives_after_a_logout_is_dead(site: Browser, logout: Do) -> None:
    """1. A request loads, writes and is answered. 2. Logout. 3. The answer arrives: nobody is logged in."""
    site.do(login("alice"))
    late = site.call(put("cart", ["tea"]))
    site.do(logout)
    site.receive(late)
    assert site.do(lambda r: (who(r), r.session.get("cart"))) == ("", None)


@pytest.mark.parametrize("renew", [lambda r: r.session.cycle_key(), change_password], ids=["cycle_key", "password"])
@pytest.mark.parametrize("name", ["logout()", "alogout()", "LogoutView", "session.flush()", "session.clear()"])
def test_a_logout_ends_what_is_on_its_way(site: Browser, renew: Do, name: str) -> None:
    """1. A next epoch is answered, under way. 2. A logout finds the session dead. 3. The answer arrives: nobody."""
    site.do(login("alice"))
    late = site.call(renew)
    answer = site.receive(site.call(lambda r: (who(r), LOGOUTS[name](r))))
    assert answer.result is None or answer.result[0] == ""
    site.receive(late)
    assert site.do(who) == ""


def test_a_logout_in_an_outage_is_not_confirmed(site: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The response says so, and is none that looks like success."""
    site.do(login("alice"))
    with monkeypatch.context() as context:
        outage(context)
        answer = site.call(auth.logout)
    assert answer.status == "503 Service Unavailable"
    assert b"try again" in answer.body
    site.receive(answer)
    assert site.do(who) == "alice"


def test_a_view_can_tell_the_user_about_the_outage(site: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """It catches ``StoreUnavailable``, and has this browser at least forget the session."""
    site.do(login("alice"))

    def view(request: HttpRequest) -> HttpResponse:
        try:
            auth.logout(request)
        except StoreUnavailable:
            request.session.rollsession.forget()
            return HttpResponse("not certain", status=503)
        raise AssertionError

    with monkeypatch.context() as context:
        outage(context)
        assert site.receive(site.call(view)).body == b"not certain"
    assert site.do(who) == ""


# Logging in


def test_login_begins_a_session_of_its_own(site: Browser) -> None:
    """The data of the anonymous session go on; a cookie that an attacker planted before does not."""
    site.do(put("cart", ["tea"]))
    planted = site.copied()
    before = site.do(lambda r: r.session.session_key)
    site.do(login("alice"))
    assert site.do(lambda r: (who(r), r.session["cart"], r.session.session_key != before)) == ("alice", ["tea"], True)
    assert "user:1" in site.do(lambda r: r.session.rollsession.tags)
    assert planted.do(lambda r: (who(r), r.session.get("cart"))) == ("", None)


def test_another_user_inherits_nothing(site: Browser) -> None:
    """Bob logs in over Alice's session: it is ended, and nothing of hers is in his."""
    site.do(login("alice"))
    site.do(put("is_admin", True))
    thief = site.copied()
    site.do(login("bob"))
    assert site.do(lambda r: (who(r), r.session.get("is_admin"))) == ("bob", None)
    assert thief.do(who) == ""


def test_login_again_is_authentication_again(site: Browser, clock: Clock) -> None:
    """The same user logs in once more: the absolute timeout begins anew, and copies from before stop working."""
    site.do(login("alice"))
    begun = site.do(lambda r: (r.session.session_key, r.session.rollsession.authenticated_at))
    thief = site.copied()
    clock.advance(60)
    site.do(login("alice"))
    again = site.do(lambda r: (r.session.session_key, r.session.rollsession.authenticated_at))
    assert again == (begun[0], begun[1] + timedelta(seconds=60))
    assert thief.do(who) == ""


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_after_login_keeps_nothing(site: Browser, status: int) -> None:
    """As with Django's own sessions: a response of 500 or more saves nothing; here, it ends nothing either."""
    site.do(put("cart", ["tea"]))
    site.receive(site.call(fails(login("alice"), status)))
    assert site.do(lambda r: (who(r), r.session["cart"])) == ("", ["tea"])


def test_an_error_keeps_nothing_of_what_was_stored_otherwise(site: Browser) -> None:
    """Also what went past Django's names."""
    site.do(put("n", 1))
    site.receive(site.call(fails(lambda r: r.session.rollsession.update(n=2))))
    assert site.do(get("n")) == 1


def test_an_exception_after_login_keeps_nothing(site: Browser) -> None:
    """The same for a view that raises."""
    site.do(put("cart", ["tea"]))

    def view(request: HttpRequest) -> None:
        login("alice")(request)
        raise ZeroDivisionError

    assert site.receive(site.call(view)).status.startswith("500")
    assert site.do(lambda r: (who(r), r.session["cart"])) == ("", ["tea"])


def test_a_404_keeps_what_was_stored(site: Browser) -> None:
    """Less than 500 is no failure of the application."""
    site.receive(site.call(fails(put("seen", 1), 404)))
    assert site.do(get("seen")) == 1


def test_a_logout_before_an_error_is_one(site: Browser) -> None:
    """``logout()`` has ended the session when it returns."""
    site.do(login("alice"))
    thief = site.copied()
    answer = site.receive(site.call(fails(auth.logout)))
    assert any(each.endswith("-1=; Max-Age=0") or "-1=;" in each for each in answer.set_cookies)
    assert (site.do(who), thief.do(who)) == ("", "")


@pytest.mark.parametrize("before", [None, "alice"])
def test_a_login_that_is_too_large(site: Browser, before: str | None) -> None:
    """It is an error page, and not a lost cart; over another user it is nobody's, for Django has flushed that one."""
    if before:
        site.do(login(before))
    else:
        site.do(put("cart", ["tea"]))
    answer = site.receive(site.call(lambda r: (login("bob")(r), put("data", os.urandom(3000).hex())(r))))
    assert answer.status.startswith("500")
    assert site.do(lambda r: (who(r), r.session.get("cart"))) == ("", None if before else ["tea"])


def test_a_session_that_ends_meanwhile_is_a_400(site: Browser) -> None:
    """1. A request of Alice's begins. 2. She is logged out elsewhere. 3. It cycles the key: SessionInterrupted."""
    site.do(login("alice"))

    def view(request: HttpRequest) -> None:
        assert who(request) == "alice"
        revoke_user(request.user)
        request.session.cycle_key()

    answer = site.receive(site.call(view))
    assert answer.status == "400 Bad Request"
    assert site.do(who) == ""


def test_a_write_to_a_session_that_ends_meanwhile_is_dropped(site: Browser) -> None:
    """As the core does; ``save()`` raises Django's ``UpdateError``."""
    site.do(login("alice"))
    raised = []

    def view(request: HttpRequest) -> None:
        request.session["cart"] = ["tea"]
        revoke_user(User.objects.get(username="alice"))
        try:
            request.session.save()
        except UpdateError as error:
            raised.append(error)

    answer = site.receive(site.call(view))
    assert answer.status == "200 OK" and len(raised) == 1
    assert site.do(lambda r: (who(r), r.session.get("cart"))) == ("", None)


def test_a_request_that_is_run_again(site: Browser) -> None:
    """A retry around the project, with the same environ: nothing staged by the pass that failed, all it did at once."""
    handler, passes = site.application, []

    def twice(environ: dict[str, Any], start_response: Any) -> Any:
        first = handler(environ, lambda *_: lambda data: None)
        b"".join(first)
        first.close()  # type: ignore[attr-defined]
        return handler(environ, start_response)

    def counted(request: HttpRequest) -> HttpResponse:
        passes.append(put("n", (get("n")(request) or 0) + 1)(request))
        return HttpResponse(status=500 if len(passes) == 1 else 200)

    site.do(login("alice"))
    site.application = twice
    site.receive(site.call(counted))
    assert (len(passes), site.do(get("n"))) == (2, 1)
    thief, passes[:] = site.copied(), []
    site.do(lambda r: passes.append(auth.logout(r)) if not passes else None)
    assert not any(name.startswith("__Host-session-1") for name in site.cookies)
    assert (site.do(who), thief.do(who)) == ("", "")


# Everywhere


def test_revoke_user(site: Browser) -> None:
    """All of a user's sessions end, and nobody else's."""
    phone, other = Browser(site.application, site.clock), Browser(site.application, site.clock)
    site.do(login("alice")), phone.do(login("alice")), other.do(login("bob"))
    revoke_user(User.objects.get(username="alice"))
    assert [each.do(who) for each in (site, phone, other)] == ["", "", "bob"]
    site.do(login("alice"))
    assert site.do(who) == "alice"


def test_a_changed_password_ends_the_other_sessions(site: Browser) -> None:
    """``update_session_auth_hash()``: those of other devices, and every copy of this one from before, data and all."""
    phone, other = Browser(site.application, site.clock), Browser(site.application, site.clock)
    site.do(login("alice")), phone.do(login("alice")), other.do(login("bob"))
    phone.do(put("draft", 1)), site.do(put("draft", 2))
    thief = site.copied()
    site.do(change_password)
    assert site.do(lambda r: (who(r), r.session["draft"])) == ("alice", 2)
    assert other.do(who) == "bob"
    for each in (phone, thief):
        assert each.do(lambda r: (r.session.get("draft"), who(r))) == (None, "")


def test_a_password_changed_by_an_administrator(site: Browser) -> None:
    """Django finds that the hash differs, and flushes the session."""
    site.do(login("alice"))
    thief = site.copied()
    alice = User.objects.get(username="alice")
    alice.set_password("new")
    alice.save()
    assert site.do(who) == ""
    assert thief.do(lambda r: dict(r.session.items())) == {}


def test_a_new_secret_key_logs_nobody_out(site: Browser) -> None:
    """With SECRET_KEY_FALLBACKS Django renews the hash: the other devices of the user stay logged in."""
    phone = Browser(site.application, site.clock)
    site.do(login("alice")), phone.do(login("alice"))
    with override_settings(SECRET_KEY="the next", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        late = [site.call(who), site.call(who)]  # in parallel
        for each in late:
            site.receive(each)
            assert each.status == "200 OK"
        assert (site.do(who), phone.do(who)) == ("alice", "alice")
    with override_settings(SECRET_KEY="the next"):
        assert (site.do(who), phone.do(who)) == ("alice", "alice")


def test_revoke_others_from_a_view(site: Browser) -> None:
    """What Django has no name for is on ``request.session.rollsession``."""
    phone = Browser(site.application, site.clock)
    site.do(login("alice")), phone.do(login("alice"))
    site.do(lambda r: r.session.rollsession.revoke_others(f"user:{r.user.pk}"))
    assert (site.do(who), phone.do(who)) == ("alice", "")


def test_tags_of_the_application_are_added(site: Browser) -> None:
    """``regenerate(tags=…)`` after ``login()`` adds them to the user's."""
    site.do(lambda r: (login("alice")(r), r.session.rollsession.regenerate(tags=["tenant:7"])))
    assert site.do(lambda r: [tag in r.session.rollsession.tags for tag in ("tenant:7", "user:1")]) == [True, True]
    sessions().revoke("tenant:7")
    assert site.do(who) == ""


@pytest.mark.parametrize("policy", ["degrade", "closed"])
def test_reading_in_an_outage(clock: Clock, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``degrade`` serves by what is known; ``closed`` answers 503, to who presents a session."""
    with configured(clock, outage=policy):
        site = Browser(WSGIHandler(), clock)
        site.do(login("alice"))
        with monkeypatch.context() as context:
            outage(context)
            answer = site.call(who)
            stranger = call(site.application, lambda r: "served", "")
        assert (answer.status[:3], answer.result) == (("200", "alice") if policy == "degrade" else ("503", None))
        assert stranger.result == "served"


# An application with a login of its own


def test_the_login_that_the_documentation_of_sessions_shows(clock: Clock) -> None:
    """``session["member_id"] = …`` and ``del``, with that key as the identity: a login and a logout."""
    with configured(clock, identity_key="member_id"):
        site = Browser(WSGIHandler(), clock)
        site.do(put("member_id", 7))
        thief = site.copied()
        late = site.call(put("n", 1))

        def logout(request: HttpRequest) -> None:
            try:
                del request.session["member_id"]
            except KeyError:
                pass

        site.do(logout)
        site.receive(late)
        assert (site.do(get("member_id")), thief.do(get("member_id"))) == (None, None)


def test_a_login_without_an_identity(site: Browser) -> None:
    """An application that calls ``cycle_key()`` and ``flush()`` by itself keeps the promise of ``flush()``."""
    site.do(lambda r: (r.session.cycle_key(), put("member", 7)(r)))
    thief = site.copied()
    site.do(lambda r: r.session.flush())
    assert (site.do(get("member")), thief.do(get("member"))) == (None, None)


# What request.session is


def test_a_shopping_basket_by_session_key(site: Browser) -> None:
    """``if not session_key: create()``, as many packages do: the key stays until the login."""

    def key(request: HttpRequest) -> str:
        if not request.session.session_key:
            request.session.create()
        return request.session.session_key

    first = site.do(key)
    assert first == site.do(key) == site.do(lambda r: (put("n", 1)(r), key(r))[1])
    assert site.do(lambda r: dict(r.session.items())) == {"n": 1}
    site.do(login("alice"))
    assert site.do(key) not in (None, first)


def test_untouched_sessions_are_not_asked_for(site: Browser) -> None:
    """A view that does not look at the session gets no Vary, no cookie and no Cache-Control."""
    answer = site.call(lambda r: None)
    assert {name for name, _ in answer.headers} == {"Content-Type"}
    site.do(login("alice"))
    answer = site.call(lambda r: None)
    assert {name for name, _ in answer.headers} == {"Content-Type"}


def test_a_read_varies_and_a_login_is_not_stored(site: Browser) -> None:
    """The headers that keep caches from handing one user's response to another."""
    assert site.call(who).header("Vary") == "Cookie"
    answer = site.call(login("alice"))
    assert answer.header("Vary") == "Cookie"
    assert {each.strip() for each in (answer.header("Cache-Control") or "").split(",")} == {"no-store", "private"}


def test_the_cookies_are_as_the_core_sends_them(site: Browser) -> None:
    """Attributes and all: __Host-, HttpOnly, Secure, SameSite, Max-Age and no Expires; deletions repeat them."""
    answer = site.receive(site.call(login("alice")))
    for cookie in ours(answer):
        name, *attributes = cookie.split("; ")
        assert name.startswith("__Host-session-")
        assert {each.partition("=")[0].lower() for each in attributes} == {
            "max-age", "httponly", "secure", "path", "samesite"
        }  # fmt: skip
    answer = site.call(auth.logout)
    assert [each for each in answer.set_cookies if each.startswith("__Host-session-1=;") and "Max-Age=0" in each]


def test_partitioned(clock: Clock) -> None:
    """Both forms of a deletion are sent, on every Python."""
    with configured(clock, partitioned=True, samesite="None"):
        site = Browser(WSGIHandler(), clock)
        site.do(login("alice"))
        assert site.partition and not [each for each in site.jar if each.startswith("__")]
        answer = site.receive(site.call(auth.logout))
        deletions = [each for each in answer.set_cookies if each.startswith("__Host-session-1=;")]
        assert sorted("Partitioned" in each for each in deletions) == [False, True]
        assert site.do(who) == ""


def test_activity_extends_a_login_that_nobody_looks_at(site: Browser, clock: Clock) -> None:
    """A response that is due carries a lease."""
    site.do(login("alice"))
    for _ in range(4):
        clock.advance(50 * 60)
        site.do(lambda r: None)
    assert site.do(who) == "alice"
    clock.advance(3600)
    assert site.do(who) == ""


def test_nested_changes_are_noticed(site: Browser) -> None:
    """Without ``modified = True``."""
    site.do(put("cart", {"tea": 1}))
    site.do(lambda r: r.session["cart"].update(tea=2))
    assert site.do(get("cart")) == {"tea": 2}


def test_changes_after_the_headers_raise(site: Browser) -> None:
    """Django would lose them without a word."""

    def view(request: HttpRequest) -> StreamingHttpResponse:
        def body() -> Iterator[bytes]:
            request.session["late"] = 1
            yield b""

        return StreamingHttpResponse(body())

    with pytest.raises(Exception, match="headers were sent"):
        site.call(view)


def test_messages_and_a_token_in_the_session(clock: Clock) -> None:
    """django.contrib.messages and CSRF_USE_SESSIONS."""
    storage = "django.contrib.messages.storage.session.SessionStorage"
    with configured(clock, CSRF_USE_SESSIONS=True, MESSAGE_STORAGE=storage):
        from django.middleware.csrf import get_token

        site = Browser(WSGIHandler(), clock)
        token = site.do(lambda r: (login("alice")(r), messages.info(r, "Hello"), get_token(r))[2])
        assert site.do(lambda r: [str(each) for each in messages.get_messages(r)]) == ["Hello"]
        assert site.do(lambda r: [str(each) for each in messages.get_messages(r)]) == []
        for given, status in ((token, "200 OK"), ("x" * 64, "403 Forbidden")):
            answer = site.call(
                who,
                REQUEST_METHOD="POST",
                HTTP_X_CSRFTOKEN=given,
                HTTP_REFERER="https://localhost/",
                HTTP_HOST="localhost",
            )
            assert answer.status == status


# Lifetimes


def ages(answer: Answer) -> set[bool]:
    """Whether the cookies that it sets have a Max-Age."""
    return {"Max-Age" in each for each in ours(answer) if "-slot" not in each and "Max-Age=0" not in each}


def ours(answer: Answer) -> list[str]:
    """The cookies that it sets, but for those of Django: its csrftoken."""
    return [each for each in answer.set_cookies if each.startswith("__Host-session")]


@pytest.mark.parametrize("user", ["", "alice"])
def test_set_expiry_0(site: Browser, user: str) -> None:
    """The browser forgets the session when it is closed: from the login on, or from the call on."""
    site.do(login(user) if user else put("a", 1))
    assert ages(site.receive(site.call(lambda r: r.session.set_expiry(0)))) == {False}
    assert ages(site.receive(site.call(put("n", 1)))) == {False}
    assert site.do(lambda r: (who(r), r.session["n"], r.session.get_expire_at_browser_close())) == (user, 1, True)
    assert ages(site.receive(site.call(lambda r: r.session.set_expiry(None)))) == {True}


def test_remember_me(site: Browser, clock: Clock) -> None:
    """The usual recipe, at the login: a box that is not ticked makes a session that ends with the browser."""
    answer = site.receive(site.call(lambda r: (login("alice")(r), r.session.set_expiry(0))))
    assert ages(answer) == {False}
    clock.advance(600)
    answer = site.receive(site.call(lambda r: None))
    assert answer.set_cookies and ages(answer) == {False}


@pytest.mark.parametrize("user", ["", "alice"])
def test_session_expire_at_browser_close(clock: Clock, user: str) -> None:
    """Django's setting is honoured."""
    with configured(clock, SESSION_EXPIRE_AT_BROWSER_CLOSE=True):
        site = Browser(WSGIHandler(), clock)
        answer = site.receive(site.call(login(user) if user else put("n", 1)))
        assert ages(answer) == {False}
        assert site.do(who) == user


@pytest.mark.parametrize("user", ["", "alice"])
@pytest.mark.parametrize("at_login", [True, False])
def test_set_expiry_shortens(site: Browser, clock: Clock, user: str, at_login: bool) -> None:
    """A number is seconds without activity; a time is a time."""
    begin = login(user) if user else put("n", 1)
    if at_login:
        site.do(lambda r: (begin(r), r.session.set_expiry(600)))
    else:
        site.do(begin)
        site.do(lambda r: r.session.set_expiry(600))
    site.do(put("n", 1))
    for _ in range(3):
        clock.advance(500)
        assert site.do(get("n")) == 1
    clock.advance(601)
    assert site.do(lambda r: (who(r), r.session.get("n"))) == ("", None)


@pytest.mark.parametrize("user", ["", "alice"])
def test_set_expiry_to_a_time(clock: Clock, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not move, whatever the user does; a moment in the past ends the session at once."""
    with configured(clock):
        site = Browser(WSGIHandler(), clock)
        site.do(lambda r: (login(user)(r) if user else None, put("n", 1)(r)))
        site.do(lambda r: r.session.set_expiry(datetime.fromtimestamp(clock() + 900, timezone.utc)))
        clock.advance(850)
        assert site.do(get("n")) == 1
        clock.advance(51)
        assert site.do(lambda r: (who(r), r.session.get("n"))) == ("", None)
        site.do(lambda r: (login(user)(r) if user else None, put("n", 1)(r)))
        thief = site.copied()
        site.do(lambda r: r.session.set_expiry(datetime.fromtimestamp(clock() - 1, timezone.utc)))
        assert site.do(get("n")) is None
        assert thief.do(who) == ""


# Refusals


def test_asgi_is_refused_at_load() -> None:
    """An ASGI handler does not start with it."""
    from django.core.handlers.asgi import ASGIHandler

    with override_settings(MIDDLEWARE=MIDDLEWARE[:1]), pytest.raises(ImproperlyConfigured, match="under WSGI only"):
        ASGIHandler()


def test_asgi_is_refused_per_request(site: Browser) -> None:
    """Behind a middleware that is not async, load time cannot tell."""
    from django.core.handlers.asgi import ASGIRequest

    request = ASGIRequest({"type": "http", "method": "GET", "path": "/", "headers": []}, None)
    with pytest.raises(ImproperlyConfigured, match="under WSGI only"):
        SessionMiddleware(lambda request: HttpResponse())(request)


def test_a_store_of_one_process_is_refused_in_several(site: Browser) -> None:
    """As the filter does."""
    answer = site.call(who, **{"wsgi.multiprocess": True})
    assert answer.status.startswith("500")


def test_two_sessions_are_refused(clock: Clock) -> None:
    """``RollSession`` around a project that has the middleware."""
    from wsgi_rollsession import RollSession

    with configured(clock):
        both = RollSession(WSGIHandler(), keys=KEY, revocations="memory://")
        assert Browser(both, clock).call(who).status.startswith("500")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"ROLLSESSION": None}, ["rollsession.E001"]),
        ({"ROLLSESSION": {"keys": KEY}}, ["rollsession.E001"]),
        ({"ROLLSESSION": {"keys": KEY, "revocations": "memory://", "idle_timout": 3}}, ["rollsession.E001"]),
        ({"SESSION_COOKIE_HTTPONLY": False}, ["rollsession.E001"]),
        ({"SESSION_COOKIE_SAMESITE": False}, ["rollsession.E001"]),
        ({"MIDDLEWARE": ["django.contrib.sessions.middleware.SessionMiddleware"]}, ["rollsession.E002"]),
        ({"MIDDLEWARE": []}, ["rollsession.E002"]),
        ({"ASGI_APPLICATION": "project.asgi.application"}, ["rollsession.E003"]),
        ({"SESSION_ENGINE": "wsgi_rollsession.django.testing"}, ["rollsession.E004"]),
        ({"SESSION_COOKIE_AGE": 60}, ["rollsession.W001"]),
    ],
)
def test_system_checks(changed: dict[str, Any], expected: list[str]) -> None:
    """``manage.py check`` names what is wrong, and no key."""
    with override_settings(**changed):
        found = [
            message
            for check in ("options", "middleware", "asgi", "test_engine", "lifetime")
            for message in getattr(system_checks, f"check_{check}")()
        ]
    assert [each.id for each in found] == expected
    assert KEY not in str(found)


def test_the_admin_accepts_the_middleware() -> None:
    """It is a subclass of Django's: no admin.E410."""
    from django.contrib.admin.checks import check_dependencies

    assert "admin.E410" not in [each.id for each in check_dependencies()]


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [
        ("SESSION_COOKIE_NAME", "shop", "__Host-shop"),
        ("SESSION_COOKIE_NAME", "__Secure-shop", "__Host-shop"),
        ("SESSION_COOKIE_PATH", "/shop", "__Secure-session"),
        ("SESSION_COOKIE_DOMAIN", ".example.com", "__Secure-session"),
        ("SESSION_COOKIE_SAMESITE", "Strict", "__Host-session"),
    ],
)
def test_settings_of_the_cookie(clock: Clock, setting: str, value: str, name: str) -> None:
    """Those of Django that can be honoured are; the prefix follows from them."""
    with configured(clock, **{setting: value}):
        (cookie,) = call(WSGIHandler(), put("n", 1), "").set_cookies
    assert cookie.startswith(f"{name}=")
    if "NAME" not in setting:
        assert value.strip(".") in cookie


def test_settings_that_cannot_be_honoured(clock: Clock) -> None:
    """A cookie that scripts may read is refused when the project is loaded."""
    with configured(clock, SESSION_COOKIE_HTTPONLY=False), pytest.raises(ConfigurationError, match="HTTPONLY"):
        WSGIHandler()


# Django's test client


ENGINE = "wsgi_rollsession.django.testing"


@pytest.fixture
def testing(clock: Clock) -> Iterator[None]:
    """What a test runner sets up, and the engine for tests."""
    setup_test_environment()
    try:
        with configured(clock, SESSION_ENGINE=ENGINE):
            yield
    finally:
        teardown_test_environment()


def test_the_engine_for_tests_does_not_work_elsewhere(clock: Clock) -> None:
    """A project that carries the setting to production does not start."""
    sys.modules.pop(ENGINE, None)
    with configured(clock, SESSION_ENGINE=ENGINE), pytest.raises(ImproperlyConfigured, match="for tests"):
        WSGIHandler()


def test_the_client(testing: None) -> None:
    """``login()``, ``force_login()``, ``session`` to read and to write, ``logout()``."""
    client = Client()
    assert client.login(username="alice", password="a")
    assert client.get("/echo/").content == b"alice 1"
    session = client.session
    session["visits"] = 41
    session.save()
    assert client.get("/echo/").content == b"alice 42"
    assert client.session["visits"] == 42
    client.force_login(User.objects.get(username="bob"))
    assert client.get("/echo/").content == b"bob 1"
    client.logout()
    assert client.get("/echo/").content == b"nobody 1"


def test_the_client_shows_that_a_logout_is_one(testing: None) -> None:
    """The value of the cookie that was copied before is nobody's afterwards."""
    client, thief = Client(), Client()
    client.force_login(User.objects.get(username="alice"))
    client.get("/echo/")
    thief.cookies = client.cookies.copy()
    assert thief.get("/echo/").content == b"alice 2"
    client.get("/logout/")
    assert (client.get("/echo/").content, thief.get("/echo/").content) == (b"nobody 1", b"nobody 1")


def test_another_client_of_the_same_project(testing: None, clock: Clock) -> None:
    """One with the cookies of a browser, as of a live server, is served as ever."""
    site = Browser(WSGIHandler(), clock)
    site.jar = {}
    answer = site.receive(site.call(put("n", 1)))
    assert list(answer.sent()) == [settings.SESSION_COOKIE_NAME]
    assert site.do(get("n")) == 1


def test_a_request_of_the_request_factory(testing: None) -> None:
    """``request.session`` of the client, as Django's documentation shows."""
    request = RequestFactory().get("/")
    client = Client()
    request.session = client.session
    login("alice")(request)
    request.session.save()
    client.cookies[settings.SESSION_COOKIE_NAME] = request.session.session_key
    assert client.get("/echo/").content == b"alice 1"


def test_sessions_are_one(site: Browser) -> None:
    """``sessions()`` is made once, whatever asks first."""
    assert sessions() is sessions()


AT_RANDOM = Framework(
    identity=auth.SESSION_KEY,
    login=lambda request, name: login(name)(request),
    logout=auth.logout,
    session=lambda request: request.session,
    acts={
        "clear": lambda request: request.session.clear(),
        "invalidate": lambda request: request.session.flush(),
        "regenerate": lambda request: request.session.cycle_key(),
        "create": lambda request: request.session.create(),
        "save": lambda request: request.session.save(),
        "set_expiry": lambda request: request.session.set_expiry(600),
        "user": who,
    },
    at_once=frozenset({"save", "invalidate", "create", "login", "logout"}),  # login() flushes another's session
)


@pytest.mark.parametrize("seed", range(0, 100, 50))
def test_random_views(site: Browser, seed: int) -> None:
    """What a view sees at its end is what the next request finds, and no copy from before a logout is anybody's."""
    for each in range(seed, seed + 50):
        play(each, Browser(site.application, site.clock), AT_RANDOM)


# The package


def test_the_core_does_not_import_django() -> None:
    """Nor does the command; nothing but the adapter does."""
    program = "import sys, wsgi_rollsession.cli, wsgi_rollsession.paste; print('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout.strip() == b"False"


def test_the_page_of_the_documentation(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings that docs/django.md begins with are complete, and no system check objects to them."""
    page = (Path(__file__).parents[2] / "docs" / "django.md").read_text("utf-8")
    block = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    monkeypatch.setenv("ROLLSESSION_KEYS", KEY)
    given: dict[str, Any] = {"os": os}
    exec(block.replace("sqlite:////var/lib/shop/revocations.db", "memory://"), given)
    ours = {name: [each for each in given[name] if each is not ...] for name in ("MIDDLEWARE", "INSTALLED_APPS")}
    assert ours["INSTALLED_APPS"][0] in settings.INSTALLED_APPS
    with override_settings(ROLLSESSION=given["ROLLSESSION"], MIDDLEWARE=[*ours["MIDDLEWARE"], *MIDDLEWARE[1:]]):
        assert [*system_checks.check_options(), *system_checks.check_middleware()] == []
        site = Browser(WSGIHandler(), Clock(time.time()))
        site.do(login("alice"))
        thief = site.copied()
        assert site.do(who) == "alice"
        site.do(auth.logout)
        assert (site.do(who), thief.do(who)) == ("", "")
