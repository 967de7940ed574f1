"""The mapping that the application sees. Knows no time, no cryptography and no cookies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime, timezone
from typing import Any

from . import logins, response
from .document import check
from .errors import SessionValueError
from .exchange import Exchange
from .policy import Ended
from .revocation.fence import tag_key
from .settings import Duration, seconds
from .token import MAX_TAGS, NEVER, UNLIMITED

_ABSENT = object()


class Tags(frozenset[str | bytes]):
    """A session's tags. Only their hashes are kept, so ask for a tag by its text: ``"user:42" in session.tags``."""

    __slots__ = ()

    def __contains__(self, tag: object) -> bool:
        return super().__contains__(tag_key(tag) if isinstance(tag, str) and tag else tag)


class Session(MutableMapping[str, Any]):
    """A mapping from strings to JSON values. Nested changes are noticed; tuples come back as lists.

    Every method that changes something raises ``SessionCommitted`` once the response headers were sent; except
    ``invalidate()``, which can end the session even then, and only cannot delete its cookies.

    Made by ``Sessions.begin``.
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    # The mapping

    def __getitem__(self, key: str) -> Any:
        exchange = self._exchange
        return (exchange.document or exchange.load()).get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise SessionValueError(f"a session key is a string, not {type(key).__name__}")
        check(key, key)
        check(key, value)
        exchange = self._exchange
        document = exchange.changing()
        if key == exchange.site.identity_key:
            exchange.identity_changes(value)
        document.set(key, value)

    def __delitem__(self, key: str) -> None:
        exchange = self._exchange
        document = exchange.changing()
        if key == exchange.site.identity_key:
            exchange.identity_changes(None)  # even if it is not there
        document.remove(key)

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        """Remove *key* and return its value; if it is not there, *default*, else ``KeyError``.

        Of the identity key, it is a logout, even if it is not there.
        """
        try:
            value = self[key]
        except KeyError:
            if key == self._exchange.site.identity_key:
                self._exchange.changing()
                self._exchange.identity_changes(None)
            if default is _ABSENT:
                raise
            return default
        del self[key]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._exchange.load().read())

    def __len__(self) -> int:
        return len(self._exchange.load().read())

    def __contains__(self, key: object) -> bool:
        return key in self._exchange.load().read()

    def clear(self) -> None:
        """Remove everything. If somebody is logged in, that is a logout, when the response starts.

        What is stored afterwards begins an anonymous session. An anonymous session that is cleared becomes another.
        """
        self._exchange.clear()

    def copy(self) -> dict[str, Any]:
        """The data as a plain dict that shares nothing with the session."""
        return self._exchange.load().copy()

    __copy__ = copy

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return self.copy()

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(other, Session):
            other = other.copy()
        return self.copy() | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return dict(other) | self.copy() if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Mapping[str, Any]) -> Session:
        self.update(other)
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("a session cannot be pickled: pickle session.copy()")

    def __repr__(self) -> str:
        # Not the data: representations end up in logs.
        return f"<Session {self.id} version {self.version}>" if self.loaded else "<Session, not loaded>"

    # What it is

    @property
    def id(self) -> str:
        """32 hexadecimal digits that name the login. Not a secret: it does not open anything.

        A login keeps it until it ends. A session that has not begun yet gets it now.
        """
        return self._exchange.id.hex()

    @property
    def version(self) -> int:
        """A number that grows with each write and each ``regenerate()``. 0: nothing was sealed yet."""
        current = self._exchange.current
        return 0 if current is None else current.record.version

    @property
    def tags(self) -> Tags:
        """The tags of the last ``regenerate(tags=…)``, and that of the identity."""
        return Tags(self._exchange.tags)

    @property
    def created(self) -> datetime | None:
        """When the session was created, in UTC. None: it has not begun yet."""
        current, asked = self._exchange.current, self._exchange.asked
        if current is not None:
            return _utc(current.record.created)
        return None if asked is None else _utc(asked.at)

    @property
    def authenticated_at(self) -> datetime | None:
        """When its user logged in, or was authenticated again, in UTC. None: nobody is logged in.

        For a step-up: ``if now - session.authenticated_at > timedelta(minutes=5)``, ask for the password.
        """
        current, asked = self._exchange.current, self._exchange.asked
        if asked is not None and (current is None or asked.tags is not None):
            return _utc(asked.at)
        if current is None and self._exchange.ended is None:  # by the identity key: when the response starts
            return _utc(self._exchange.now())
        return None if current is None or not current.is_login else _utc(current.record.authenticated)

    @property
    def last_activity(self) -> datetime | None:
        """The last activity that extended it, in UTC. None: it has not begun yet."""
        current = self._exchange.current
        return None if current is None else _utc(current.last_activity)

    @property
    def expires(self) -> datetime | None:
        """When it ends without further activity, in UTC. None: it has not begun, or has no end.

        This response may extend it: that shows in the next request.
        """
        current = self._exchange.current
        if current is None:
            return None
        ends = current.ends
        if current.idle != UNLIMITED:
            ends = min(ends, current.last_activity + current.idle * 1000)
        return None if ends >= NEVER else _utc(ends)

    @property
    def ended(self) -> Ended | None:
        """Why nobody is logged in, as an ``Ended``; None while somebody is."""
        return self._exchange.ended

    @property
    def identity_key(self) -> str | None:
        """The key that says who is logged in, as configured."""
        return self._exchange.site.identity_key

    @property
    def loaded(self) -> bool:
        """Whether anybody has looked at the session in this request."""
        return self._exchange.document is not None

    @property
    def changed(self) -> bool:
        """Whether there is anything that the response, or ``save()``, has to do."""
        return self._exchange.changed

    @property
    def committed(self) -> bool:
        """Whether the response headers were decided on, so that no change can be kept."""
        return self._exchange.committed

    @property
    def presented(self) -> bool:
        """Whether the request carries a cookie of our names, authentic or not."""
        return bool(self._exchange.arrival.opening.session_names)

    # What can be done with it

    def regenerate(
        self,
        *,
        tags: Iterable[str] | Tags | None = None,
        idle_timeout: Duration | None = None,
        absolute_timeout: Duration | None = None,
        persistent: bool | None = None,
    ) -> None:
        """Have the response carry a login; or, if its user is logged in already, the next epoch of that login.

        Call it whenever somebody logs in, or gains or gives up rights: cookies from before stop working. A login
        gets a new id, and ends what the request presented; an epoch keeps the id. A login of another user than the one
        who is logged in begins with what this request assigned, and nothing else. All of that happens when the
        response starts, or at ``save()``: if it does not, the session is as it was. A second call in the same request
        adds to the first: what it leaves open stays.

        Args:
            tags: names by which the session can be revoked later, such as ``user:42``. Giving them states that
                somebody has just been authenticated: the absolute timeout begins anew. ``session.tags`` states that and
                keeps them. None keeps tags and deadlines.
            idle_timeout: a shorter one than the configuration's, for this login: seconds, or text such as ``"10m"``.
                None: that of the login, if there is one already, else the configuration's.
            absolute_timeout: likewise.
            persistent: False: browsers forget the session when they are closed.

        Raises:
            SessionConflict: somebody was logged in, and that session has ended since it was loaded, or (``versioned``)
                another request wrote it: its data must not live on. ``invalidate()`` forgets them, and then this works.
            StoreUnavailable: somebody is logged in, and the store cannot be asked.
            ValueError: what should be a duration is not one; a tag is empty; or there are more than 32 tags.
            TypeError: *tags* are one text, or not all of them are text.
            SessionCommitted
        """
        idle_s = None if idle_timeout is None else seconds("idle_timeout", idle_timeout, smallest=1)
        absolute_s = None if absolute_timeout is None else seconds("absolute_timeout", absolute_timeout, smallest=1)
        keys = None if tags is None else _tag_keys(tags)
        self._exchange.regenerate(keys, idle_s, absolute_s, persistent)

    def revoke_others(self, tag: str) -> None:
        """Log out everywhere else, at once: end every other session with *tag*, one of this session's.

        This session goes on in a new epoch, which the response carries. If that fails, its own user is logged out too.
        If somebody logs in or out in this request, that is saved first.

        Raises:
            ValueError: the session does not have that tag, or it is empty.
            TypeError: it is no text.
            SessionConflict: somebody else ended the session, or revoked the tag, meanwhile.
            StoreUnavailable: the store did not confirm it. The other sessions may still be alive.
            SessionTooLarge
            SessionCommitted
        """
        exchange = self._exchange
        if exchange.logs_in_or_out:
            response.save(exchange)
        logins.revoke_others(exchange, tag_key(tag))

    def invalidate(self) -> None:
        """Log out, at once: end every session that the request presented, on every machine, and forget the data.

        Harmless when repeated, and when there is no session. What is stored afterwards begins a new one.

        Raises:
            StoreUnavailable: the store did not confirm it. **The sessions may still be alive**: tell the user.
        """
        logins.invalidate(self._exchange)

    def forget(self) -> None:
        """Have this browser forget its session, whatever the store says. It ends nothing: a copy still works.

        For the page that tells a user that the logout could not be confirmed.

        Raises:
            SessionCommitted
        """
        self._exchange.forget()

    def save(self) -> None:
        """Do now what the response would do when it starts, which then carries it; or check, if nothing has changed.

        Raises:
            SessionConflict: it was ended meanwhile, or (``versioned``) another request wrote it first.
            SessionTooLarge
            SessionValueError
            StoreUnavailable: as the outage policy has it.
            SessionCommitted
        """
        response.save(self._exchange)

    def revert(self) -> None:
        """Go back to what was loaded, or last saved. For a retry inside the application.

        Raises:
            SessionCommitted
        """
        self._exchange.revert()

    def check(self) -> bool:
        """Whether the session is alive, now: the store is asked. Also in a stream, after the headers were sent.

        False for a session that has not begun.

        Raises:
            StoreUnavailable: with ``outage="closed"``.
        """
        return self._exchange.check()


def exchange_of(session: Session) -> Exchange:
    """What leads the request of *session*."""
    return session._exchange


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


def _tag_keys(tags: Iterable[str] | Tags) -> tuple[bytes, ...]:
    if isinstance(tags, Tags):
        return tuple(sorted(each for each in tags if isinstance(each, bytes)))
    texts = [tags] if isinstance(tags, str) else list(tags)
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in texts):
        raise TypeError(f"tags: requires strings in a list or another iterable, received {tags!r}")
    keys = tuple(dict.fromkeys(map(tag_key, texts)))
    if len(keys) > MAX_TAGS:
        raise ValueError(f"tags: requires at most {MAX_TAGS}, received {len(keys)}")
    return keys
