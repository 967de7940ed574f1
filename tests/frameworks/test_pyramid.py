"""``wsgi_rollsession.pyramid``: Pyramid's sessions, logins and logouts; with the filter around, and without."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyramid.authentication import SessionAuthenticationHelper, SessionAuthenticationPolicy
from pyramid.authorization import ACLAuthorizationPolicy
from pyramid.config import Configurator
from pyramid.csrf import LegacySessionCSRFStoragePolicy, get_csrf_token
from pyramid.events import NewResponse
from pyramid.httpexceptions import HTTPFound
from pyramid.interfaces import IResponse, ISession
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import forget, remember
from pyramid_retry import RetryableException, mark_error_retryable
from zope.interface import implementer
from zope.interface.verify import verifyObject

import wsgi_rollsession.pyramid as adapter
from wsgi_rollsession import (
    ConfigurationError,
    Ended,
    RollSession,
    SessionCommitted,
    Sessions,
    SessionTooLarge,
    SessionValueError,
    StoreUnavailable,
)
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.testing import fresh_revocations

from ..browser import KEY, Browser, Clock, Fragile
from .random_views import Framework, play

HOUR = 3600
ROOT = Path(__file__).parents[2]
LEGACY = "the test sets an authentication policy"
View = Callable[[Any], Any]


class Policy:
    """A security policy as Pyramid's documentation has it."""

    def __init__(self, prefix: str = "auth.") -> None:
        self.helper = SessionAuthenticationHelper(prefix)

    def identity(self, request: Any) -> Any:
        return self.authenticated_userid(request)

    def authenticated_userid(self, request: Any) -> Any:
        return self.helper.authenticated_userid(request)

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        return bool(self.authenticated_userid(request) is not None)

    def remember(self, request: Any, userid: Any, **kw: Any) -> Any:
        return self.helper.remember(request, userid, **kw)

    def forget(self, request: Any, **kw: Any) -> Any:
        return self.helper.forget(request, **kw)


def view(request: Any) -> Response:
    """Calls the request's handler, which is a view, or returns what the test wants to know."""
    environ = request.environ
    result = environ["test.handler"](request)
    environ["test.holder"]["result"] = result
    return result if isinstance(result, Response) else Response("ok")


def site(
    clock: Clock,
    *,
    around: bool = False,
    set_up: Callable[[Any], None] | None = None,
    policy: Any = None,
    store: Any = None,
    **settings: Any,
) -> Any:
    """A Pyramid application with one view, by its adapter alone or with the filter *around*."""
    options = {
        "keys": KEY,
        "revocations": store or fresh_revocations(clock),
        "identity_key": "auth.userid",
        "clock": clock,
        **{name: settings.pop(name) for name in list(settings) if "." not in name},
    }
    mine = {} if around else {f"rollsession.{name}": value for name, value in options.items()}
    config = Configurator(settings={**mine, **settings})
    config.include("wsgi_rollsession.pyramid")
    if policy is not LEGACY:
        config.set_security_policy(policy or Policy())
    config.add_view(view)
    if set_up is not None:
        set_up(config)
    application = config.make_wsgi_app()
    return RollSession(application, **options) if around else application


def sessions_of(router: Any) -> Sessions:
    """The ``Sessions`` of a Pyramid application."""
    return adapter.sessions(router.registry)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[False, True], ids=["alone", "filter around"])
def make(request: pytest.FixtureRequest, clock: Clock) -> Callable[..., Browser]:
    """A browser of a new site."""

    def making(**given: Any) -> Browser:
        return Browser(site(clock, around=request.param, **given), clock)

    return making


def login(user: str) -> View:
    def handler(request: Any) -> Response:
        return HTTPFound("/", headers=remember(request, user))

    return handler


def who(request: Any) -> Any:
    return request.authenticated_userid


def put(key: str, value: Any) -> View:
    def handler(request: Any) -> None:
        request.session[key] = value

    return handler


def get(key: str) -> View:
    return lambda request: request.session.get(key)


def untouched(request: Any) -> None:
    """Do not look at the session."""


def by_deletion(request: Any) -> None:
    del request.session["auth.userid"]


def by_pop(request: Any) -> None:
    request.session.pop("auth.userid", None)


def by_invalidate_and_forget(request: Any) -> Response:
    request.session.invalidate()
    return HTTPFound("/", headers=forget(request))


LOGOUTS: dict[str, View] = {
    "forget": lambda request: HTTPFound("/", headers=forget(request)),
    "invalidate": lambda request: request.session.invalidate(),
    "clear": lambda request: request.session.clear(),
    "del": by_deletion,
    "pop": by_pop,
    "invalidate and forget": by_invalidate_and_forget,
}
each_logout = pytest.mark.parametrize("logout", LOGOUTS.values(), ids=LOGOUTS)
#: Those that do not look whether somebody is logged in.
blind_logout = pytest.mark.parametrize(
    "logout",
    [value for name, value in LOGOUTS.items() if name != "del"],
    ids=[name for name in LOGOUTS if name != "del"],
)


