"""``flask.session`` that stays logged out: ``RollSessions(app)``. docs/flask.md begins with an example."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, cast

import flask
from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionInterface, SessionMixin
from flask.signals import got_request_exception
from werkzeug.datastructures import ImmutableMultiDict

from .errors import ConfigurationError, RollSessionError, StoreUnavailable
from .session import Session
from .sessions import SESSION, Sessions
from .settings import Duration, seconds

__all__ = ["FlaskSession", "FlaskSessionInterface", "RollSessions", "session"]

log = logging.getLogger("wsgi_rollsession")

PREFIX = "ROLLSESSION_"
#: Where the environ holds the session as Flask has it.
FLASK_SESSION = "wsgi_rollsession.flask"
#: The key under which Flask-Login keeps who is logged in.
USER_ID = "_user_id"

_PERMANENT = "_permanent"
_FLASHES = "_flashes"
_REMEMBER, _REMEMBER_S = "_remember", "_remember_seconds"  # Flask-Login's, during one request
_FLASK_LIFETIME = timedelta(days=31)  # Flask's own default: nobody has asked for it
_ABSENT = object()
_SCALARS = frozenset((str, int, float, bool, type(None)))


class RollSessions:
    """Gives a Flask application sessions that stay logged out.

        app.config.update(ROLLSESSION_KEYS=…, ROLLSESSION_REVOCATIONS="sqlite:////var/lib/shop/revocations.db")
        rollsessions = RollSessions(app)

    The configuration is read once, here or in ``init_app``.

    Args:
        app: the application, if it is there already.

    Raises:
        ConfigurationError: names the key, what it requires and what it received.
    """

    def __init__(self, app: flask.Flask | None = None) -> None:
        self._app: flask.Flask | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Give *app* its sessions. Raises ``ConfigurationError``."""
        interface = FlaskSessionInterface(app)
        app.session_interface = interface
        app.extensions["rollsession"] = interface
        got_request_exception.connect(interface.failed, app)
        if interface.sessions.settings.outage.value == "closed":
            app.before_request(interface.require_store)
        handlers = app.error_handler_spec[None][None]
        handlers.setdefault(StoreUnavailable, _unavailable)
        self._app = self._app or app

    @property
    def sessions(self) -> Sessions:
        """Those of the current application; outside of any, of the first that was initialised."""
        app = flask.current_app if flask.has_app_context() else self._app
        interface = None if app is None else app.extensions.get("rollsession")
        if interface is None:
            raise RuntimeError("RollSessions.init_app() was not called with this application")
        return cast(FlaskSessionInterface, interface).sessions

    def revoke(self, tag: str, *tags: str) -> None:
        """Log out everywhere: ``revoke("user:42")``. See ``Sessions.revoke``."""
        self.sessions.revoke(tag, *tags)

    def revoke_session(self, session_id: str) -> None:
        """See ``Sessions.revoke_session``."""
        self.sessions.revoke_session(session_id)

    def revoke_everything(self) -> None:
        """See ``Sessions.revoke_everything``."""
        self.sessions.revoke_everything()


