"""``wsgi_rollsession.flask``: Flask's sessions, Flask-Login's logins and logouts, Flask-WTF's tokens."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import flask
import flask_login
import pytest
from flask.json.tag import JSONTag
from flask_wtf import CSRFProtect, FlaskForm
from markupsafe import Markup
from wtforms import StringField

import wsgi_rollsession.flask as adapter
from wsgi_rollsession import (
    ConfigurationError,
    Ended,
    RollSession,
    RollSessionError,
    Session,
    SessionCommitted,
    SessionConflict,
    SessionTooLarge,
    SessionValueError,
    StoreUnavailable,
    generate_key,
)
from wsgi_rollsession.flask import FlaskSession, FlaskSessionInterface, RollSessions, session
from wsgi_rollsession.flask.interface import FLASK_SESSION
from wsgi_rollsession.sessions import SESSION
from wsgi_rollsession.testing import fresh_revocations

from ..browser import Answer, Browser, Clock
from .random_views import VALUES, Framework, play

KEY = generate_key()
HOUR = 3600
ROOT = Path(__file__).parent.parent.parent


class User(flask_login.UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    """Anybody."""

    def __init__(self, name: str) -> None:
        self.id = name


class Visitor(Browser):
    """A browser that goes by paths."""

    def fetch(self, path: str, **environ: Any) -> Answer:
        """Send a request whose answer has not arrived yet."""
        path, _, query = path.partition("?")
        return self.call(None, PATH_INFO=path, QUERY_STRING=query, **environ)  # type: ignore[arg-type]

    def get(self, path: str, **environ: Any) -> str:
        """A request and its answer: the body."""
        return self.receive(self.fetch(path, **environ)).body.decode()

    def who(self) -> str:
        """Who is logged in, by what the application says."""
        return self.get("/who")

    def receive(self, answer: Answer) -> Answer:
        """Let an answer arrive. Flask-Login's cookie is not deleted with the attributes that it was set with."""
        ours = [header for header in answer.headers if "remember_token=" not in header[1]]
        for name, value in answer.headers:
            if name == "Set-Cookie" and "remember_token=" in value:
                self.jar.pop("remember_token", None)
                if "Max-Age=0" not in value:
                    self.jar["remember_token"] = (value.partition("=")[2].partition(";")[0], None, "")
        super().receive(Answer(answer.status, ours, None, b""))
        return answer

    def copied(self) -> Visitor:
        """A thief's browser, as ``Browser.copied``."""
        thief = Visitor(self.application, self.clock)
        thief.jar = super().copied().jar
        return thief

    def close(self) -> None:
        """The browser is closed, and opened again: cookies without Max-Age are gone."""
        self.jar = {name: held for name, held in self.jar.items() if held[1] is not None}


class Store:
    """A revocation store that can be cut off."""

    def __init__(self, clock: Clock) -> None:
        self._open = fresh_revocations(clock)
        self.down = False

    def __call__(self, options: Any) -> Any:
        store = self._open(options)
        for name in ("lookup_now", "fence", "fence_now", "compare_and_raise"):
            setattr(store, name, self._unless_down(getattr(store, name)))
        return store

    def _unless_down(self, do: Callable[..., Any]) -> Callable[..., Any]:
        def doing(*arguments: Any) -> Any:
            if self.down:
                raise StoreUnavailable("cut off by the test")
            return do(*arguments)

        return doing


def plain(clock: Clock | None = None, **config: Any) -> flask.Flask:
    """An application without views."""
    app = flask.Flask("shop")
    app.secret_key = "of Flask-WTF and Flask-Login"
    clock = clock or Clock()
    app.config.update(ROLLSESSION_KEYS=KEY, ROLLSESSION_CLOCK=clock)
    app.config.update(ROLLSESSION_REVOCATIONS=fresh_revocations(clock))
    app.config.update(config)
    RollSessions(app)
    return app


def shop(clock: Clock, **config: Any) -> flask.Flask:
    """An application with Flask-Login, as its documentation has it."""
    app = plain(clock, **config)
    manager = flask_login.LoginManager(app)
    manager.user_loader(User)

    @app.route("/login/<name>")
    def login(name: str) -> str:
        options = {"duration": timedelta(seconds=int(flask.request.args["for"]))} if "for" in flask.request.args else {}
        flask_login.login_user(User(name), remember="remember" in flask.request.args, **options)
        return "in"

    @app.route("/who")
    def who() -> str:
        return str(flask_login.current_user.id if flask_login.current_user.is_authenticated else "nobody")

    @app.route("/put/<key>/<value>")
    def put(key: str, value: str) -> str:
        flask.session[key] = value
        return "put"

    @app.route("/add/<item>")
    def add(item: str) -> str:
        flask.session.setdefault("cart", []).append(item)
        return "added"

    @app.route("/data")
    def data() -> flask.Response:
        return flask.jsonify({key: value for key, value in flask.session.items() if not key.startswith("_")})

    @app.route("/elevate")
    def elevate() -> str:
        session.regenerate()
        flask.session["role"] = "admin"
        return "elevated"

    @app.route("/untouched")
    def untouched() -> str:
        return "untouched"

    @app.route("/do/<name>")
    def do(name: str) -> str:
        flask_login.current_user.is_authenticated  # noqa: B018  # loads the user, as most views do
        LOGOUTS[name]()
        return "done"

    return app


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's."""
    return Clock()


@pytest.fixture
def visitor(clock: Clock) -> Visitor:
    """Somebody in the shop, whose sessions are rolled by every response."""
    return Visitor(shop(clock, ROLLSESSION_RENEW_AFTER=0), clock)


def during(app: flask.Flask, do: Callable[[], Any]) -> None:
    """Let ``/view`` be *do*."""
    app.add_url_rule("/view", "view", do)


# Flask's session


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 11, 25, 12, 30, tzinfo=timezone.utc),
        UUID("0e8fd3e4-5b4a-4a5a-8bb8-1f9c6f0a6f15"),
        b"\xff\x00",
        Markup("<b>Tee</b>"),
        (1, "two", (3.0, None)),
        {"nested": [{"at": datetime(2026, 1, 1, tzinfo=timezone.utc), "pair": (True, b"")}]},
        {" t": "not a tuple"},
        {" di": {" t__": 1}},
        ["plain", 1, 2.5, None, False],
        "text",
    ],
    ids=repr,
)
def test_what_flask_can_carry_survives(value: Any, clock: Clock) -> None:
    """A value of any type that Flask's own sessions carry comes back as that type, from the cookie too."""
    app, found = plain(clock), []
    app.add_url_rule("/put", "put", lambda: flask.session.update(value=value) or "")
    app.add_url_rule("/get", "get", lambda: found.append(flask.session["value"]) or "")
    visitor = Visitor(app, clock)
    visitor.get("/put")
    visitor.get("/get")
    assert found == [value]
    assert type(found[0]) is type(value)


def test_a_registered_tag_is_used(clock: Clock) -> None:
    """``app.session_interface.serializer.register`` adds a type, as with Flask's own sessions."""

    class TagSet(JSONTag):
        key = " s"

        def check(self, value: Any) -> bool:
            return isinstance(value, set)

        def to_json(self, value: Any) -> Any:
            return sorted(value)

        def to_python(self, value: Any) -> Any:
            return set(value)

    app = plain(clock)
    app.session_interface.serializer.register(TagSet)  # type: ignore[attr-defined]
    app.add_url_rule("/add/<item>", "add", lambda item: flask.session.setdefault("set", set()).add(item) or "")
    app.add_url_rule("/get", "get", lambda: repr(flask.session["set"]))
    visitor = Visitor(app, clock)
    visitor.get("/add/tea")
    visitor.get("/add/tea")
    assert visitor.get("/get") == "{'tea'}"