# ISession


def test_it_is_an_isession(make: Callable[..., Browser]) -> None:
    """``request.session`` provides Pyramid's ``ISession``."""
    assert make().do(lambda request: verifyObject(ISession, request.session))


def test_data_are_kept(make: Callable[..., Browser]) -> None:
    """What is stored is there in the next request, nested changes included."""
    browser = make()
    browser.do(put("cart", {"tea": [1]}))
    browser.do(lambda request: request.session["cart"]["tea"].append(2))
    assert browser.do(get("cart")) == {"tea": [1, 2]}


def test_a_request_that_stores_nothing_sets_no_cookie(make: Callable[..., Browser]) -> None:
    """A visitor for whom nothing is stored gets no cookie."""
    assert make().call(get("cart")).set_cookies == []


def test_it_is_a_mapping(make: Callable[..., Browser]) -> None:
    """All of a mapping's methods work, and attributes are refused."""

    def handler(request: Any) -> None:
        session = request.session
        session.update(a=1, b=2)
        assert session.setdefault("c", 3) == 3
        assert sorted(session) == ["a", "b", "c"] and len(session) == 3 and "a" in session
        assert session.pop("c") == 3 and session.pop("c", 4) == 4 and sorted(session.items()) == [("a", 1), ("b", 2)]
        with pytest.raises(KeyError):
            session.pop("c")
        session.popitem()
        session.clear()
        assert dict(session) == {} and not session
        assert "<Session" in repr(session)
        with pytest.raises(AttributeError, match="user"):
            session.user = 1
        with pytest.raises(AttributeError):
            _ = session._exchange
        with pytest.raises(SessionValueError, match="when"):
            session["when"] = object()

    make().do(handler)


def test_new_and_created(make: Callable[..., Browser], clock: Clock) -> None:
    """A session is new until a response carried it, and was created when it began."""
    browser = make()
    seen = lambda request: (request.session.new, request.session.created)  # noqa: E731
    assert browser.do(seen)[0] is True
    began = int(clock())
    browser.do(put("a", 1))
    clock.advance(60)
    assert browser.do(seen) == (False, began)


def test_what_is_not_pyramids_is_the_sessions(make: Callable[..., Browser]) -> None:
    """``regenerate()``, ``tags``, ``id``, ``ended`` and the rest are those of the package's session."""
    browser = make()
    browser.do(login("alice"))
    old = browser.copied()
    browser.do(lambda request: request.session.regenerate())
    assert browser.do(lambda request: "user:alice" in request.session.tags and request.session.ended is None)
    assert old.do(lambda request: request.session.ended) is Ended.SUPERSEDED


@pytest.mark.parametrize("queue", ["", "error"])
def test_flash_messages(make: Callable[..., Browser], queue: str) -> None:
    """Flash messages are queued, peeked at and popped, over requests."""
    browser = make()
    for message in ("one", "two"):
        browser.do(lambda request, message=message: request.session.flash(message, queue))
    browser.do(lambda request: request.session.flash("two", queue, allow_duplicate=False))
    assert browser.do(lambda request: request.session.peek_flash(queue)) == ["one", "two"]
    assert browser.do(lambda request: request.session.pop_flash(queue)) == ["one", "two"]
    assert browser.do(lambda request: request.session.pop_flash(queue)) == []


def test_popping_the_last_message_is_no_logout(make: Callable[..., Browser]) -> None:
    """A page that shows a flash message leaves its user logged in."""
    browser = make()
    browser.do(login("alice"))
    browser.do(lambda request: request.session.flash("hello"))
    browser.do(lambda request: request.session.pop_flash())
    assert browser.do(who) == "alice"


def test_csrf_tokens_by_the_session(make: Callable[..., Browser]) -> None:
    """The session's own CSRF methods make a token, keep it, and make another when asked to."""
    browser = make(set_up=lambda config: config.set_csrf_storage_policy(LegacySessionCSRFStoragePolicy()))
    token = browser.do(get_csrf_token)
    assert len(token) == 40 and browser.do(get_csrf_token) == token
    assert browser.do(lambda request: request.session.new_csrf_token()) != token


def test_csrf_protection(make: Callable[..., Browser]) -> None:
    """Pyramid's CSRF protection accepts the token of the session, and no other."""
    browser = make(set_up=lambda config: config.set_default_csrf_options(require_csrf=True, check_origin=False))
    token = browser.do(get_csrf_token)
    assert browser.call(untouched, REQUEST_METHOD="POST", HTTP_X_CSRF_TOKEN=token).status == "200 OK"
    assert browser.call(untouched, REQUEST_METHOD="POST", HTTP_X_CSRF_TOKEN="another").status.startswith("400")