class FlaskSessionInterface(SessionInterface):
    """What Flask asks for sessions. ``app.session_interface``, made by ``RollSessions``.

    Raises:
        ConfigurationError
    """

    def __init__(self, app: flask.Flask) -> None:
        #: Carries what JSON does not; ``serializer.register`` adds types.
        self.serializer = TaggedJSONSerializer()
        config = _Config(app)
        self.sessions = config.sessions
        self.identity_key = config.sessions.settings.identity_key
        #: What ``regenerate()`` is told of a login that is neither permanent nor to be remembered.
        self.unremembered: Mapping[str, Any] = config.unremembered
        self._unshared = not self.sessions.revocations.shared
        self._nested = False
        #: Whether Flask-Login is there, and says by ``identity_key`` who is logged in.
        self.follows_flask_login = False
        #: Flask-Login's remember-me cookie, where it is neither set nor accepted.
        self._remember_cookie: str | None = None
        if self.identity_key == USER_ID:
            self._follow_flask_login(app, remember_cookie=config.remember_cookie)

    @property
    def hides_remember_cookie(self) -> bool:
        """Whether Flask-Login's remember-me cookie is neither set nor accepted."""
        return self._remember_cookie is not None

    def open_session(self, app: flask.Flask, request: flask.Request) -> FlaskSession:
        """The session of a request, not loaded. Called by Flask."""
        environ = request.environ
        if self._unshared and environ.get("wsgi.multiprocess"):
            raise ConfigurationError(
                "ROLLSESSION_REVOCATIONS: requires a store that all processes share, such as"
                " sqlite:////var/lib/shop/revocations.db, received one that only this process sees;"
                " a logout would not reach the others"
            )
        outer = environ.get(SESSION)
        if outer is not None and not self.sessions.owns(outer):
            core = self._outer(outer)
        else:
            core = self.sessions.begin(environ)
        opened = environ[FLASK_SESSION] = FlaskSession(core, self)
        name = self._remember_cookie
        if name is not None and f"{name}=" in environ.get("HTTP_COOKIE", "") and name in request.cookies:
            # It logs in whoever shows it, after a logout and after revoke() too.
            others = [(key, value) for key, value in request.cookies.items(multi=True) if key != name]
            request.cookies = ImmutableMultiDict(others)
            opened.presents_remember_cookie = True
        return opened

    def save_session(self, app: flask.Flask, session: SessionMixin | None, response: flask.Response) -> None:
        """Put the session's cookies into the response. Called by Flask.

        Raises:
            RollSessionError: as ``Sessions.commit``, if the application has no ``errorhandler`` for it.
        """
        if not isinstance(session, FlaskSession):  # it was not opened: Flask shows the page for that
            return
        environ = flask.request.environ
        if environ.get(SESSION) is not None and not self.sessions.owns(environ[SESSION]):
            session.sync()
            return
        try:
            session.settle()
            held = list(response.headers)
            headers = self.sessions.commit(session.rollsession, response.status, held, environ)
        except RollSessionError as error:
            session.fail()
            # Flask shows errorhandler() what views raise, and this is raised later. Without a handler it goes on.
            _replace(response, app.process_response(app.make_response(app.handle_user_exception(error))))
            return
        if headers is not held:
            response.headers.clear()
            response.headers.extend(headers)
        if session.accessed:
            response.vary.add("Cookie")
        if session.presents_remember_cookie:
            self._delete_remember_cookie(app, response)

    def require_store(self) -> None:
        """``outage="closed"``: a request that presents a session is served only if the store can be asked."""
        session = _current()
        if session is not None and session.rollsession.presented:
            bool(session)  # loads it, which asks

    def failed(self, app: flask.Flask, **_: Any) -> None:
        """Nobody has handled what the application raised: what it did to the session until then is not kept."""
        session = _current()
        if session is not None:
            session.fail()

    def _outer(self, outer: Session) -> Session:
        if not self._nested:
            self._nested = True
            log.warning("a RollSession is around this Flask application: its session serves both")
        return outer

    # Flask-Login

    def _follow_flask_login(self, app: flask.Flask, *, remember_cookie: bool) -> None:
        try:
            from flask_login import user_logged_in, user_logged_out
        except ImportError:
            return
        self.follows_flask_login = True
        user_logged_in.connect(self.logged_in, app)
        user_logged_out.connect(self.logged_out, app)
        if remember_cookie:
            log.warning(
                "ROLLSESSION_REMEMBER_COOKIE: Flask-Login's remember-me cookie is a signed user id;"
                " a copy of it logs in again after a logout, and after revoke()"
            )
        else:
            self._remember_cookie = app.config.get("REMEMBER_COOKIE_NAME", "remember_token")

    def logged_in(self, app: flask.Flask, **_: Any) -> None:
        """``login_user()`` was called."""
        session = _current()
        if session is not None:
            session.logged_in()

    def logged_out(self, app: flask.Flask, **_: Any) -> None:
        """``logout_user()`` was called. It does not touch a session in which it finds nobody, and a newer may live."""
        session = _current()
        if session is not None:
            session.pop(USER_ID, None)

    def _delete_remember_cookie(self, app: flask.Flask, response: flask.Response) -> None:
        config = app.config
        response.delete_cookie(
            cast(str, self._remember_cookie),
            path=config.get("REMEMBER_COOKIE_PATH", "/"),
            domain=config.get("REMEMBER_COOKIE_DOMAIN"),
        )