def test_a_value_that_nothing_can_carry_is_refused_where_it_is_assigned(clock: Clock) -> None:
    """The error names the key, and is raised in the view."""
    app = plain(clock, TESTING=True)
    during(app, lambda: flask.session.update(value=object()))
    with pytest.raises(TypeError, match=r"session\['value'\]"):
        Visitor(app, clock).get("/view")


def test_nested_changes_are_noticed(visitor: Visitor) -> None:
    """No ``modified = True`` is needed: what is appended to a list in the session is in the next request's."""
    for item in ("tea", "milk", "tea"):
        visitor.get(f"/add/{item}")
    assert visitor.get("/data") == '{"cart":["tea","milk","tea"]}\n'


@pytest.mark.parametrize(
    "take_out",
    [
        lambda: flask.session.pop("cart"),
        lambda: flask.session.__delitem__("cart"),
        lambda: flask.session.clear(),
        lambda: session.invalidate(),
        lambda: session.forget(),
        lambda: (flask_login.login_user(User("bob")), session.save()),
    ],
    ids=["pop", "del", "clear", "invalidate", "forget", "of another user"],
)
def test_what_is_taken_out_is_gone(take_out: Callable[[], Any], visitor: Visitor) -> None:
    """A value that the view has looked at, and has taken out, is not there in the rest of the request either."""

    def view() -> str:
        assert flask.session["cart"] == ["tea"]
        take_out()
        return repr((flask.session.get("cart"), "cart" in flask.session))

    during(visitor.application, view)  # type: ignore[arg-type]
    visitor.get("/login/alice")
    visitor.get("/add/tea")
    assert visitor.get("/view") == "(None, False)"


@pytest.mark.parametrize(
    ("do", "modified"),
    [
        (lambda s: s.get("a"), False),
        (lambda s: s.get("missing"), False),
        (lambda s: s.pop("missing", None), False),
        (lambda s: s.setdefault("a", 2), False),
        (lambda s: list(s.items()), False),
        (lambda s: s["nested"]["list"], False),
        (lambda s: s.__setitem__("b", 1), True),
        (lambda s: s.pop("a"), True),
        (lambda s: s.__delitem__("a"), True),
        (lambda s: s.setdefault("b", 2), True),
        (lambda s: s.update(a=2), True),
        (lambda s: s.clear(), True),
        (lambda s: s["nested"]["list"].append(1), True),
        (lambda s: setattr(s, "permanent", True), True),
        (lambda s: s.popitem(), True),
    ],
)
def test_modified(do: Callable[[Any], Any], modified: bool, clock: Clock) -> None:
    """``modified`` says whether the request has changed the session, in the view and after it was saved."""
    app, seen = plain(clock), []
    app.add_url_rule("/put", "put", lambda: flask.session.update(a=1, nested={"list": []}) or "")

    def view() -> str:
        do(flask.session)
        seen.append(flask.session.modified)
        return ""

    during(app, view)
    client = app.test_client()
    client.get("/put")
    with client:
        client.get("/view")
        assert (seen, flask.session.modified) == ([modified], modified)
        assert flask.session.rollsession.committed  # type: ignore[attr-defined]


def test_modified_set_to_false_takes_changes_back(clock: Clock) -> None:
    """What was changed before ``modified = False`` is not sent; what is changed after it brings everything back."""
    app = plain(clock)
    app.add_url_rule("/data", "data", lambda: dict(flask.session))

    def view() -> str:
        flask.session["a"] = 1
        flask.session.modified = False
        if flask.request.args:
            flask.session["b"] = 2
        return ""

    during(app, view)
    assert Visitor(app, clock).fetch("/view").set_cookies == []
    visitor = Visitor(app, clock)
    visitor.get("/view?again=1")
    assert visitor.get("/data") == '{"a":1,"b":2}\n'


def test_an_untouched_session_is_not_loaded(clock: Clock) -> None:
    """A request that does not look at the session does not open it, and its response does not vary."""
    app, seen = plain(clock), []
    app.add_url_rule("/put", "put", lambda: flask.session.update(a=1) or "")
    during(app, lambda: seen.append(flask.request.environ[SESSION].loaded) or "")
    visitor = Visitor(app, clock)
    visitor.get("/put")
    answer = visitor.fetch("/view")
    assert seen == [False]
    assert answer.header("Vary") is None
    assert visitor.fetch("/put").header("Vary") == "Cookie"


def test_flask_login_does_not_load_it_either(clock: Clock) -> None:
    """A view that asks for no user does not open the session, though Flask-Login looks into it after each request."""
    app, seen = shop(clock), []
    app.teardown_request(lambda error: seen.append(flask.request.environ[SESSION].loaded))
    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    visitor.get("/untouched")
    assert seen == [True, False]


def test_accessed_and_new(clock: Clock) -> None:
    """``accessed`` follows looking; ``new`` is true in the request that begins the session, and in none after it."""
    app, seen = plain(clock), []

    def view() -> str:
        opened = flask.request.environ[FLASK_SESSION]
        before = opened.accessed
        seen.append((before, opened.new, "a" in flask.session, opened.accessed))
        flask.session["a"] = 1
        return ""

    during(app, view)
    client = app.test_client()
    with client:
        client.get("/view")
        assert flask.session.new
        client.get("/view")
        assert not flask.session.new
    assert seen == [(False, True, False, True), (False, False, True, True)]


def test_flash_in_the_next_request(clock: Clock) -> None:
    """A flashed message is shown once."""
    app = plain(clock)
    app.add_url_rule("/flash", "flash", lambda: flask.flash("Saved.", "good") or "")
    app.add_url_rule("/show", "show", lambda: flask.jsonify(flask.get_flashed_messages(with_categories=True)))
    visitor = Visitor(app, clock)
    visitor.get("/flash")
    assert [visitor.get("/show"), visitor.get("/show")] == ['[["good","Saved."]]\n', "[]\n"]


def test_messages_can_be_looked_at_after_the_response(clock: Clock) -> None:
    """A test's ``get_flashed_messages()`` in ``with client`` works, though they cannot be taken out any more."""
    app = plain(clock)
    during(app, lambda: flask.flash("Saved.") or "")
    with app.test_client() as client:
        client.get("/view")
        assert flask.get_flashed_messages() == ["Saved."]


def test_session_transaction(clock: Clock) -> None:
    """A test logs a user in, and looks into the session, with Flask's ``session_transaction()``."""
    client = shop(clock).test_client()
    with client.session_transaction() as opened:
        opened["_user_id"] = "alice"
        opened["cart"] = ["tea"]
    assert client.get("/who").text == "alice"
    with client.session_transaction() as opened:
        assert opened["cart"] == ["tea"]
        opened.clear()
    assert client.get("/who").text == "nobody"


def test_flask_logins_client(clock: Clock) -> None:
    """``FlaskLoginClient(user=…)`` logs in."""
    app = shop(clock)
    app.test_client_class = flask_login.FlaskLoginClient
    assert app.test_client(user=User("alice")).get("/who").text == "alice"


def test_test_request_context(clock: Clock) -> None:
    """``flask.session`` is there without a request having been dispatched."""
    app = shop(clock)
    with app.test_request_context():
        flask.session["a"] = (1, 2)
        assert flask.session["a"] == (1, 2)
        flask_login.login_user(User("alice"))
        assert flask_login.current_user.id == "alice"
        response = app.process_response(app.response_class())
        assert any(cookie.startswith("__Host-session-1=") for cookie in response.headers.getlist("Set-Cookie"))


def test_a_late_write_raises(clock: Clock) -> None:
    """A change in the body of a stream, which no cookie can carry any more, raises; reading does not."""
    app = plain(clock)

    def view() -> flask.Response:
        flask.session["a"] = 1

        def body() -> Iterator[str]:
            yield str(flask.session["a"])
            flask.session["b"] = 2

        return flask.Response(flask.stream_with_context(body()))

    during(app, view)
    with pytest.raises(SessionCommitted):
        Visitor(app, clock).get("/view")