# Logging in and out as Pyramid does it


def test_login(make: Callable[..., Browser]) -> None:
    """``remember()`` is a login: a slot, a tag for ``revoke``, and the anonymous session is gone."""
    browser = make()
    browser.do(put("cart", "tea"))
    planted = browser.copied()
    browser.do(login("alice"))
    assert browser.do(who) == "alice" and browser.do(get("cart")) == "tea"
    assert "__Host-session-1" in browser.cookies and "__Host-session" not in browser.cookies
    assert planted.do(who) is None and planted.do(get("cart")) is None


@each_logout
def test_replay_after_logout(make: Callable[..., Browser], logout: View) -> None:
    """After each kind of logout nobody is logged in, and a cookie that was copied before is worth nothing."""
    browser = make()
    browser.do(login("alice"))
    thief = browser.copied()
    browser.do(logout)
    assert browser.do(who) is None and thief.do(who) is None
    assert not any(name.endswith(("-1", "-1b")) for name in browser.cookies)


@each_logout
def test_late_responses_after_logout(make: Callable[..., Browser], logout: View, clock: Clock) -> None:
    """A response that was under way during the logout, read or write, logs nobody in."""
    browser = make()
    browser.do(login("alice"))
    clock.advance(600)
    late = [browser.call(who), browser.call(put("a", 1))]
    browser.do(logout)
    for each in late:
        browser.receive(each)
        assert browser.do(who) is None


@blind_logout
def test_logout_of_a_session_that_was_superseded(make: Callable[..., Browser], logout: View) -> None:
    """A logout that presents an older epoch ends the newer one, too, that is on its way to the browser."""
    browser = make()
    browser.do(login("alice"))
    on_its_way = browser.call(lambda request: request.session.regenerate())
    browser.do(logout)
    browser.receive(on_its_way)
    assert browser.do(who) is None


def _without_our_tween(config: Any) -> None:
    config.add_settings({"pyramid.tweens": "pyramid.tweens.excview_tween_factory"})


def _with_a_policy_that_comes_late(config: Any) -> None:
    config.commit()
    config.set_security_policy(Policy())


@pytest.mark.parametrize(
    ("set_up", "policy"), [(_without_our_tween, None), (_with_a_policy_that_comes_late, LEGACY)], ids=["tweens", "late"]
)
def test_forget_is_followed(clock: Clock, set_up: Callable[[Any], None], policy: Any) -> None:
    """Also where the application lists its tweens, without ours, and where it sets its policy after a commit."""
    browser = Browser(site(clock, set_up=set_up, policy=policy), clock)
    browser.do(login("alice"))
    on_its_way = browser.call(lambda request: request.session.regenerate())
    browser.do(LOGOUTS["forget"])
    browser.receive(on_its_way)
    assert browser.do(who) is None


def test_headers_of_forget_stay(make: Callable[..., Browser]) -> None:
    """What a security policy wants the browser to be told at a logout, it is told."""

    class Chatty(Policy):
        def forget(self, request: Any, **kw: Any) -> Any:
            return [*super().forget(request, **kw), ("X-Forgotten", kw["who"])]

    browser = make(policy=Chatty())
    browser.do(login("alice"))
    answer = browser.receive(browser.call(lambda request: HTTPFound("/", headers=forget(request, who="alice"))))
    assert answer.header("X-Forgotten") == "alice" and browser.do(who) is None


def test_what_is_flashed_at_the_logout_stays(make: Callable[..., Browser]) -> None:
    """A goodbye message goes on in an anonymous session."""
    browser = make()
    browser.do(login("alice"))

    def logout(request: Any) -> Response:
        request.session.flash("goodbye")
        return HTTPFound("/", headers=forget(request))

    browser.do(logout)
    assert browser.do(who) is None and browser.do(lambda request: request.session.pop_flash()) == ["goodbye"]


def test_another_user_logs_in(make: Callable[..., Browser]) -> None:
    """Over somebody's session, another user gets nothing of it, and the old one is over."""
    browser = make()
    browser.do(login("alice"))
    browser.do(put("is_admin", True))
    thief = browser.copied()
    browser.do(login("bob"))
    assert browser.do(who) == "bob" and browser.do(get("is_admin")) is None and thief.do(who) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_legacy_policies(make: Callable[..., Browser]) -> None:
    """``SessionAuthenticationPolicy``, of Pyramid 1, logs in and out likewise."""

    def set_up(config: Any) -> None:
        config.set_authorization_policy(ACLAuthorizationPolicy())
        config.set_authentication_policy(SessionAuthenticationPolicy())

    browser = make(policy=LEGACY, set_up=set_up)
    browser.do(login("alice"))
    assert browser.do(who) == "alice"
    on_its_way = browser.call(lambda request: request.session.regenerate())
    browser.do(LOGOUTS["forget"])
    browser.receive(on_its_way)
    assert browser.do(who) is None


