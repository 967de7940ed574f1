"""``environ["beaker.session"]``, for applications that leave Beaker. See docs/beaker.md.

    application = SessionMiddleware(application, keys=…, revocations=…, identity_key="user_id")

Beaker itself is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .facade import Facade
from .middleware import RollSession
from .session import Session
from .sessions import SESSION
from .settings import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["BeakerSession", "SessionMiddleware"]

_set = object.__setattr__  # a BeakerSession refuses attributes
_CREATED, _ACCESSED, _ID = "_creation_time", "_accessed_time", "_id"


class SessionMiddleware(RollSession):
    """The filter, in the place of Beaker's ``SessionMiddleware``.

    Args:
        application: the WSGI application.
        environ_key: where it looks for its session.
        auto: as Beaker's ``session.auto``. False: what a request has changed is kept if it calls ``save()``.
        options: see docs/configuration.md; ``keys``, ``revocations`` and ``identity_key`` are what counts.

    Raises:
        ConfigurationError: names the option, what it requires and what it received.
    """

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        *,
        environ_key: str = "beaker.session",
        auto: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(_Inside(application, environ_key, auto=auto), **options)


class _Inside:
    """The application, with the session under its old name."""

    def __init__(self, application: Callable[..., Iterable[bytes]], environ_key: str, *, auto: bool) -> None:
        self._application = application
        self._environ_key = environ_key
        self._auto = auto

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        session = environ[self._environ_key] = BeakerSession(environ[SESSION], auto=self._auto)
        if self._auto:  # nothing has to be forgotten when the response starts
            return self._application(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            session.persist()
            return start_response(status, headers) if exc_info is None else start_response(status, headers, exc_info)

        return self._application(environ, start)


class BeakerSession(Facade):
    """``environ["beaker.session"]``. What Beaker's does not have is that of ``Session``, in ``rollsession``.

    Args:
        session: the package's own.
        auto: whether changes are kept without ``save()``.
    """

    __slots__ = ("_auto", "_is_saved")

    def __init__(self, session: Session, *, auto: bool = False) -> None:
        self.rollsession: Session
        self._auto: bool
        self._is_saved: bool
        _set(self, "rollsession", session)
        _set(self, "_auto", auto)
        _set(self, "_is_saved", False)

    # The mapping

    def __getitem__(self, key: str) -> Any:
        try:
            return self.rollsession[key]
        except KeyError:
            if key in (_CREATED, _ACCESSED, _ID):  # Beaker keeps them among the data
                return {_CREATED: self.created, _ACCESSED: self.last_accessed, _ID: self.id}[key]
            raise

    def has_key(self, key: str) -> bool:
        """As ``in``."""
        return key in self

    def __setattr__(self, name: str, value: object) -> None:
        options = {"domain": "cookie_domain", "path": "cookie_path", "timeout": "idle_timeout"}
        hint = f"the option {options[name]}" if name in options else f"session[{name!r}] = …"
        raise AttributeError(f"a session keeps no attributes: {hint}")

    # As Beaker has it

    @property
    def id(self) -> str:
        """That of the login. It opens nothing."""
        return self.rollsession.id

    @property
    def is_new(self) -> bool:
        """Whether no response has carried it yet."""
        return self.rollsession.version == 0

    @property
    def created(self) -> float:
        """When it began, or now, in Unix seconds."""
        return _seconds(self.rollsession.created) or time.time()

    @property
    def last_accessed(self) -> float | None:
        """The last activity that extended it, in Unix seconds."""
        return _seconds(self.rollsession.last_activity)

    def save(self, accessed_only: bool = False) -> None:
        """Have the response keep what has changed until it starts. ``rollsession.save()`` does it at once."""
        _set(self, "_is_saved", self._is_saved or not accessed_only)

    def persist(self) -> None:
        """Called when the response starts: what was not saved is forgotten."""
        session = self.rollsession
        if not self._auto and not self._is_saved and session.loaded and not session.committed:
            session.revert()

    def dirty(self) -> bool:
        """Whether ``save()`` was called."""
        return self._is_saved

    def accessed(self) -> bool:
        """Whether anybody has looked at it in this request."""
        return self.rollsession.loaded

    def load(self) -> None:
        """Nothing: it is loaded when somebody looks."""

    def revert(self) -> None:
        """Go back to what was loaded."""
        self.rollsession.revert()

    def delete(self) -> None:
        """Log out, at once. Raises ``StoreUnavailable``: the session may still be alive."""
        self.rollsession.invalidate()
        self.save()

    def regenerate_id(self) -> None:
        """``Session.regenerate()``: cookies from before are dead."""
        self.rollsession.regenerate()
        self.save()

    def lock(self) -> None:
        """Nothing: a session has no lock. ``versioned`` tells two writes apart."""

    unlock = lock

    def get_by_id(self, id: str) -> Any:
        """Refused."""
        raise NotImplementedError(
            "get_by_id: a session is in its browser's cookies, and nowhere else; RollSession.revoke_session(id) ends it"
        )


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
