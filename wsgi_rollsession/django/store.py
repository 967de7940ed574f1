"""``request.session``: Django's ``SessionBase`` over a session of the core."""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import datetime, timezone
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, load_backend
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare
from django.utils.functional import cached_property
from django.utils.module_loading import import_string

from .. import Session, SessionConflict
from .configuration import identity_tag, sessions

#: Where Django keeps what ``set_expiry()`` was given.
EXPIRY = "_session_expiry"
#: Django can save a session without data. The core begins one when something is stored.
PLACEHOLDER = "_rollsession"


class SessionStore(SessionBase):
    """What ``request.session`` is. Everything that Django's documentation shows works; nested changes are noticed.

    Args:
        session: that of the request.
    """

    def __init__(self, session: Session) -> None:
        # Not by Django's own, which imports a serializer for each request.
        self._session_key = None
        self.accessed = self.modified = False
        #: The session of the core, for what Django has no name for: ``id``, ``authenticated_at``, ``expires``,
        #: ``ended``, ``check()``, ``regenerate(tags=…)``, ``revoke_others()``.
        self.rollsession = session
        self._looked = False  # whether anybody has looked at the data
        self._cycled = False  # ``cycle_key()`` was called, by the user who is logged in
        self._held: tuple[object, object] = (None, None)  # identity and expiry, as loaded or last saved

    @cached_property
    def serializer(self) -> Any:
        """For ``encode()`` and ``decode()``, which nothing here uses."""
        return import_string(settings.SESSION_SERIALIZER)

    # The data

    def _get_session(self, no_load: bool = False) -> MutableMapping[str, Any]:
        self.accessed = True
        if not self._looked:
            self._hold()
            self._looked = True
            session = self.rollsession
            if self._held[1] is not None and self.is_anonymous() and not session.committed and self._is_over():
                session.forget()
                self._hold()
        return self.rollsession

    async def _aget_session(self, no_load: bool = False) -> MutableMapping[str, Any]:
        return self._get_session() if self._looked else await sync_to_async(self._get_session)()

    _session = property(_get_session)

    def __setitem__(self, key: str, value: Any) -> None:
        data = self._session
        held = data.get(key) if key == HASH_SESSION_KEY else None
        data[key] = value
        self.modified = True
        if held and held != value and self._is_same_login():
            self._new_hash(held)

    async def aset(self, key: str, value: Any) -> None:
        await sync_to_async(self.__setitem__)(key, value)

    def clear(self) -> None:
        """Remove everything. If somebody is logged in, that is a logout, when the response starts."""
        self._session.clear()
        self.modified = True

    def load(self) -> dict[str, Any]:
        """The data as a plain dict."""
        self._get_session()
        return self.rollsession.copy()

    def is_empty(self) -> bool:
        """Whether there is no session, and none begins."""
        return not self.session_key

    # What it is

    @property
    def session_key(self) -> str | None:
        """The id of the session, or of the one that begins with this response: it names it, and does not open it."""
        session = self.rollsession
        self._get_session()
        return session.id if session.version or session.changed else None

    @property
    def identity(self) -> object:
        """Who is logged in: the value of the identity key."""
        key = sessions().settings.identity_key
        return None if key is None else self._session.get(key)

    def is_anonymous(self) -> bool:
        """Whether nobody has logged in."""
        return self.rollsession.ended is not None

    def get_session_cookie_age(self) -> int:
        """The seconds without activity that end a session; where they do not, those since the login."""
        of = sessions().settings
        return of.idle_s if of.rolls else of.absolute_ms // 1000

    # What can be done with it

    def cycle_key(self) -> None:
        """Have the response carry a login, or the next epoch of one: copies of the cookie from before stop working."""
        self._get_session()
        self.modified = True
        if self.is_anonymous():
            self.rollsession.regenerate()
        else:
            self._cycled = True  # what follows says what for

    async def acycle_key(self) -> None:
        await sync_to_async(self.cycle_key)()

    def flush(self) -> None:
        """Log out, at once: end every session that the request presented, dead or alive, and forget the data.

        Raises:
            StoreUnavailable: the store did not confirm it. **The sessions may still be alive**: tell the user.
        """
        self.rollsession.invalidate()
        self._reset()

    async def aflush(self) -> None:
        await sync_to_async(self.flush)()

    def _reset(self) -> None:
        self._looked, self._cycled, self._held = True, False, (None, None)
        self.accessed = self.modified = True

    def create(self) -> None:
        """Begin another session, without data."""
        self.flush()
        self.save(must_create=True)

    def save(self, must_create: bool = False) -> None:
        """Do now what the response would do when it starts.

        Raises:
            UpdateError: the session was ended meanwhile.
            SessionTooLarge, SessionValueError: it cannot be kept.
            StoreUnavailable
        """
        data = self._session
        if not data and not self.rollsession.version and self.is_anonymous():
            data[PLACEHOLDER] = True
        try:
            self.settle()
            self.rollsession.save()
        except SessionConflict as error:
            raise UpdateError(str(error)) from error
        self._hold()

    def exists(self, session_key: str) -> bool:
        """Whether the session is alive; for that of the request only, for there is no list of the others."""
        if session_key != self.session_key:
            raise NotImplementedError("exists() knows the session of its request only: no other is stored anywhere")
        return self.rollsession.check()

    def delete(self, session_key: str | None = None) -> None:
        """End the session, or the login with another ``session_key``, at once. Raises ``StoreUnavailable``."""
        if session_key is None or session_key == self.session_key:
            self.flush()
        else:
            sessions().revoke_session(session_key)

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing is kept that could expire."""

    # For the middleware

    def settle(self) -> None:
        """Have the core do what Django's own methods have asked for. Called before the response starts.

        Raises:
            SessionConflict, StoreUnavailable
        """
        session = self.rollsession
        if not self._looked or session.committed:
            return
        if PLACEHOLDER in session and len(session) > 1:
            del session[PLACEHOLDER]
        identity, expiry = found = self._watched()
        if found == self._held and not self._cycled:  # as for most requests
            return
        if self.is_anonymous():
            if self._is_over():
                session.forget()
            return
        if self._is_over():
            session.invalidate()
            self._reset()
            return
        is_login = identity != self._held[0]
        asked = self._lifetime(expiry) if is_login or expiry != self._held[1] else {}
        if is_login and asked == {"persistent": True}:
            asked = {}
        if self._cycled or asked:
            session.regenerate(**asked)
            self._cycled = False

    def revert(self) -> None:
        """Go back to what was loaded, or last saved: the response is an error."""
        session = self.rollsession
        if session.loaded and not session.committed:
            session.revert()
            self._cycled = False

    def is_transient(self) -> bool:
        """Whether the browser is to forget a session in which nobody is logged in when it is closed.

        (A login remembers it by itself, and nobody has looked at a session that is only rolled.)
        """
        return self._looked and self.is_anonymous() and bool(self.get_expire_at_browser_close())

    def logged_in_again(self) -> None:
        """``login()`` by the user who is logged in: they have been authenticated anew, and the deadlines begin anew."""
        if self._is_same_login():
            self._cycled = False
            self.rollsession.regenerate(tags=[identity_tag(self.identity)])

    # Lifetimes

    def _lifetime(self, expiry: Any) -> dict[str, Any]:
        """What ``set_expiry()`` asks the core for. It can shorten a login, and not lengthen it."""
        if not expiry:
            return {"persistent": not self.get_expire_at_browser_close()}
        if isinstance(expiry, str):
            begun = self.rollsession.authenticated_at or self._now()
            left = int((_moment(expiry) - begun).total_seconds())
            return {"persistent": True, "absolute_timeout": max(left, 1)}
        return {"persistent": True, "idle_timeout": max(int(expiry), 1)}

    def _is_over(self) -> bool:
        """Whether what ``set_expiry()`` was given has passed."""
        expiry = self.rollsession.get(EXPIRY)
        if isinstance(expiry, str):
            return _moment(expiry) <= self._now()
        if not expiry:
            return False
        active = self.rollsession.last_activity or self._now()
        return bool((self._now() - active).total_seconds() >= expiry)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(sessions().settings.clock(), timezone.utc)

    # Logins

    def _hold(self) -> None:
        """What was loaded, or saved just now, is what changes are compared with."""
        self._held = self._watched()

    def _watched(self) -> tuple[object, object]:
        """The identity, and the expiry that was asked for."""
        key, session = sessions().settings.identity_key, self.rollsession
        # ``in``, for most sessions have no expiry, and many have no user: that is cheaper than a KeyError.
        return (
            session[key] if key is not None and key in session else None,
            session[EXPIRY] if EXPIRY in session else None,
        )

    def _is_same_login(self) -> bool:
        """Whether somebody is logged in, and was when the session was loaded."""
        identity = self.identity
        return bool(identity) and identity == self._held[0] and self.rollsession.version > 0

    def _new_hash(self, held: str) -> None:
        """The user who is logged in has another password: ``update_session_auth_hash()``. The other sessions end.

        Unless it is the same password, under another SECRET_KEY.
        """
        self._cycled = False
        if settings.SECRET_KEY_FALLBACKS:
            backend = load_backend(self._session[BACKEND_SESSION_KEY])
            user = backend.get_user(self._session[SESSION_KEY])
            if user is not None and any(
                constant_time_compare(held, each) for each in user.get_session_auth_fallback_hash()
            ):
                return
        self.rollsession.revoke_others(identity_tag(self.identity))
        self._hold()


def _moment(text: str) -> datetime:
    """What ``set_expiry()`` made of a time; without a zone, in that of the settings, as Django's own are."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        from django.utils.timezone import get_default_timezone, make_aware

        moment = make_aware(moment, get_default_timezone())
    return moment


def _logged_in(*, request: HttpRequest | None = None, **_: object) -> None:
    store = getattr(request, "session", None)
    if isinstance(store, SessionStore):
        store.logged_in_again()


user_logged_in.connect(_logged_in, dispatch_uid="wsgi_rollsession.django")