def test_another_prefix(clock: Clock) -> None:
    """``SessionAuthenticationHelper("mine.")`` needs ``identity_key = mine.userid``, and then works the same."""
    browser = Browser(site(clock, policy=Policy("mine."), identity_key="mine.userid"), clock)
    browser.do(login("alice"))
    on_its_way = browser.call(lambda request: request.session.regenerate())
    thief = browser.copied()
    browser.do(LOGOUTS["forget"])
    browser.receive(on_its_way)
    assert browser.do(who) is None and thief.do(who) is None


def test_a_logout_without_an_identity_is_warned_of(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """With a filter around that does not know who is logged in, ``forget()`` ends no session: that is said, once."""
    browser = Browser(site(clock, around=True, identity_key=None), clock)
    for _ in range(2):
        browser.do(login("alice"))
        browser.do(LOGOUTS["forget"])
    assert caplog.text.count("forget() has ended no session") == 1


def test_the_identity_key_is_preset(clock: Clock) -> None:
    """Without a setting, the identity is what ``SessionAuthenticationHelper`` stores."""
    config = Configurator(settings={"rollsession.keys": KEY, "rollsession.revocations": "memory://"})
    config.include("wsgi_rollsession.pyramid")
    config.make_wsgi_app()
    request = Request.blank("/")
    request.registry = config.registry
    assert request.session.identity_key == "auth.userid"


@pytest.mark.parametrize("end", [lambda s: s.revoke("user:alice"), lambda s: s.revoke_everything()])
def test_revoke(make: Callable[..., Browser], end: Callable[[Any], None]) -> None:
    """``revoke`` logs out everywhere, and somebody who logs in afterwards stays."""
    browser = make()
    browser.do(login("alice"))
    application = browser.application
    end(application if isinstance(application, RollSession) else sessions_of(application))
    assert browser.do(who) is None
    browser.do(login("alice"))
    assert browser.do(who) == "alice"


def test_sessions_in_a_view(clock: Clock) -> None:
    """``sessions(request)`` revokes; with the filter alone it says that it is the filter's."""
    browser = Browser(site(clock), clock)
    browser.do(login("alice"))
    browser.do(lambda request: adapter.sessions(request).revoke("user:alice"))
    assert browser.do(who) is None
    with pytest.raises(ConfigurationError, match="filter"):
        Browser(site(clock, around=True), clock).do(lambda request: adapter.sessions(request))


def test_no_class_is_made_for_a_request(clock: Clock) -> None:
    """Pyramid makes one for each request that has a property, which costs more than all the rest of the adapter."""
    assert Browser(site(clock), clock).do(lambda request: type(request)) is Request


# When the response starts


def test_untouched_requests_extend(make: Callable[..., Browser], clock: Clock) -> None:
    """A session is extended by requests whose views do not look at it."""
    browser = make()
    browser.do(login("alice"))
    for _ in range(4):
        clock.advance(0.4 * HOUR)
        assert browser.do(lambda request: request.session.loaded) is False
    assert browser.do(who) == "alice"


def test_response_callbacks_that_change_the_session(make: Callable[..., Browser]) -> None:
    """Response callbacks may change the session, also those that other callbacks add."""
    browser = make()

    def first(request: Any, response: Any) -> None:
        request.session["first"] = 1
        request.add_response_callback(second)

    def second(request: Any, response: Any) -> None:
        request.session["second"] = 2

    browser.do(lambda request: request.add_response_callback(first))
    assert browser.do(get("first")) == 1 and browser.do(get("second")) == 2


def test_callbacks_that_all_want_to_be_the_last(make: Callable[..., Browser]) -> None:
    """Another callback that puts itself off while there are others does not keep the response for ever."""
    browser = make()

    def mine(request: Any, response: Any) -> None:
        if request.response_callbacks:
            request.add_response_callback(mine)

    def handler(request: Any) -> None:
        request.session["a"] = 1
        request.add_response_callback(mine)

    browser.do(handler)
    assert browser.do(get("a")) == 1


def test_late_writes_are_errors(clock: Clock) -> None:
    """What changes the session after its cookies were decided on is told."""
    seen = []

    def late(event: Any) -> None:
        with pytest.raises(SessionCommitted):
            event.request.session["late"] = 1
        seen.append(event)

    Browser(site(clock, set_up=lambda config: config.add_subscriber(late, NewResponse)), clock).do(put("a", 1))
    assert len(seen) == 1


@pytest.mark.parametrize("then", [untouched, get("a")], ids=["untouched", "read"])
def test_writes_in_finished_callbacks_are_errors(clock: Clock, then: View) -> None:
    """A callback that Pyramid calls after the response reads the session that was sent, and cannot change it."""
    seen = []

    def late(request: Any) -> None:
        seen.append(request.session.get("a"))
        with pytest.raises(SessionCommitted):
            request.session["a"] = 2

    browser = Browser(site(clock), clock)
    browser.do(put("a", 1))
    browser.do(lambda request: (request.add_finished_callback(late), then(request))[1])
    assert seen == [1]


def test_what_raises_begins_nothing(make: Callable[..., Browser]) -> None:
    """A view that raises after a login, a logout or a write has done none of it."""
    browser = make()
    browser.do(login("alice"))

    def fails(then: View) -> View:
        def handler(request: Any) -> None:
            then(request)
            raise ZeroDivisionError

        return handler

    for then in (login("bob"), put("cart", 1), LOGOUTS["forget"]):
        with pytest.raises(ZeroDivisionError):
            browser.call(fails(then))
    assert browser.do(who) == "alice" and browser.do(get("cart")) is None


def _error_page(error: Any, request: Any) -> Response:
    return Response(type(error).__name__, status=500)


def raising(then: View) -> View:
    """A view that does something, and raises."""

    def handler(request: Any) -> None:
        then(request)
        raise LookupError

    return handler


@pytest.mark.parametrize(("setting", "kept"), [("true", "alice"), ("false", None)])
def test_exception_views(make: Callable[..., Browser], setting: str, kept: str | None) -> None:
    """As with Pyramid's own sessions, an exception view's response carries the session, unless it is set not to."""
    browser = make(
        set_up=lambda config: config.add_exception_view(_error_page, context=LookupError),
        **{"rollsession.set_on_exception": setting},
    )
    assert browser.receive(browser.call(raising(login("alice")))).status.startswith("500")
    assert browser.do(who) == kept


def test_raised_redirections_carry_the_session(make: Callable[..., Browser]) -> None:
    """``raise HTTPFound(headers=remember(…))`` is a login."""
    browser = make()

    def handler(request: Any) -> None:
        raise login("alice")(request)

    browser.receive(browser.call(handler))
    assert browser.do(who) == "alice"


def _too_large(request: Any) -> None:
    request.session["cart"] = "x" * 5000


def test_too_large(make: Callable[..., Browser]) -> None:
    """A session that does not fit is an error, and the session is what it was."""
    browser = make()
    browser.do(put("cart", "tea"))
    for handler in (_too_large, raised_login := (lambda request: (_too_large(request), login("alice")(request))[1])):
        with pytest.raises(SessionTooLarge, match="cart"):
            browser.call(handler)
    assert raised_login and browser.do(get("cart")) == "tea" and browser.do(who) is None


def test_errors_at_the_response_have_exception_views(clock: Clock) -> None:
    """What is found out when the response starts is shown to exception views, and their page carries what was done."""

    def page(error: Any, request: Any) -> Response:
        response = Response(f"sorry: {type(error).__name__}", status=413)
        response.headers["X-Page"] = "mine"
        return response

    browser = Browser(
        site(clock, set_up=lambda config: config.add_exception_view(page, context=SessionTooLarge)), clock
    )
    browser.do(put("cart", "tea"))
    closed = []

    class Body:
        def __iter__(self) -> Any:
            raise AssertionError("replaced")

        def close(self) -> None:
            closed.append(True)

    def handler(request: Any) -> Response:
        _too_large(request)
        return Response(app_iter=Body())

    answer = browser.receive(browser.call(handler))
    assert (answer.status, answer.body) == ("413 Request Entity Too Large", b"sorry: SessionTooLarge")
    assert answer.header("X-Page") == "mine" and answer.header("Content-Length") == "22" and closed == [True]
    assert browser.do(get("cart")) == "tea"


def test_a_response_of_another_kind_is_not_replaced(clock: Clock) -> None:
    """Pyramid serves whatever has the attributes of a response: what that cannot carry is an error."""

    @implementer(IResponse)
    class Plain:
        """Not WebOb's."""

        status, app_iter, headerlist = "200 OK", [b"whole"], [("Content-Type", "text/plain")]

        def __call__(self, environ: Any, start_response: Any) -> Any:
            start_response(self.status, self.headerlist)
            return self.app_iter

    def plain(request: Any) -> Any:
        request.environ["test.handler"](request)
        return Plain()

    def set_up(config: Any) -> None:
        config.add_exception_view(_error_page, context=SessionTooLarge)
        config.add_view(plain, name="plain")

    browser = Browser(site(clock, set_up=set_up), clock)
    assert browser.receive(browser.call(put("cart", "tea"), PATH_INFO="/plain")).body == b"whole"
    assert browser.do(get("cart")) == "tea"
    with pytest.raises(SessionTooLarge):
        browser.call(_too_large, PATH_INFO="/plain")


def test_exception_views_that_return_exceptions(clock: Clock) -> None:
    """An exception view may return one of Pyramid's HTTP exceptions, whose bodies are made late."""

    def page(error: Any, request: Any) -> Response:
        return HTTPFound("/smaller")

    browser = Browser(
        site(clock, set_up=lambda config: config.add_exception_view(page, context=SessionTooLarge)), clock
    )
    answer = browser.call(_too_large)
    assert answer.status == "302 Found" and answer.header("Location") == "https://localhost:80/smaller"
    assert b"302 Found" in answer.body


def test_headers_of_the_response_stay(make: Callable[..., Browser]) -> None:
    """The application's own headers survive, and caches are kept from storing what carries a session."""
    browser = make()

    def handler(request: Any) -> Response:
        request.session["a"] = 1
        response = Response("ok", headers={"X-Mine": "1"})
        response.set_cookie("other", "1")
        return response

    answer = browser.call(handler)
    assert answer.header("X-Mine") == "1" and answer.header("Cache-Control") == "no-store"
    assert answer.header("Vary") == "Cookie" and {"other", "__Host-session"} <= set(answer.sent())


def test_conditional_responses_carry_no_lease(clock: Clock) -> None:
    """A response that may become a 304 when it is sent extends nothing: caches merge its headers."""
    browser = Browser(site(clock), clock)
    browser.do(login("alice"))
    clock.advance(600)
    conditional = lambda request: Response("ok", etag="1", conditional_response=True)  # noqa: E731
    assert browser.call(conditional, HTTP_IF_NONE_MATCH='"1"').set_cookies == []
    assert browser.call(conditional).set_cookies != []


# Subrequests, and requests that are served again


def sub(then: View, make_it: Callable[[Any], Any]) -> View:
    """A view that serves a subrequest, whose own view is *then*, and returns its response."""

    def handler(request: Any) -> Any:
        subrequest = make_it(request)
        subrequest.environ["test.handler"] = then
        subrequest.environ["test.holder"] = {}
        return request.invoke_subrequest(subrequest, use_tweens=True)

    return handler


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": lambda request: request.copy(),
    "same environ": lambda request: Request(request.environ),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_subrequest_shares_the_session(make: Callable[..., Browser], copied: Callable[[Any], Any]) -> None:
    """A subrequest with the environ of its request, or a copy, has the same session, which its request sends once."""
    browser = make()

    def handler(request: Any) -> None:
        request.session["outer"] = 1
        environ = request.environ
        held = environ["test.handler"], environ["test.holder"]

        def inner(subrequest: Any) -> None:
            assert subrequest.session["outer"] == 1
            subrequest.session["inner"] = 2

        answer = sub(inner, copied)(request)
        environ["test.handler"], environ["test.holder"] = held
        assert "Set-Cookie" not in answer.headers
        assert request.session["inner"] == 2
        request.session["after"] = 3

    browser.do(handler)
    assert [browser.do(get(key)) for key in ("outer", "inner", "after")] == [1, 2, 3]


def test_a_login_in_a_subrequest(make: Callable[..., Browser]) -> None:
    """A response that a view takes over from a subrequest carries the login that happened there."""
    browser = make()
    browser.do(sub(login("alice"), lambda request: request.copy()))
    assert browser.do(who) == "alice"


def test_a_subrequest_of_its_own_environ(clock: Clock) -> None:
    """A subrequest without the environ of its request has a session of its own; the filter's it has not."""
    browser = Browser(site(clock), clock)
    browser.do(login("alice"))
    blank = lambda request: Request.blank("/")  # noqa: E731
    assert browser.do(sub(who, blank)).status == "200 OK"
    browser.do(sub(login("bob"), blank))
    assert browser.do(who) == "bob"
    around = Browser(site(clock, around=True), clock)
    assert around.do(sub(untouched, blank)).status == "200 OK"
    with pytest.raises(ConfigurationError, match=r"request\.copy"):
        around.do(sub(who, blank))


class Busy(Exception):
    """Raised by a view that wants to be called again."""


mark_error_retryable(Busy)


def attempts(*views: View) -> View:
    """A different view for each attempt."""

    def handler(request: Any) -> Any:
        return views[request.environ["retry.attempt"]](request)

    return handler


def failing(then: View, error: type[Exception] = RetryableException) -> View:
    def handler(request: Any) -> None:
        then(request)
        raise error

    return handler


def count(request: Any) -> int:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return int(request.session["visits"])


def with_retry(config: Any) -> None:
    config.add_settings({"retry.attempts": 3})
    config.include("pyramid_retry")


def with_retry_and_page(config: Any) -> None:
    with_retry(config)
    config.add_exception_view(_error_page, context=Busy)


@pytest.mark.parametrize("set_up", [with_retry, with_retry_and_page], ids=["raised", "exception view"])
def test_retries_count_once(make: Callable[..., Browser], set_up: Callable[[Any], None]) -> None:
    """pyramid_retry: nothing of an attempt that failed is kept, with an exception view for it or without."""
    browser = make(set_up=set_up)
    browser.do(attempts(failing(count, Busy), failing(count, Busy), count))
    assert browser.do(get("visits")) == 1


def test_a_retried_login(make: Callable[..., Browser]) -> None:
    """pyramid_retry: a login in an attempt that failed is none."""
    browser = make(set_up=with_retry)
    browser.do(attempts(failing(login("alice")), untouched))
    assert browser.do(who) is None
    browser.do(attempts(failing(login("alice")), login("bob")))
    assert browser.do(who) == "bob"


@pytest.mark.parametrize("set_up", [with_retry, with_retry_and_page], ids=["raised", "exception view"])
def test_what_a_failed_attempt_has_done_at_once_stays_done(
    make: Callable[..., Browser], set_up: Callable[[Any], None]
) -> None:
    """pyramid_retry: an attempt's ``invalidate()`` holds, and the browser is told."""
    browser = make(set_up=set_up)
    browser.do(login("alice"))
    thief = browser.copied()
    browser.do(attempts(failing(LOGOUTS["invalidate"], Busy), who))
    assert browser.do(who) is None and thief.do(who) is None
    assert "__Host-session-1" not in browser.cookies


def test_the_last_attempt_keeps_what_its_page_keeps(make: Callable[..., Browser]) -> None:
    """pyramid_retry: the last attempt is as a request without it."""
    browser = make(set_up=with_retry_and_page)
    browser.do(attempts(*[failing(count, Busy)] * 3))
    assert browser.do(get("visits")) == 1


# An outage


def fragile(clock: Clock) -> tuple[Fragile, Callable[[StoreOptions], Any]]:
    """A store that a test can cut off, for the ``revocations`` option."""
    store = Fragile(fresh_revocations(clock)(StoreOptions(lifetime_ms=4_000_000)))
    return store, lambda options: store


@pytest.mark.parametrize("logout", [LOGOUTS[name] for name in ("forget", "invalidate", "clear")])
def test_a_logout_that_is_not_confirmed_is_an_error(make: Callable[..., Browser], clock: Clock, logout: View) -> None:
    """In an outage, a logout raises, and afterwards the user is logged in or out as before."""
    store, opened = fragile(clock)
    browser = make(store=opened)
    browser.do(login("alice"))
    store.is_down = True
    with pytest.raises(StoreUnavailable):
        browser.do(logout)
    assert browser.do(who) == "alice"
    store.is_down = False
    browser.do(logout)
    assert browser.do(who) is None


def test_closed(make: Callable[..., Browser], clock: Clock) -> None:
    """``outage = closed``: who presents a session gets a 503, also for a page that does not look at it."""
    store, opened = fragile(clock)
    browser = make(store=opened, outage="closed")
    browser.do(login("alice"))
    store.is_down = True
    for handler in (who, untouched, put("a", 1), LOGOUTS["forget"]):
        answer = browser.call(handler)
        assert answer.status == "503 Service Unavailable" and answer.header("Retry-After") == "1"
    assert Browser(browser.application, clock).call(untouched).status == "200 OK"
    store.is_down = False
    assert browser.do(who) == "alice"


def test_closed_in_the_middle_of_a_request(clock: Clock) -> None:
    """``outage = closed``: a store that fails after the view gives a 503 too, and it may have another page."""

    def page(error: Any, request: Any) -> Response:
        return Response("mine", status=503)

    store, opened = fragile(clock)
    for set_up, body in (
        (None, b"try again"),
        (lambda c: c.add_exception_view(page, context=StoreUnavailable), b"mine"),
    ):
        browser = Browser(site(clock, store=opened, outage="closed", set_up=set_up), clock)
        browser.do(login("alice"))

        def handler(request: Any) -> None:
            request.session["a"] = 1
            store.is_down = True

        answer = browser.call(handler)
        store.is_down = False
        assert answer.status.startswith("503") and body in answer.body


# Configuration


def test_without_settings_and_without_a_filter() -> None:
    """A session that nobody provides is an error that says what to configure."""
    config = Configurator()
    config.include("wsgi_rollsession.pyramid")
    config.add_view(view)
    browser = Browser(config.make_wsgi_app())
    assert browser.call(untouched).status == "200 OK"
    with pytest.raises(ConfigurationError, match=r"rollsession\.keys"):
        browser.call(get("a"))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rollsession.keys": KEY}, "revocations"),
        (
            {"rollsession.keys": KEY, "rollsession.revocations": "memory://", "rollsession.idle_timout": "3"},
            "did you mean",
        ),
        ({"rollsession.keys_env": "NOT_SET_ANYWHERE", "rollsession.revocations": "memory://"}, "keys_env"),
    ],
)
def test_wrong_settings(settings: dict[str, str], match: str) -> None:
    """A wrong setting is refused when the application is made."""
    with pytest.raises(ConfigurationError, match=match):
        Configurator(settings=settings).include("wsgi_rollsession.pyramid")


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``rollsession.keys_env`` names a variable with the keys: an ini file is no place for them."""
    monkeypatch.setenv("SHOP_KEYS", KEY)
    settings = {"rollsession.keys_env": "SHOP_KEYS", "rollsession.revocations": "memory://"}
    Configurator(settings=settings).include("wsgi_rollsession.pyramid")


def test_several_processes_need_a_shared_store(clock: Clock) -> None:
    """A store that one process sees is refused under several, as the filter does."""
    with pytest.raises(ConfigurationError, match="share"):
        Browser(site(clock), clock).call(untouched, **{"wsgi.multiprocess": True})


def test_a_filter_around_that_is_configured_twice(clock: Clock) -> None:
    """With settings and a filter around, the filter's session counts, and there is one set of cookies."""
    inner = site(clock)
    browser = Browser(
        RollSession(inner, keys=KEY, revocations=fresh_revocations(clock), identity_key="auth.userid", clock=clock),
        clock,
    )
    browser.do(login("alice"))
    assert browser.do(who) == "alice" and len(browser.cookies) == 2