class FlaskSession(SessionMixin):
    """``flask.session``: a mapping from strings to what Flask's tagged JSON carries. Nested changes are noticed.

    What is known of the session (``id``, ``tags``, ``expires``, …) is asked of ``rollsession``; were these attributes
    of this one, a template's ``{{ session.id }}`` would no longer find the key.
    """

    def __init__(self, core: Session, interface: FlaskSessionInterface) -> None:
        #: The session itself, to be asked only: what is changed there, this one does not see.
        self.rollsession = core
        self._core = core
        self._interface = interface
        # Values as the application has them, by key; the core holds them as JSON carries them.
        self._live: dict[str, Any] = {}
        self._accessed = False  # Flask sets it, since 3.1.3
        self._modified = False
        self._discarded = False  # modified = False
        self._new: bool | None = None
        self._permanent: bool | None = None  # as this request has set it
        # What Flask-Login tells itself until the response. Being elsewhere than in the session, it costs no loading:
        # Flask-Login looks for it in every request, also for a static file, or when the store does not answer.
        self._passing: dict[str, Any] = {}
        self._remember: dict[str, Any] = {}  # what Flask-Login wants to be remembered
        self._given: set[str] = set()  # arguments that regenerate() was given
        self._begins = False  # regenerate() was called for a login
        self._over_somebody: bool | None = None  # whether somebody was logged in before; None: not looked yet
        #: Whether the request has a remember-me cookie that is not accepted.
        self.presents_remember_cookie = False

    # The mapping

    def __getitem__(self, key: str) -> Any:
        if key == _REMEMBER and self._interface.follows_flask_login:
            return self._passing[key]
        live = self._live
        if key in live:
            return live[key]
        value = self._core[key]
        if value.__class__ not in _SCALARS:
            value = live[key] = self._untagged(value)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        if key == _REMEMBER and self._interface.follows_flask_login:
            if value == "set" and self._interface.hides_remember_cookie:
                self._remember["persistent"] = True
            else:
                self._passing[key] = value
            return
        if key == _REMEMBER_S and self._interface.hides_remember_cookie:
            self._remember["absolute_timeout"] = max(int(value), 1)
            return
        is_scalar = value.__class__ in _SCALARS
        is_identity = key == self._interface.identity_key
        if is_identity:
            self._look_who()
        as_it_is = is_scalar or is_identity
        self._core[key] = value if as_it_is else self._interface.serializer.tag(value)
        if is_scalar:
            self._live.pop(key, None)
            if key == _PERMANENT:
                self._permanent = bool(value)
        else:
            self._live[key] = value
        self._touch()

    def __delitem__(self, key: str) -> None:
        if key == _REMEMBER and self._interface.follows_flask_login:
            del self._passing[key]
            return
        if key == self._interface.identity_key:
            self._look_who()
        del self._core[key]
        self._live.pop(key, None)
        self._touch()

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        """Remove *key* and return its value; if it is not there, *default*, else ``KeyError``.

        Of the identity key, it is a logout, even if it is not there. Flashed messages that a streamed page, or a test,
        looks at after the headers were sent stay for the next page, as with Flask's own sessions.
        """
        if key == _REMEMBER and self._interface.follows_flask_login:
            return self._passing.pop(key) if default is _ABSENT else self._passing.pop(key, default)
        if key == _FLASHES and self._core.committed:
            return self.get(key) if default is _ABSENT else self.get(key, default)
        if key not in self._core:
            return self._core.pop(key) if default is _ABSENT else self._core.pop(key, default)
        value = self[key]
        del self[key]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._core)

    def __len__(self) -> int:
        return len(self._core)

    def __contains__(self, key: object) -> bool:
        if key == _REMEMBER and self._interface.follows_flask_login:
            return key in self._passing
        return key in self._core

    def clear(self) -> None:
        """Remove everything. If somebody is logged in, that is a logout, when the response starts."""
        self._core.clear()
        self.forget_changes()
        self._over_somebody = False
        self._touch()

    def copy(self) -> dict[str, Any]:
        """The data as a plain dict."""
        return dict(self)

    def __repr__(self) -> str:
        return repr(self._core)

    # As Flask has it

    @property
    def modified(self) -> bool:
        """Whether this request has changed it, nested values included; also after it was saved.

        Set to False, what was changed until then is not kept. Setting it to True is not needed.
        """
        if not self._modified and self._live and not self._core.committed:
            self.sync()
            self._modified = self._core.changed
        return self._modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified, self._discarded = value, not value

    @property
    def accessed(self) -> bool:
        """Whether the request has looked at it."""
        return self._accessed or self._core.loaded

    @accessed.setter
    def accessed(self, value: bool) -> None:
        self._accessed = value

    @property
    def new(self) -> bool:  # type: ignore[override]  # Flask's is a class attribute
        """Whether the request presented no session that is alive."""
        if self._new is None:
            self._new = self._core.version == 0
        return self._new

    # What can be done with it

    def regenerate(
        self,
        *,
        tags: Iterable[str] | None = None,
        idle_timeout: Duration | None = None,
        absolute_timeout: Duration | None = None,
        persistent: bool | None = None,
    ) -> None:
        """See ``Session.regenerate``. Of a login, what is None is decided by ``permanent``, as Flask does."""
        given = {"idle_timeout": idle_timeout, "absolute_timeout": absolute_timeout, "persistent": persistent}
        self._regenerate(tags, {name: value for name, value in given.items() if value is not None})

    def invalidate(self) -> None:
        """Log out, at once, and forget the data. See ``Session.invalidate``."""
        self._core.invalidate()
        self.forget_changes()
        self._touch()

    def revoke_others(self, tag: str) -> None:
        """Log out everywhere else, at once. See ``Session.revoke_others``."""
        self.sync()
        self._core.revoke_others(tag)
        self._refresh()
        self._touch()

    def forget(self) -> None:
        """Have this browser forget its session; it ends nothing. See ``Session.forget``."""
        self._core.forget()
        self.forget_changes()

    def save(self) -> None:
        """Do now what the response would do when it starts. See ``Session.save``."""
        self.settle()
        self._core.save()
        self._given, self._begins = set(), False
        self._refresh()

    def revert(self) -> None:
        """Go back to what was loaded, or last saved. See ``Session.revert``."""
        self._core.revert()
        self.forget_changes()

    # For the interface

    def sync(self) -> None:
        """Let the core see what has changed inside of values. That is no assignment: it does not follow a login."""
        core, tag = self._core, self._interface.serializer.tag
        for key, value in self._live.items():
            if key not in core:
                continue
            held, tagged = core[key], tag(value)
            if isinstance(held, list) and isinstance(tagged, list):
                held[:] = tagged
            elif isinstance(held, dict) and isinstance(tagged, dict):
                held.clear()
                held.update(tagged)

    def settle(self) -> None:
        """Let the core know everything that it has to do."""
        core = self._core
        if not core.loaded or core.committed:
            return
        if self._discarded and not self._modified:
            self.revert()
            return
        if self._live:
            self.sync()
            self._modified = self._modified or core.changed
        if self._begins or (core.changed and self._logs_in()):
            lifetime = self._lifetime()
            self._regenerate(None, {name: lifetime[name] for name in lifetime if name not in self._given})
        self._new = self.new

    def forget_changes(self) -> None:
        """Nothing that this request has done counts any more."""
        self._live.clear()
        self._given, self._begins, self._permanent, self._over_somebody = set(), False, None, None

    def fail(self) -> None:
        """The application has raised: as ``revert()``, if it is not too late."""
        if self._core.loaded and not self._core.committed:
            self.revert()

    def logged_in(self) -> None:
        """``login_user()``: somebody has just been authenticated."""
        remember, self._remember = self._remember, {}
        self._regenerate(None if "tags" in self._given else (), remember)

    def _touch(self) -> None:
        self._modified, self._discarded = True, False

    def _identity(self) -> str | None:
        """Who is logged in by now."""
        key = self._interface.identity_key
        user = self._core.get(key) if key is not None else None
        return str(user) if isinstance(user, (str, int)) and user is not False and user != "" else None

    def _logs_in(self) -> bool:
        """Whether somebody is logged in by now for whom the session was not begun."""
        return self._identity() is not None and self._core.version == 0

    def _look_who(self) -> None:
        """Before anybody else is: is somebody logged in?"""
        if self._over_somebody is None:
            self._over_somebody = self._core.authenticated_at is not None

    def _regenerate(self, tags: Iterable[str] | None, given: Mapping[str, Any]) -> None:
        """Call the core's, which adds to what it was told before."""
        core = self._core
        self._look_who()
        self.sync()
        core.regenerate(tags=tags, **given)
        self._begins = self._begins or tags is not None or not self._over_somebody
        self._given.update(given, () if tags is None else ("tags",))
        if given.get("persistent"):
            self._permanent = True
        self._refresh()
        self._touch()

    def _lifetime(self) -> Mapping[str, Any]:
        """How long a login lasts for which nothing else was asked: for Flask, that is ``permanent``."""
        permanent = self._permanent
        if permanent is None:  # that of another user does not count
            permanent = bool(self._core.get(_PERMANENT)) and not self._over_somebody
        return {"persistent": True} if permanent else self._interface.unremembered

    def _refresh(self) -> None:
        """Keep the values that the core still has."""
        self._live = {key: value for key, value in self._live.items() if key in self._core}

    def _untagged(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._untagged(each) for each in value]
        if isinstance(value, dict):
            plain = {key: self._untagged(each) for key, each in value.items()}
            return self._interface.serializer.untag(plain)
        return value