def test_keys_are_found_by_templates(clock: Clock) -> None:
    """``{{ session.id }}`` is the key of that name, as with Flask's own sessions: few attributes are in its way."""
    app = plain(clock)
    template = "{{ session.id }} {{ session.tags }} {{ session.user }} {{ session['expires'] }}"

    def view() -> str:
        flask.session.update(id=7, tags="blue", user="alice", expires="never")
        return flask.render_template_string(template)

    during(app, view)
    assert Visitor(app, clock).get("/view") == "7 blue alice never"


def test_what_is_known_of_the_session(visitor: Visitor) -> None:
    """``flask.session.rollsession`` is asked who it is, and until when."""
    during(
        visitor.application,  # type: ignore[arg-type]
        lambda: repr(
            (
                len(session.rollsession.id),
                "user:alice" in session.rollsession.tags,
                session.rollsession.ended,
                session.rollsession.check(),
            )
        ),
    )
    visitor.get("/login/alice")
    assert visitor.get("/view") == "(32, True, None, True)"
    visitor.get("/do/logout_user")
    assert visitor.get("/view") == f"(32, False, {Ended.NEVER!r}, False)"


def test_the_representation_does_not_tell_the_data(clock: Clock) -> None:
    """Representations end up in logs. Who wants the data has a copy, which is a dict."""
    app = plain(clock)
    during(app, lambda: flask.session.update(secret="swordfish") or f"{flask.session!r} {type(flask.session.copy())}")
    page = Visitor(app, clock).get("/view")
    assert page.startswith("<Session") and page.endswith("<class 'dict'>") and "swordfish" not in page


# Configuration


@pytest.mark.parametrize(
    ("config", "cookie", "attributes"),
    [
        ({}, "__Host-session", ["Path=/", "secure", "HttpOnly", "SameSite=Lax"]),
        ({"SESSION_COOKIE_NAME": "shop"}, "__Host-shop", []),
        ({"SESSION_COOKIE_NAME": "shop", "ROLLSESSION_COOKIE_NAME": "till"}, "__Host-till", []),
        ({"SESSION_COOKIE_DOMAIN": ".example.com"}, "__Secure-session", ["Domain=example.com"]),
        ({"SESSION_COOKIE_PATH": "/shop"}, "__Secure-session", ["Path=/shop"]),
        ({"APPLICATION_ROOT": "/shop"}, "__Secure-session", ["Path=/shop"]),
        ({"APPLICATION_ROOT": "/shop", "SESSION_COOKIE_PATH": "/"}, "__Host-session", ["Path=/"]),
        ({"SESSION_COOKIE_SAMESITE": "Strict"}, "__Host-session", ["SameSite=Strict"]),
        (
            {"SESSION_COOKIE_SAMESITE": "None", "SESSION_COOKIE_PARTITIONED": True},
            "__Host-session",
            ["SameSite=None", "Partitioned"],
        ),
        ({"SESSION_COOKIE_SECURE": True}, "__Host-session", ["secure"]),
        ({"ROLLSESSION_INSECURE_HTTP": True}, "session", ["HttpOnly"]),
    ],
    ids=repr,
)
def test_cookie_attributes(config: dict[str, Any], cookie: str, attributes: list[str], clock: Clock) -> None:
    """``SESSION_COOKIE_…`` is honoured; ``ROLLSESSION_COOKIE_…`` comes first."""
    app = plain(clock, **config)
    during(app, lambda: flask.session.update(a=1) or "")
    (sent,) = Visitor(app, clock).fetch("/view").set_cookies
    assert sent.startswith(f"{cookie}=")
    assert not set(attributes) - set(sent.split("; "))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"SESSION_COOKIE_HTTPONLY": False}, "SESSION_COOKIE_HTTPONLY: requires True"),
        ({"SESSION_COOKIE_SECURE": True, "ROLLSESSION_INSECURE_HTTP": True}, "SESSION_COOKIE_SECURE: requires False"),
        ({"SESSION_COOKIE_SAMESITE": "Lux"}, "SESSION_COOKIE_SAMESITE: requires Strict or Lax or None, received 'Lux'"),
        ({"SESSION_COOKIE_PARTITIONED": True}, "ROLLSESSION_SAMESITE: requires None with partitioned"),
        ({"APPLICATION_ROOT": "shop"}, "APPLICATION_ROOT: requires a path"),
        ({"ROLLSESSION_KEYS": "short"}, "ROLLSESSION_KEYS: "),
        ({"ROLLSESSION_IDLE_TIMOUT": 3}, "ROLLSESSION_IDLE_TIMOUT: .*did you mean idle_timeout"),
        ({"ROLLSESSION_REMEMBER_COOKIE": "yes"}, "ROLLSESSION_REMEMBER_COOKIE: requires True or False"),
        ({"ROLLSESSION_UNREMEMBERED_IDLE_TIMEOUT": "soon"}, "ROLLSESSION_UNREMEMBERED_IDLE_TIMEOUT: requires"),
        ({"PERMANENT_SESSION_LIFETIME": 0}, "PERMANENT_SESSION_LIFETIME: requires"),
    ],
    ids=repr,
)
def test_what_cannot_be_honoured_is_refused(config: dict[str, Any], message: str) -> None:
    """The error comes at start-up, and names the key of the configuration that is wrong."""
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        plain(**config)


def test_keys_are_required() -> None:
    """Without keys the application does not start, and the error says what to set."""
    with pytest.raises(ConfigurationError, match=r"^ROLLSESSION_KEYS: requires"):
        RollSessions(flask.Flask("shop"))


@pytest.mark.parametrize(
    ("config", "idle", "absolute"),
    [
        ({}, HOUR, 24 * HOUR),
        ({"PERMANENT_SESSION_LIFETIME": timedelta(minutes=15)}, 900, 24 * HOUR),
        ({"PERMANENT_SESSION_LIFETIME": timedelta(days=7)}, 168 * HOUR, 168 * HOUR),
        ({"PERMANENT_SESSION_LIFETIME": 900, "ROLLSESSION_IDLE_TIMEOUT": "2h"}, 2 * HOUR, 24 * HOUR),
        ({"PERMANENT_SESSION_LIFETIME": 900, "ROLLSESSION_ABSOLUTE_TIMEOUT": "2h"}, 900, 2 * HOUR),
    ],
    ids=repr,
)
def test_a_lifetime_that_somebody_has_set_is_the_idle_timeout(config: dict[str, Any], idle: int, absolute: int) -> None:
    """``PERMANENT_SESSION_LIFETIME`` counts, where it is not Flask's default and nothing else is given."""
    settings = plain(**config).extensions["rollsession"].sessions.settings
    assert (settings.idle_s, settings.absolute_ms) == (idle, absolute * 1000)


def test_session_refresh_each_request_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Flask's switch for it has no effect, which the log says."""
    plain(SESSION_REFRESH_EACH_REQUEST=False)
    assert "SESSION_REFRESH_EACH_REQUEST" in caplog.text


def test_a_store_of_one_process_is_refused_where_there_are_several(clock: Clock) -> None:
    """``memory://`` behind a server with several processes is an error: a logout would not reach the others."""
    app = plain(clock, TESTING=True)
    with pytest.raises(ConfigurationError, match="ROLLSESSION_REVOCATIONS: requires a store that all processes share"):
        Visitor(app, clock).fetch("/", **{"wsgi.multiprocess": True})


def test_one_extension_for_several_applications(clock: Clock) -> None:
    """``init_app`` may be called for several: each has its sessions, and ``revoke`` is of the current one."""
    extension = RollSessions()
    with pytest.raises(RuntimeError, match="init_app"):
        extension.revoke("user:alice")
    apps = []
    for _ in range(2):
        app = flask.Flask("shop")
        app.config.update(ROLLSESSION_KEYS=KEY, ROLLSESSION_REVOCATIONS="memory://")
        extension.init_app(app)
        apps.append(app)
    assert extension.sessions is apps[0].extensions["rollsession"].sessions
    with apps[1].app_context():
        assert extension.sessions is apps[1].extensions["rollsession"].sessions