def test_one_sessions_for_several(clock: Clock) -> None:
    """``rollsession.sessions`` takes a ``Sessions`` that is there already."""
    first = Browser(site(clock), clock)
    sessions = sessions_of(first.application)
    config = Configurator(settings={"rollsession.sessions": sessions})
    config.include("wsgi_rollsession.pyramid")
    config.set_security_policy(Policy())
    config.add_view(view)
    second = Browser(config.make_wsgi_app(), clock)
    first.do(login("alice"))
    second.jar = first.jar
    assert second.do(who) == "alice"


def test_a_policy_that_cannot_be_followed(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A security policy whose ``forget`` cannot be replaced is said; it works as far as it goes."""

    class Frozen(Policy):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "forget":
                raise AttributeError(name)
            super().__setattr__(name, value)

    with caplog.at_level(logging.WARNING):
        browser = Browser(site(clock, policy=Frozen()), clock)
    assert "forget" in caplog.text
    browser.do(login("alice"))
    browser.do(LOGOUTS["forget"])
    assert browser.do(who) is None


AT_RANDOM = Framework(
    identity="auth.userid",
    login=remember,
    logout=forget,
    session=lambda request: request.session,
    acts={
        "clear": lambda request: request.session.clear(),
        "invalidate": lambda request: request.session.invalidate(),
        "regenerate": lambda request: request.session.regenerate(),
        "save": lambda request: request.session.save(),
        "revert": lambda request: request.session.revert(),
        "flash": lambda request: request.session.flash("hello"),
        "pop_flash": lambda request: request.session.pop_flash(),
    },
)


@pytest.mark.parametrize("seed", range(0, 100, 50))
def test_random_views(make: Callable[..., Browser], seed: int) -> None:
    """What a view sees at its end is what the next request finds, and no copy from before a logout is anybody's."""
    browser = make()
    for each in range(seed, seed + 50):
        play(each, Browser(browser.application, browser.clock), AT_RANDOM)


def test_the_page_of_the_documentation(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lines of docs/pyramid.md make an application in which a logout is one."""
    page = (ROOT / "docs" / "pyramid.md").read_text("utf-8")
    block = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    monkeypatch.setenv("ROLLSESSION_KEYS", KEY)
    names: dict[str, Any] = {"Configurator": Configurator, "SecurityPolicy": Policy, "os": os}
    exec(block.replace("sqlite:////var/lib/shop/revocations.db", "memory://"), names)
    names["config"].add_view(view)
    browser = Browser(names["config"].make_wsgi_app(), Clock(time.time()))
    browser.do(login("alice"))
    thief = browser.copied()
    assert browser.do(who) == "alice"
    browser.do(LOGOUTS["forget"])
    assert (browser.do(who), thief.do(who)) == (None, None)