class _Config:
    """What an application's configuration says.

    Raises:
        ConfigurationError
    """

    def __init__(self, app: flask.Flask) -> None:
        config = app.config
        given = {key.removeprefix(PREFIX).lower(): config[key] for key in config if key.startswith(PREFIX)}
        #: The key of the configuration that an option is from.
        self._names: dict[str, str] = {}
        self.remember_cookie = given.pop("remember_cookie", False)
        if not isinstance(self.remember_cookie, bool):
            raise ConfigurationError(
                f"ROLLSESSION_REMEMBER_COOKIE: requires True or False, received {self.remember_cookie!r}"
            )
        idle = given.pop("unremembered_idle_timeout", "1h")
        absolute = given.pop("unremembered_absolute_timeout", "24h")
        self.unremembered = {"persistent": False, "idle_timeout": idle, "absolute_timeout": absolute}
        self._parse(lambda: seconds("unremembered_idle_timeout", idle, smallest=1))
        self._parse(lambda: seconds("unremembered_absolute_timeout", absolute, smallest=1))
        given.setdefault("identity_key", USER_ID)
        options = {**self._of_flask(app, given), **given}
        self.sessions: Sessions = self._parse(lambda: Sessions(**options))

    def _of_flask(self, app: flask.Flask, given: Mapping[str, Any]) -> dict[str, Any]:
        """What Flask's own keys mean."""
        config = app.config
        if not config["SESSION_COOKIE_HTTPONLY"]:
            raise ConfigurationError(
                "SESSION_COOKIE_HTTPONLY: requires True, received False; scripts never need a session's cookie"
            )
        if config["SESSION_COOKIE_SECURE"] and given.get("insecure_http"):
            raise ConfigurationError(
                "SESSION_COOKIE_SECURE: requires False with ROLLSESSION_INSECURE_HTTP, received True"
            )
        if not config["SESSION_REFRESH_EACH_REQUEST"]:
            log.warning(
                "SESSION_REFRESH_EACH_REQUEST has no effect: see ROLLSESSION_ROLLING and ROLLSESSION_RENEW_AFTER"
            )
        domain, path = config["SESSION_COOKIE_DOMAIN"], config["SESSION_COOKIE_PATH"]
        found = {
            "cookie_name": ("SESSION_COOKIE_NAME", config["SESSION_COOKIE_NAME"]),
            "cookie_domain": ("SESSION_COOKIE_DOMAIN", domain.removeprefix(".") if domain else None),
            "cookie_path": (
                "SESSION_COOKIE_PATH" if path else "APPLICATION_ROOT",
                path or config["APPLICATION_ROOT"] or "/",
            ),
            "samesite": ("SESSION_COOKIE_SAMESITE", config["SESSION_COOKIE_SAMESITE"]),
            "partitioned": ("SESSION_COOKIE_PARTITIONED", config.get("SESSION_COOKIE_PARTITIONED")),
        }
        lifetime = app.permanent_session_lifetime
        if lifetime != _FLASK_LIFETIME and "idle_timeout" not in given:
            found["idle_timeout"] = "PERMANENT_SESSION_LIFETIME", lifetime
            if lifetime > timedelta(days=1):
                found["absolute_timeout"] = "PERMANENT_SESSION_LIFETIME", lifetime
        found = {option: pair for option, pair in found.items() if option not in given and pair[1] is not None}
        self._names = {option: name for option, (name, _) in found.items()}
        return {option: value for option, (_, value) in found.items()}

    def _parse(self, parse: Any) -> Any:
        """The result of *parse*, whose errors name the option as the configuration does."""
        try:
            return parse()
        except ConfigurationError as error:
            option, colon, rest = str(error).partition(":")
            name = self._names.get(option, PREFIX + option.upper())
            raise ConfigurationError(f"{name}{colon}{rest}") from None


def _current() -> FlaskSession | None:
    """The session of the current request, if it has been opened."""
    found: FlaskSession | None = flask.request.environ.get(FLASK_SESSION) if flask.has_request_context() else None
    return found


def _replace(response: flask.Response, other: flask.Response) -> None:
    """Let *response*, which Flask is about to return, be *other*."""
    if hasattr(response.response, "close"):
        response.call_on_close(response.response.close)
    response.response, response.direct_passthrough = other.response, other.direct_passthrough
    response.status, response.headers = other.status, other.headers
    response.call_on_close(other.close)


def _unavailable(error: Exception) -> flask.Response:
    """For an application without an ``errorhandler(StoreUnavailable)``. The store has logged why."""
    body = "The session cannot be checked at the moment. Please try again.\n"
    headers = {"Cache-Control": "no-store", "Retry-After": "1"}
    return flask.Response(body, 503, headers, mimetype="text/plain")


#: ``flask.session``, for type checkers, which know nothing of ``regenerate()`` and the others there.
session = cast(FlaskSession, flask.session)