def test_around_it_another_session_serves_both(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """With the WSGI filter around the application there is one session: the filter's, which sends the cookies."""
    app = plain(clock)
    during(app, lambda: flask.session.setdefault("seen", []).append(1) or str(len(flask.session["seen"])))
    options: dict[str, Any] = {"revocations": fresh_revocations(clock), "clock": clock, "cookie_name": "outer"}
    visitor = Visitor(RollSession(app, keys=KEY, identity_key="_user_id", samesite="Strict", **options), clock)
    assert "SameSite=Strict" in visitor.receive(visitor.fetch("/view")).set_cookies[0]
    visitor.jar.clear()
    assert [visitor.get("/view"), visitor.get("/view")] == ["1", "2"]
    assert list(visitor.jar) == ["__Host-outer"]
    assert caplog.text.count("its session serves both") == 1


@pytest.mark.parametrize("identity_key", [None, "user_id"])
def test_around_it_another_identity_is_refused(identity_key: str | None, clock: Clock) -> None:
    """Around it a filter that does not know who is logged in would make a logout end nothing: no page is served."""
    app = shop(clock)
    options: dict[str, Any] = {"revocations": fresh_revocations(clock), "clock": clock}
    visitor = Visitor(RollSession(app, keys=KEY, identity_key=identity_key, **options), clock)
    answer = visitor.receive(visitor.fetch("/login/alice"))
    assert answer.status.startswith("500") and answer.set_cookies == []
    app.testing = True
    with pytest.raises(ConfigurationError, match="identity_key: requires '_user_id'"):
        visitor.get("/who")


def test_a_request_that_is_run_again_counts_once(clock: Clock) -> None:
    """A retry around the application, with the same environ: what the discarded pass did is sent, or undone."""
    app, passes = shop(clock), []

    def twice(environ: dict[str, Any], start_response: Any) -> Any:
        app(environ, lambda *_: lambda data: None)
        passes.append(1)
        return app(environ, start_response)

    visitor = Visitor(twice, clock)
    visitor.get("/login/alice")
    visitor.application = app
    assert (visitor.who(), passes) == ("alice", [1])


# Logging out


def logout_user() -> None:
    """Flask-Login."""
    flask_login.logout_user()


def logout_user_with_a_message() -> None:
    """What is left goes on."""
    flask_login.logout_user()
    flask.flash("Goodbye.")


def clear() -> None:
    """Flask's tutorial."""
    flask.session.clear()


def clear_with_a_message() -> None:
    """Emptied, and filled again."""
    flask.session.clear()
    flask.session["message"] = "Goodbye."


def pop() -> None:
    """Flask's quickstart."""
    flask.session.pop("_user_id", None)


def delete() -> None:
    """By statement."""
    del flask.session["_user_id"]


def none() -> None:
    """By assignment."""
    flask.session["_user_id"] = None


def invalidate() -> None:
    """This package's own."""
    session.invalidate()


def revoke() -> None:
    """Everywhere."""
    interface: Any = flask.current_app.session_interface
    interface.sessions.revoke("user:alice")


LOGOUTS: dict[str, Callable[[], None]] = {
    do.__name__: do
    for do in (
        logout_user,
        logout_user_with_a_message,
        clear,
        clear_with_a_message,
        pop,
        delete,
        none,
        invalidate,
        revoke,
    )
}


@pytest.mark.parametrize("cart", [False, True], ids=["", "with a cart"])
@pytest.mark.parametrize("kind", LOGOUTS)
def test_replay(kind: str, cart: bool, visitor: Visitor) -> None:
    """Cookies that were copied before a logout, of whatever kind, are nobody's after it."""
    visitor.get("/login/alice")
    if cart:
        visitor.get("/add/tea")
    thief = visitor.copied()
    assert thief.who() == "alice"
    visitor.get(f"/do/{kind}")
    assert (thief.who(), visitor.who()) == ("nobody", "nobody")
    assert "tea" not in thief.get("/data")


# `del` raises KeyError where the cookie is dead already: that is an error page, and no logout.
@pytest.mark.parametrize(
    ("kind", "late"),
    [
        (kind, late)
        for kind in LOGOUTS
        for late in ("/who", "/untouched", "/put/note/x", "/add/tea", "/elevate")
        if (kind, late) != ("delete", "/elevate")
    ],
)
def test_what_arrives_after_a_logout_is_dead(kind: str, late: str, visitor: Visitor) -> None:
    """An answer from before a logout logs nobody in, whether its request only read, rolled, wrote or was elevated."""
    visitor.get("/login/alice")
    answer = visitor.fetch(late)
    visitor.get(f"/do/{kind}")
    visitor.receive(answer)
    assert visitor.who() == "nobody"


@pytest.mark.parametrize("late", ["/who", "/untouched", "/put/note/x", "/add/tea", "/elevate"])
@pytest.mark.parametrize("kind", LOGOUTS)
def test_a_request_in_flight_does_not_undo_a_logout(kind: str, late: str, clock: Clock) -> None:
    """A request that has loaded alice's session, and goes on after her logout, brings nobody back."""
    app = shop(clock, ROLLSESSION_RENEW_AFTER=0)
    meanwhile: list[Callable[[], Any]] = []

    @app.before_request
    def wait() -> None:
        flask.session.get("_user_id")
        if meanwhile:
            meanwhile.pop()()

    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    other = visitor.copied()
    meanwhile.append(lambda: visitor.get(f"/do/{kind}"))
    answer = other.fetch(late)
    other.receive(answer)
    visitor.receive(answer)
    assert (visitor.who(), other.who()) == ("nobody", "nobody")


@pytest.mark.parametrize("kind", ["logout_user", "logout_user_with_a_message", "clear", "pop", "none", "invalidate"])
def test_a_logout_that_finds_nobody_ends_what_is_on_its_way(kind: str, visitor: Visitor) -> None:
    """A new epoch of alice's login is answered; her logout still presents the old one, which is dead: both end."""
    visitor.get("/login/alice")
    answer = visitor.fetch("/elevate")
    assert visitor.fetch("/who").body == b"nobody"
    visitor.get(f"/do/{kind}")
    visitor.receive(answer)
    assert visitor.who() == "nobody"


def test_strong_session_protection_ends_the_session(clock: Clock) -> None:
    """A copied cookie that is used by another browser ends the login: Flask-Login takes the user out."""
    visitor = Visitor(shop(clock, SESSION_PROTECTION="strong"), clock)
    visitor.get("/login/alice", HTTP_USER_AGENT="hers")
    assert visitor.get("/who", HTTP_USER_AGENT="hers") == "alice"
    thief = visitor.copied()
    assert thief.get("/who", HTTP_USER_AGENT="his") == "nobody"
    assert visitor.get("/who", HTTP_USER_AGENT="hers") == "nobody"


@pytest.mark.parametrize("how", ["pop", "clear", "del"])
def test_without_flask_login(how: str, clock: Clock) -> None:
    """``ROLLSESSION_IDENTITY_KEY`` names the key of an application that has its own login, as Flask's quickstart."""
    app = plain(clock, ROLLSESSION_IDENTITY_KEY="username")

    def leave() -> str:
        if how == "pop":
            flask.session.pop("username", None)
        elif how == "clear":
            flask.session.clear()
        else:
            del flask.session["username"]
        return ""

    app.add_url_rule("/in", "in", lambda: flask.session.update(username="alice", seen=1) or "")
    app.add_url_rule("/out", "out", leave)
    app.add_url_rule("/who", "who", lambda: str(flask.session.get("username")))
    visitor = Visitor(app, clock)
    visitor.get("/in")
    assert any("__Host-session-1=" in cookie for cookie in visitor.header().split("; "))
    thief = visitor.copied()
    visitor.get("/out")
    assert (visitor.who(), thief.who()) == ("None", "None")


def test_an_identity_is_text_or_a_number(clock: Clock) -> None:
    """A user's id that Flask could carry, but no tag can name, is refused where it is assigned."""
    app = plain(clock, ROLLSESSION_IDENTITY_KEY="user", TESTING=True)
    during(app, lambda: flask.session.update(user=UUID(int=1)) or "")
    with pytest.raises(TypeError, match=r"session\['user'\]: JSON cannot carry a UUID"):
        Visitor(app, clock).get("/view")


# Logging in


def test_a_login_ends_what_was_planted(visitor: Visitor) -> None:
    """Fixation: who has planted the session that a user logs in from, or a copy of it, is not logged in by that."""
    attacker = Visitor(visitor.application, visitor.clock)
    attacker.get("/put/colour/red")
    visitor.jar = dict(attacker.jar)
    visitor.get("/login/alice")
    assert (visitor.who(), attacker.who()) == ("alice", "nobody")
    attacker.get("/put/colour/blue")
    assert visitor.get("/data") == '{"colour":"red"}\n'


def test_another_user_has_nothing_of_the_first(visitor: Visitor) -> None:
    """bob logs in over alice's session: he has what his request assigned, and hers is dead."""
    during(
        visitor.application,  # type: ignore[arg-type]
        lambda: flask.session["cart"].append("her tea") or str(flask_login.login_user(User("bob"))),
    )
    visitor.get("/login/alice")
    visitor.get("/add/tea")
    visitor.get("/put/role/admin")
    thief = visitor.copied()
    visitor.get("/view")
    assert (visitor.who(), visitor.get("/data")) == ("bob", "{}\n")
    assert thief.who() == "nobody"


def test_what_an_anonymous_visitor_had_goes_on(visitor: Visitor) -> None:
    """A cart that was filled before the login is there after it, and after the logout."""
    for path in ("/add/tea", "/login/alice", "/add/milk", "/do/logout_user", "/add/tea"):
        visitor.get(path)
    assert visitor.get("/data") == '{"cart":["tea","milk","tea"]}\n'


def test_logging_in_again_begins_deadlines_anew(clock: Clock) -> None:
    """The same user, authenticated again, has the whole absolute timeout anew; the copy from before is dead."""
    visitor = Visitor(shop(clock, ROLLSESSION_IDLE_TIMEOUT="24h", ROLLSESSION_UNREMEMBERED_IDLE_TIMEOUT="24h"), clock)
    visitor.get("/login/alice")
    clock.advance(20 * HOUR)
    thief = visitor.copied()
    visitor.get("/login/alice")
    clock.advance(20 * HOUR)
    assert (visitor.who(), thief.who()) == ("alice", "nobody")


def test_tags_of_the_application(clock: Clock) -> None:
    """Tags that are given before or after ``login_user()`` are kept beside that of the user."""
    for first in (True, False):
        app = shop(clock)

        def view(first: bool = first) -> str:
            if first:
                session.regenerate(tags=["tenant:7"])
            flask_login.login_user(User("alice"))
            if not first:
                session.regenerate(tags=["tenant:7"])
            return ""

        during(app, view)
        for tag in ("tenant:7", "user:alice"):
            visitor = Visitor(app, clock)
            visitor.get("/view")
            assert visitor.who() == "alice"
            app.extensions["rollsession"].sessions.revoke(tag)
            assert visitor.who() == "nobody"


def test_revoke(clock: Clock) -> None:
    """``revoke("user:alice")`` logs out alice everywhere, ``revoke_session`` one login; from outside of a request."""
    app = shop(clock)
    during(app, lambda: session.rollsession.id)
    extension = RollSessions.__new__(RollSessions)
    extension._app = app
    alice, phone, bob = (Visitor(app, clock) for _ in range(3))
    alice.get("/login/alice")
    phone.get("/login/alice")
    bob.get("/login/bob")
    extension.revoke_session(phone.get("/view"))
    assert [each.who() for each in (alice, phone, bob)] == ["alice", "nobody", "bob"]
    extension.revoke("user:alice")
    assert [each.who() for each in (alice, phone, bob)] == ["nobody", "nobody", "bob"]
    alice.get("/login/alice")
    assert alice.who() == "alice"
    extension.revoke_everything()
    assert [each.who() for each in (alice, bob)] == ["nobody", "nobody"]


def test_revoke_others(visitor: Visitor) -> None:
    """``session.revoke_others`` ends all other logins of the user, and nested changes of before are kept."""
    during(
        visitor.application,  # type: ignore[arg-type]
        lambda: flask.session["cart"].append("milk") or session.revoke_others("user:alice") or "",
    )
    phone = Visitor(visitor.application, visitor.clock)
    phone.get("/login/alice")
    visitor.get("/login/alice")
    visitor.get("/add/tea")
    visitor.get("/view")
    assert (visitor.who(), phone.who(), visitor.get("/data")) == ("alice", "nobody", '{"cart":["tea","milk"]}\n')


# Remember me


def ages(answer: Answer) -> set[str]:
    """What the answer's session cookie says about its age."""
    (sent,) = [each for each in answer.set_cookies if each.startswith(("__Host-session-1=", "__Host-session-1b="))]
    return {each for each in sent.split("; ") if each.startswith("Max-Age")}


LONG = {"ROLLSESSION_IDLE_TIMEOUT": "14d", "ROLLSESSION_ABSOLUTE_TIMEOUT": "90d"}


@pytest.mark.parametrize(
    ("path", "age", "alive_s", "dead_s"),
    [
        ("/login/alice?remember=1", {f"Max-Age={90 * 24 * HOUR}"}, 13 * 24 * HOUR, 15 * 24 * HOUR),
        ("/login/alice?remember=1&for=7200", {"Max-Age=7200"}, 7000, 7300),
        ("/login/alice", set(), 3500, 3700),
        ("/permanent", {f"Max-Age={90 * 24 * HOUR}"}, 13 * 24 * HOUR, 15 * 24 * HOUR),
        ("/permanent-after", {f"Max-Age={90 * 24 * HOUR}"}, 13 * 24 * HOUR, 15 * 24 * HOUR),
        ("/by-key", set(), 3500, 3700),
        ("/by-key?permanent=1", {f"Max-Age={90 * 24 * HOUR}"}, 13 * 24 * HOUR, 15 * 24 * HOUR),
        ("/saved", set(), 3500, 3700),
    ],
)
def test_how_long_a_login_lasts(path: str, age: set[str], alive_s: int, dead_s: int, clock: Clock) -> None:
    """Remembered, or permanent: as configured, and the browser may be closed. Otherwise shorter, and it may not."""
    app = shop(clock, **LONG)

    @app.route("/permanent")
    def permanent() -> str:
        flask.session.permanent = True
        flask_login.login_user(User("alice"))
        return ""

    @app.route("/permanent-after")
    def permanent_after() -> str:
        flask_login.login_user(User("alice"))
        flask.session.permanent = True
        return ""

    @app.route("/by-key")
    def by_key() -> str:
        flask.session["_user_id"] = "alice"
        flask.session.permanent = "permanent" in flask.request.args
        return ""

    @app.route("/saved")
    def saved() -> str:
        flask.session["_user_id"] = "alice"
        session.save()
        return ""

    for seconds, user in ((alive_s, "alice"), (dead_s, "nobody")):
        visitor = Visitor(app, clock)
        answer = visitor.receive(visitor.fetch(path))
        assert ages(answer) == age
        assert "remember_token" not in visitor.jar
        kept = visitor.copied()
        kept.jar.update(visitor.jar)
        clock.advance(seconds)
        assert kept.who() == user


def test_what_is_to_be_remembered_is_not_kept(clock: Clock) -> None:
    """What Flask-Login says in the session about remembering is for this response, and no part of the data."""
    app = shop(clock)
    during(app, lambda: flask.jsonify(sorted(flask.session)))
    visitor = Visitor(app, clock)
    visitor.get("/login/alice?remember=1&for=7200")
    assert visitor.get("/view") == '["_fresh","_id","_user_id"]\n'


def test_what_flask_login_tells_itself(clock: Clock) -> None:
    """``session["_remember"]`` is there for the rest of the request, however it is asked for, and can be taken out."""
    app = shop(clock)

    def view() -> str:
        flask_login.logout_user()
        assert "_remember" not in flask.session and flask.session.get("_remember") is None  # there was no cookie
        flask.session["_remember"] = "clear"
        assert "_remember" in flask.session and flask.session["_remember"] == "clear"
        del flask.session["_remember"]
        assert "_remember" not in flask.session and flask.session.pop("_remember", "none") == "none"
        return "told"

    during(app, view)
    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    assert visitor.get("/view") == "told"


@pytest.mark.parametrize("permanent", [False, True])
def test_how_long_a_login_by_tags_lasts(permanent: bool, clock: Clock) -> None:
    """Without an identity key, ``regenerate(tags=…)`` is the login, and ``permanent`` counts as for any other."""
    app = plain(clock, ROLLSESSION_IDENTITY_KEY=None, **LONG)

    def view() -> str:
        session.regenerate(tags=["user:alice"])
        flask.session.permanent = permanent
        return ""

    during(app, view)
    assert ages(Visitor(app, clock).fetch("/view")) == ({f"Max-Age={90 * 24 * HOUR}"} if permanent else set())


@pytest.mark.parametrize(("path", "user"), [("/login/alice?remember=1", "alice"), ("/login/alice", "nobody")])
def test_a_new_epoch_lasts_as_long_as_its_login(path: str, user: str, clock: Clock) -> None:
    """``regenerate()`` by the user who is logged in leaves deadlines, and what the browser keeps, as they were."""
    visitor = Visitor(shop(clock, **LONG), clock)
    visitor.get(path)
    visitor.get("/elevate")
    assert visitor.who() == "alice"
    kept = visitor.copied()
    visitor.close()
    assert visitor.who() == user
    clock.advance(13 * 24 * HOUR)
    assert kept.who() == user


def test_arguments_of_the_application_come_first(clock: Clock) -> None:
    """What ``session.regenerate`` was told of a login is not replaced by what ``permanent`` means."""
    app = shop(clock, **LONG)

    def view() -> str:
        flask_login.login_user(User("alice"))
        session.regenerate(persistent=True, idle_timeout="2d", absolute_timeout="3d")
        return ""

    during(app, view)
    visitor = Visitor(app, clock)
    assert ages(visitor.receive(visitor.fetch("/view"))) == {f"Max-Age={72 * HOUR}"}
    clock.advance(47 * HOUR)
    assert visitor.who() == "alice"


def test_closing_the_browser(clock: Clock) -> None:
    """A login that was to be remembered is there when the browser is opened again, another is not."""
    app = shop(clock, **LONG)
    remembered, other = Visitor(app, clock), Visitor(app, clock)
    remembered.get("/login/alice?remember=1")
    other.get("/login/alice")
    for each in (remembered, other):
        assert each.who() == "alice"
        each.close()
    assert (remembered.who(), other.who()) == ("alice", "nobody")


def test_a_logout_forgets_a_remembered_login(clock: Clock) -> None:
    """After a logout, or ``revoke``, no copy of what a remembered login left anywhere logs in again."""
    app = shop(clock, **LONG)
    for kind in ("logout_user", "revoke"):
        visitor = Visitor(app, clock)
        visitor.get("/login/alice?remember=1")
        thief = visitor.copied()
        visitor.get(f"/do/{kind}")
        assert (visitor.who(), thief.who()) == ("nobody", "nobody")


@pytest.mark.parametrize("permanent", [False, True])
@pytest.mark.parametrize("how", ["login_user", "by key"])
def test_another_users_permanence_does_not_count(how: str, permanent: bool, clock: Clock) -> None:
    """bob logs in over a permanent session of alice's: his is permanent if he has asked for it, and only then."""
    app = shop(clock, **LONG)
    app.add_url_rule("/keep", "keep", lambda: setattr(flask.session, "permanent", True) or "")

    def view() -> str:
        if how == "by key":
            flask.session["_user_id"] = "bob"
        else:
            flask_login.login_user(User("bob"))
        if permanent:
            flask.session.permanent = True
        return ""

    during(app, view)
    visitor = Visitor(app, clock)
    visitor.get("/login/alice?remember=1")
    visitor.get("/keep")
    visitor.get("/view")
    assert visitor.who() == "bob"
    visitor.close()
    assert visitor.who() == ("bob" if permanent else "nobody")


def remember_token(app: flask.Flask, user: str) -> str:
    """A remember-me cookie as Flask-Login makes them."""
    with app.app_context():
        return str(flask_login.encode_cookie(user))


def test_an_old_remember_me_cookie_is_not_accepted(clock: Clock) -> None:
    """One from before the move to these sessions, or a stolen one, logs nobody in, and the browser loses it."""
    app = shop(clock)
    visitor = Visitor(app, clock)
    visitor.jar["remember_token"] = (remember_token(app, "alice"), None, "")
    visitor.jar["other"] = ("kept", None, "")
    app.add_url_rule("/cookies", "cookies", lambda: flask.jsonify(flask.request.cookies))
    assert visitor.get("/cookies") == '{"other":"kept"}\n'
    assert "remember_token" not in visitor.jar
    assert visitor.who() == "nobody"


def test_a_remember_me_cookie_that_is_named_later_is_not_accepted(clock: Clock) -> None:
    """Flask-Login asks for the cookie's name in each request: what is configured after ``RollSessions(app)`` counts."""
    app = shop(clock)
    app.config["REMEMBER_COOKIE_NAME"] = "keep_me"
    visitor = Visitor(app, clock)
    visitor.jar["keep_me"] = (remember_token(app, "alice"), None, "")
    answer = visitor.fetch("/who")
    assert answer.body == b"nobody"
    assert [each for each in answer.set_cookies if each.startswith("keep_me=;") and "Max-Age=0" in each]


def test_flask_login_under_another_identity_key_is_warned_of(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """``logout_user()`` ends nothing if another key says who is logged in: that is said at the first login, once."""
    visitor = Visitor(shop(clock, ROLLSESSION_IDENTITY_KEY="user_id"), clock)
    assert "Flask-Login" not in caplog.text
    for _ in range(2):
        visitor.get("/login/alice")
    assert caplog.text.count("logout_user() ends no session") == 1


def test_the_remember_me_cookie_is_not_refreshed(clock: Clock) -> None:
    """``REMEMBER_COOKIE_REFRESH_EACH_REQUEST`` does not bring it back."""
    visitor = Visitor(shop(clock, REMEMBER_COOKIE_REFRESH_EACH_REQUEST=True), clock)
    visitor.get("/login/alice")
    visitor.who()
    assert "remember_token" not in visitor.jar


def test_opting_back_in(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """``ROLLSESSION_REMEMBER_COOKIE`` brings Flask-Login's cookie back, and what the warning says of it is so."""
    shop(clock)
    assert "logs in again after a logout" not in caplog.text
    app = shop(clock, ROLLSESSION_REMEMBER_COOKIE=True)
    assert "logs in again after a logout" in caplog.text
    visitor = Visitor(app, clock)
    visitor.get("/login/alice?remember=1")
    assert "remember_token" in visitor.jar
    thief = visitor.copied()
    visitor.get("/do/logout_user")
    assert "remember_token" not in visitor.jar
    assert (visitor.who(), thief.who()) == ("nobody", "alice")


# Errors


def fail() -> None:
    """What the application does wrong."""
    raise ZeroDivisionError


def log_in_and(then: Callable[[], Any]) -> Callable[[], str]:
    """A view that logs bob in, fills his cart, and then does something."""

    def view() -> str:
        flask_login.login_user(User("bob"))
        flask.session["cart"] = ["bob's"]
        then()
        return ""

    return view


@pytest.mark.parametrize("before", ["", "alice"])
def test_an_error_after_a_login(before: str, clock: Clock) -> None:
    """A view that raises after a login has logged nobody in, and taken nothing away; its error page can still flash."""
    app = shop(clock)
    during(app, log_in_and(fail))
    app.add_url_rule("/show", "show", lambda: flask.jsonify(flask.get_flashed_messages()))
    app.register_error_handler(500, lambda error: (flask.flash("Sorry.") or "sorry", 500))
    visitor = Visitor(app, clock)
    if before:
        visitor.get(f"/login/{before}")
    visitor.get("/add/tea")
    thief = visitor.copied()
    assert visitor.get("/view") == "sorry"
    assert visitor.who() == (before or "nobody")
    assert visitor.get("/data") == '{"cart":["tea"]}\n'
    assert visitor.get("/show") == '["Sorry."]\n'
    assert thief.who() == (before or "nobody")


def test_an_error_that_the_application_handles_is_an_answer(clock: Clock) -> None:
    """A login before ``abort(404)``, or an exception that has an ``errorhandler``, counts, as with Flask's own."""
    app = shop(clock)
    app.add_url_rule("/abort", "abort", log_in_and(lambda: flask.abort(404)))
    during(app, log_in_and(fail))
    app.register_error_handler(ZeroDivisionError, lambda error: "handled")
    for path in ("/abort", "/view"):
        visitor = Visitor(app, clock)
        visitor.get(path)
        assert visitor.who() == "bob"


def test_an_error_in_after_request(clock: Clock) -> None:
    """It comes before the session is sent: nothing is begun."""
    app = shop(clock)

    @app.after_request
    def broken(response: flask.Response) -> flask.Response:
        if "fail" in flask.request.args and response.status_code == 200:
            raise ZeroDivisionError
        return response

    visitor = Visitor(app, clock)
    assert visitor.receive(visitor.fetch("/login/alice?fail=1")).status.startswith("500")
    assert visitor.who() == "nobody"


@pytest.mark.parametrize("handler", ["SessionTooLarge", "500", "none"])
def test_a_login_that_is_too_large(handler: str, clock: Clock) -> None:
    """It is an error that Flask's handlers see, and who was logged in before still is, with the same data."""
    app = shop(clock)
    during(app, log_in_and(lambda: flask.session.update(large="x" * 5000)))
    if handler == "SessionTooLarge":
        app.register_error_handler(SessionTooLarge, lambda error: (f"too large: {error}", 413, {"X-Page": "its own"}))
    elif handler == "500":
        app.register_error_handler(500, lambda error: (repr(error.original_exception), 500))

    @app.after_request
    def mark(response: flask.Response) -> flask.Response:
        response.headers["X-Marked"] = "yes"
        return response

    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    visitor.get("/add/tea")
    answer = visitor.receive(visitor.fetch("/view"))
    assert answer.status[:3] == ("413" if handler == "SessionTooLarge" else "500")
    assert answer.header("X-Marked") == "yes"
    assert answer.set_cookies == []
    if handler != "none":
        assert "'large'" in answer.body.decode()
    assert (visitor.who(), visitor.get("/data")) == ("alice", '{"cart":["tea"]}\n')


def test_an_error_page_that_is_too_large(clock: Clock) -> None:
    """An errorhandler whose own session does not fit is called once; then it is Flask's page, and nothing is kept."""
    app, called = shop(clock), []

    def page(error: Exception) -> tuple[str, int]:
        called.append(error)
        flask.session["large"] = "x" * 5000
        return "too large", 413

    app.register_error_handler(SessionTooLarge, page)
    during(app, lambda: flask.session.update(large="x" * 5000) or "")
    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    assert visitor.receive(visitor.fetch("/view")).status.startswith("500")
    assert len(called) == 1
    assert (visitor.who(), visitor.get("/data")) == ("alice", "{}\n")


def test_a_nested_value_that_nothing_can_carry(clock: Clock) -> None:
    """It is found when the response is ready, Flask's handlers see it, and the session is as it was."""
    app = shop(clock, ROLLSESSION_RENEW_AFTER=0)
    during(app, lambda: str(flask.session["cart"].append(object())))  # type: ignore[func-returns-value]
    app.register_error_handler(SessionValueError, lambda error: (str(error), 400))
    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    visitor.get("/add/tea")
    answer = visitor.receive(visitor.fetch("/view"))
    assert (answer.status[:3], answer.body) == ("400", b"session['cart']: JSON cannot carry a object")
    assert (visitor.who(), visitor.get("/data")) == ("alice", '{"cart":["tea"]}\n')


def test_a_login_over_a_session_that_has_died(clock: Clock) -> None:
    """bob logs in over alice's session, which is revoked meanwhile: a conflict, and nobody has anything of hers."""
    app = shop(clock)
    app.register_error_handler(SessionConflict, lambda error: ("conflict", 409))

    @app.route("/switch/<how>")
    def switch(how: str) -> str:
        flask.session.get("cart")
        app.extensions["rollsession"].sessions.revoke("user:alice")
        if how == "key":
            flask.session["_user_id"] = "bob"
        else:
            flask_login.login_user(User("bob"))
        return "in"

    for how in ("key", "login_user"):
        visitor = Visitor(app, clock)
        visitor.get("/login/alice")
        visitor.get("/add/tea")
        assert visitor.get(f"/switch/{how}") == "conflict"
        assert (visitor.who(), visitor.get("/data")) == ("nobody", "{}\n")


@pytest.mark.parametrize("do", ["invalidate", "save"])
def test_what_was_done_at_once_stays_done(do: str, clock: Clock) -> None:
    """A view that raises after ``invalidate()``, or after a logout that was saved, has logged out."""
    app = shop(clock)

    def view() -> str:
        if do == "invalidate":
            session.invalidate()
        else:
            flask_login.logout_user()
            session.save()
        raise ZeroDivisionError

    during(app, view)
    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    thief = visitor.copied()
    assert visitor.receive(visitor.fetch("/view")).status.startswith("500")
    assert list(visitor.jar) == ["__Host-session-slot"]
    assert thief.who() == "nobody"


def test_a_body_that_is_replaced_is_closed(clock: Clock) -> None:
    """The response that an error handler's takes the place of is closed, and its callbacks are called."""
    app, closed = plain(clock), []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"never seen"])

        def close(self) -> None:
            closed.append("body")

    def view() -> flask.Response:
        flask.session["large"] = "x" * 5000
        response = flask.Response(Body())  # type: ignore[arg-type]
        response.call_on_close(lambda: closed.append("callback"))
        return response

    during(app, view)

    def page(error: Exception) -> flask.Response:
        response = flask.Response("too large", 413)
        response.call_on_close(lambda: closed.append("page"))
        return response

    app.register_error_handler(SessionTooLarge, page)
    answer = Visitor(app, clock).fetch("/view")
    assert (answer.body, answer.header("Content-Length")) == (b"too large", "9")
    assert sorted(closed) == ["body", "callback", "page"]


@pytest.mark.parametrize("policy", ["degrade", "closed"])
def test_a_logout_in_an_outage(policy: str, clock: Clock) -> None:
    """A logout that the store did not confirm is an error: 503, and the page for it can make the browser forget."""
    store = Store(clock)
    app = shop(clock, ROLLSESSION_REVOCATIONS=store, ROLLSESSION_OUTAGE=policy)
    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    thief = visitor.copied()
    store.down = True
    answer = visitor.receive(visitor.fetch("/do/logout_user"))
    assert (answer.status[:3], answer.header("Retry-After"), answer.set_cookies) == ("503", "1", [])
    store.down = False
    assert visitor.who() == "alice"

    def unconfirmed(error: Exception) -> tuple[str, int]:
        session.forget()
        return "Please close your browser.", 503

    app.error_handler_spec[None][None][StoreUnavailable] = unconfirmed
    store.down = True
    assert visitor.get("/do/logout_user") == "Please close your browser."
    store.down = False
    assert (visitor.who(), thief.who()) == ("nobody", "alice")


def test_an_outage_by_policy(clock: Clock) -> None:
    """``closed``: who presents a session gets 503 from every view. ``degrade``: the login goes on being read."""
    for policy, expected in (("closed", "503"), ("degrade", "200")):
        store = Store(clock)
        app = shop(clock, ROLLSESSION_REVOCATIONS=store, ROLLSESSION_OUTAGE=policy, ROLLSESSION_IDLE_TIMEOUT="1h")
        visitor = Visitor(app, clock)
        visitor.get("/login/alice")
        lookup = app.extensions["rollsession"].sessions.revocations
        store.down = True
        lookup.lookup = lookup.lookup_now  # a load asks the store too
        assert Visitor(app, clock).fetch("/untouched").status.startswith("200")
        for path in ("/untouched", "/who"):
            assert visitor.fetch(path).status[:3] == expected


def test_handlers_of_the_application_stay(clock: Clock) -> None:
    """An ``errorhandler(StoreUnavailable)`` that was there before is not replaced."""
    app = flask.Flask("shop")
    app.config.update(ROLLSESSION_KEYS=KEY, ROLLSESSION_REVOCATIONS="memory://")

    @app.errorhandler(StoreUnavailable)
    def ours(error: Exception) -> str:
        return "ours"

    RollSessions(app)
    assert app.error_handler_spec[None][None][StoreUnavailable] is ours


@pytest.mark.parametrize("kind", [RollSessionError, Exception])
def test_handlers_for_all_errors_see_an_outage(kind: type[Exception], clock: Clock) -> None:
    """The application's ``errorhandler(RollSessionError)`` comes before the page that is there without one."""
    store = Store(clock)
    app = shop(clock, ROLLSESSION_REVOCATIONS=store)
    app.register_error_handler(kind, lambda error: (type(error).__name__, 503))
    visitor = Visitor(app, clock)
    visitor.get("/login/alice")
    store.down = True
    assert visitor.get("/do/logout_user") == "StoreUnavailable"


def test_an_interface_of_the_application(clock: Clock) -> None:
    """A subclass of the interface, without the extension: a view that raises has logged nobody in."""

    class Interface(FlaskSessionInterface):
        """The application's."""

    app = shop(clock)
    app.session_interface = Interface(app)
    del app.extensions["rollsession"]
    during(app, log_in_and(fail))
    visitor = Visitor(app, clock)
    visitor.get("/view")
    assert visitor.who() == "nobody"


def test_a_session_that_cannot_be_opened_has_an_error_page(clock: Clock) -> None:
    """What fails before the session is there gets Flask's 500 page, and the log only the error itself."""
    app = plain(clock)
    answer = Visitor(app, clock).fetch("/", **{"wsgi.multiprocess": True})
    assert answer.status.startswith("500")


# Flask-WTF


def test_csrf(clock: Clock) -> None:
    """Flask-WTF's token is in the session: it is accepted from whoever got it, before and after the login."""
    app = shop(clock)
    CSRFProtect(app)

    class Form(FlaskForm):  # type: ignore[misc]  # Flask-WTF has no types
        name = StringField()

    app.add_url_rule("/token", "token", lambda: Form().csrf_token.current_token)
    app.add_url_rule("/post", "post", lambda: str(Form().validate_on_submit()), methods=["POST"])
    client, other = app.test_client(), app.test_client()
    base = "https://localhost"
    token = client.get("/token", base_url=base).text
    for _ in range(2):
        headers = {"Referer": base}
        data = {"name": "tea", "csrf_token": token}
        assert client.post("/post", data=data, base_url=base, headers=headers).text == "True"
        assert other.post("/post", data=data, base_url=base, headers=headers).status_code == 400
        assert client.post("/post", data={"name": "tea"}, base_url=base, headers=headers).status_code == 400
        client.get("/login/alice", base_url=base)


# The adapter itself


AT_RANDOM = Framework(
    identity="_user_id",
    login=lambda given, user: flask_login.login_user(User(user)),
    logout=lambda given: flask_login.logout_user(),
    session=lambda given: flask.session,
    values=(
        *VALUES,
        lambda: datetime(2026, 1, 1, tzinfo=timezone.utc),
        lambda: (1, b"2"),
        lambda: {" t": [1], "x": []},
    ),
    acts={
        "clear": lambda given: flask.session.clear(),
        "invalidate": lambda given: session.invalidate(),
        "regenerate": lambda given: session.regenerate(),
        "key": lambda given: flask.session.__setitem__("_user_id", "carol"),
        "save": lambda given: session.save(),
        "revert": lambda given: session.revert(),
        "modified": lambda given: flask.session.modified,
        "permanent": lambda given: setattr(flask.session, "permanent", True),
        "flash": lambda given: flask.flash("hello"),
        "flashed": lambda given: flask.get_flashed_messages(),
    },
)


@pytest.mark.parametrize("seed", range(0, 200, 50))
def test_random_views(clock: Clock, seed: int) -> None:
    """What a view sees at its end is what the next request finds, and no copy from before a logout is anybody's."""
    app = shop(clock)
    app.add_url_rule("/", "view", lambda: flask.request.environ["test.holder"].update(result=_handled()) or "")
    for each in range(seed, seed + 50):
        play(each, Browser(app, clock), AT_RANDOM)


def _handled() -> Any:
    return flask.request.environ["test.handler"](None)


def test_the_page_of_the_documentation(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The six lines of docs/flask.md make an application, and its error page makes the browser forget."""
    page = (ROOT / "docs" / "flask.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("ROLLSESSION_KEYS", KEY)
    app = flask.Flask("shop")
    names: dict[str, Any] = {"app": app, "os": os}
    exec(blocks[0].replace("sqlite:////var/lib/shop/revocations.db", "memory://"), names)
    exec(blocks[1], names)
    for line in re.findall(r"^    session\.(?:rollsession\.)?(\w+)", blocks[2], re.MULTILINE):
        assert line == "rollsession" or hasattr(FlaskSession, line) or hasattr(Session, line)
    assert isinstance(names["rollsessions"], RollSessions)
    during(app, lambda: flask.session.update(_user_id="alice") or "")

    def down() -> str:
        raise StoreUnavailable

    app.add_url_rule("/down", "down", down)
    visitor = Visitor(app, Clock(time.time()))
    visitor.get("/view")
    assert "confirmed" in visitor.get("/down")
    assert list(visitor.jar) == ["__Host-session-slot"]
    for name in ("REMEMBER_COOKIE", "UNREMEMBERED_IDLE_TIMEOUT", "UNREMEMBERED_ABSOLUTE_TIMEOUT", "IDENTITY_KEY"):
        assert f"`ROLLSESSION_{name}` |" in page


def test_names_are_public() -> None:
    """``flask.session`` is what ``wsgi_rollsession.flask.session`` is, with its type."""
    assert sorted(adapter.__all__) == ["FlaskSession", "FlaskSessionInterface", "RollSessions", "session"]
    app = plain()
    with app.test_request_context():
        assert isinstance(flask.session._get_current_object(), FlaskSession)  # type: ignore[attr-defined]
        session["a"] = 1
        assert flask.session["a"] == 1
