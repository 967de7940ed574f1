"""``flask.session``: what the application sees, and what it does to the session of the core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionMixin

from ..session import Session
from ..settings import Duration
from .configuration import Configuration
from .login import REMEMBER, Passing
from .tagged import SCALARS, Live

#: Where Flask keeps whether the session is permanent, and the messages of ``flash()``.
PERMANENT, FLASHES = "_permanent", "_flashes"

_ABSENT = object()


class FlaskSession(SessionMixin):
    """``flask.session``: a mapping from strings to what Flask's tagged JSON carries. Nested changes are noticed.

    What is known of the session (``id``, ``tags``, ``expires``, …) is asked of ``rollsession``; were these attributes
    of this one, a template's ``{{ session.id }}`` would no longer find the key.

    Args:
        core: the session itself.
        configuration: the application's.
        serializer: makes JSON of what JSON does not carry.
        passing: Flask-Login's; None: it is not there, or does not say who is logged in.
    """

    def __init__(
        self,
        core: Session,
        configuration: Configuration,
        serializer: TaggedJSONSerializer,
        passing: Passing | None,
    ) -> None:
        #: The session itself, to be asked only: what is changed there, this one does not see.
        self.rollsession = core
        self._core = core
        self._configuration = configuration
        self._tag = serializer.tag
        self._live = Live(core, serializer)
        self._passing = passing
        self._accessed = False  # Flask sets it, since 3.1.3
        self._modified = False
        self._discarded = False  # modified = False
        self._new: bool | None = None
        self._permanent: bool | None = None  # as this request has set it
        self._given: set[str] = set()  # arguments that regenerate() was given
        self._begins = False  # regenerate() was called for a login
        self._over_somebody: bool | None = None  # whether somebody was logged in before; None: not looked yet
        #: Whether the request has a remember-me cookie that is not accepted.
        self.presents_remember_cookie = False
        #: Whether an error was found when the response was ready, and the response is the page for it.
        self.has_error_page = False

    # The mapping

    def __getitem__(self, key: str) -> Any:
        if key == REMEMBER and self._passing is not None:
            return self._passing[key]
        return self._live[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if self._passing is not None and self._passing.takes(key, value):
            return
        is_scalar = value.__class__ in SCALARS
        is_identity = key == self._configuration.identity_key
        if is_identity:
            self._look_who()
        as_it_is = is_scalar or is_identity
        self._core[key] = value if as_it_is else self._tag(value)
        if is_scalar:
            self._live.pop(key, None)
            if key == PERMANENT:
                self._permanent = bool(value)
        else:
            self._live[key] = value
        self._touch()

    def __delitem__(self, key: str) -> None:
        if key == REMEMBER and self._passing is not None:
            del self._passing[key]
            return
        if key == self._configuration.identity_key:
            self._look_who()
        del self._core[key]
        self._live.pop(key, None)
        self._touch()

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        """Remove *key* and return its value; if it is not there, *default*, else ``KeyError``.

        Of the identity key, it is a logout, even if it is not there. Flashed messages that a streamed page, or a test,
        looks at after the headers were sent stay for the next page, as with Flask's own sessions.
        """
        if key == REMEMBER and self._passing is not None:
            return self._passing.pop(key) if default is _ABSENT else self._passing.pop(key, default)
        if key == FLASHES and self._core.committed:
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
        if key == REMEMBER and self._passing is not None:
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
        self._live.keep_held()
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
        self._live.keep_held()

    def revert(self) -> None:
        """Go back to what was loaded, or last saved. See ``Session.revert``."""
        self._core.revert()
        self.forget_changes()

    # For the interface

    def sync(self) -> None:
        """Let the core see what has changed inside of values. That is no assignment: it does not follow a login."""
        self._live.sync()

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
        wanted: Mapping[str, Any] = {}
        if self._passing is not None:
            wanted, self._passing.wanted = self._passing.wanted, {}
        self._regenerate(None if "tags" in self._given else (), wanted)

    def _touch(self) -> None:
        self._modified, self._discarded = True, False

    def _identity(self) -> str | None:
        """Who is logged in by now."""
        key = self._configuration.identity_key
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
        self._live.keep_held()
        self._touch()

    def _lifetime(self) -> Mapping[str, Any]:
        """How long a login lasts for which nothing else was asked: for Flask, that is ``permanent``."""
        permanent = self._permanent
        if permanent is None:  # that of another user does not count
            permanent = bool(self._core.get(PERMANENT)) and not self._over_somebody
        return {"persistent": True} if permanent else self._configuration.unremembered
