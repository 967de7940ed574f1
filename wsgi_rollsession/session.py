"""The mapping that the application sees. Knows no time, no cryptography and no cookies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, MutableMapping
from datetime import datetime, timezone
from json import JSONDecoder, JSONEncoder
from typing import Any

from .errors import SessionCommitted, SessionValueError
from .revocation.fence import tag_key
from .token import Record

# ensure_ascii=False: what counts against a cookie's limit is UTF-8. Not a number and infinity are not JSON.
_encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = JSONDecoder().raw_decode
_LARGEST_INT = 1 << 63
EMPTY = b"{}"


class Tags(frozenset[bytes]):
    """A session's tags. Only their hashes are kept, so ask for a tag by its text: ``"user:42" in session.tags``."""

    __slots__ = ()

    def __contains__(self, tag: object) -> bool:
        return super().__contains__(tag_key(tag) if isinstance(tag, str) else tag)


class Session(MutableMapping[str, Any]):
    """A mapping from strings to JSON values. Nested changes are noticed; tuples come back as lists.

    Every method that changes something raises ``SessionCommitted`` once the response headers were sent; except
    ``invalidate()``, which can end the session even then, and only cannot delete its cookies.
    """

    # Class attributes are the initial values: most requests leave most of them as they are.
    _loaded = False  # whether anybody has asked for it
    _record: Record  # what was loaded, or last sealed
    _new = True
    _data: dict[str, Any] | None = None  # parsed only if somebody looks
    _suspect = False  # something was assigned, or a mutable value was handed out
    _nested = False  # a mutable value was assigned or handed out: its insides may have changed
    _committed = False

    # The mapping

    def _read(self) -> dict[str, Any]:
        data = self._data
        if data is None:
            if not self._loaded:
                self._load()
            raw = self._record.data
            data = self._data = _decode(raw.decode("utf-8"))[0] if raw != EMPTY else {}
        return data

    def _load(self) -> None:
        self._find()
        self._loaded = True

    def _change(self) -> dict[str, Any]:
        if self._committed:
            raise SessionCommitted("the response headers were sent: this change of the session cannot be kept")
        data = self._read()
        self._suspect = True
        return data

    def __getitem__(self, key: str) -> Any:
        value = (self._data or self._read())[key]
        if value.__class__ in _MUTABLE:
            self._suspect = self._nested = True
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise SessionValueError(f"a session key is a string, not {type(key).__name__}")
        _check(key, key)
        _check(key, value)
        self._change()[key] = value
        if value.__class__ not in _SCALARS:
            self._nested = True

    def __delitem__(self, key: str) -> None:
        del self._change()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, key: object) -> bool:
        return key in self._read()

    def clear(self) -> None:
        """Remove everything. A session that had content and ends its request without any is invalidated."""
        self._change().clear()

    def __repr__(self) -> str:
        # Not the data: representations end up in logs.
        return f"<Session {self.id} version {self.version}>" if self._loaded else "<Session, not loaded>"

    # What it is

    @property
    def id(self) -> str:
        """32 hexadecimal digits. Not a secret: it does not open anything. ``regenerate()`` changes it."""
        self._ensure_loaded()
        return self._record.id.hex()

    @property
    def version(self) -> int:
        """How often the session was written. 0: never yet."""
        self._ensure_loaded()
        return self._record.version

    @property
    def is_new(self) -> bool:
        """Whether the request presented no session that is alive."""
        self._ensure_loaded()
        return self._new

    @property
    def created(self) -> datetime:
        """When the session was created, in UTC."""
        self._ensure_loaded()
        return datetime.fromtimestamp(self._record.created / 1000, timezone.utc)

    @property
    def tags(self) -> Tags:
        """The tags of the last ``regenerate(tags=…)``."""
        self._ensure_loaded()
        return Tags(self._record.tags)

    def _ensure_loaded(self) -> None:
        if not self._loaded:
            self._load()

    # What can be done with it

    def regenerate(self, *, tags: Iterable[str] | None = None) -> None:
        """Begin a new session with the same data, and end every session that the request presented.

        Call it whenever somebody logs in, or gains or gives up rights: a session id from before must not do.

        Args:
            tags: names by which the session can be revoked later, such as ``user:42``. Giving them states that
                somebody has just been authenticated, and the absolute timeout begins anew. None keeps the tags, and
                the absolute deadline of a session that was itself begun by ``regenerate``.

        Raises:
            SessionConflict: somebody was logged in, and that session has been ended since it was loaded; or
                (``strict``) another request wrote it: its data must not live on. ``invalidate()`` forgets them, and
                then this works.
            StoreUnavailable: somebody is logged in, and the store did not confirm the end of that session.
            SessionCommitted
        """
        self._change()
        self._begin_anew(None if tags is None else _tag_keys(tags))

    def revoke_others(self, tag: str) -> None:
        """Log out everywhere else: end every other session with *tag*, one of this session's, and regenerate this one.

        Raises:
            ValueError: the session does not have that tag.
            SessionConflict: somebody else ended the session, or revoked the tag, meanwhile.
            StoreUnavailable: the store did not confirm it. The other sessions may still be alive.
            SessionCommitted
        """
        self._change()
        self._begin_anew(None, others=tag_key(tag))

    def invalidate(self) -> None:
        """End every session that the request presented, on every machine, and forget the data.

        Harmless when repeated, and when there is no session. What is stored afterwards begins a new one.

        Raises:
            StoreUnavailable: the store did not confirm it. **The sessions may still be alive**: tell the user.
        """
        self._ensure_loaded()
        self._end()

    def save(self) -> None:
        """Check the session, and seal it if it changed, now rather than when the response starts, which carries it.

        Raises:
            SessionConflict: it was ended meanwhile, or (``strict``) another request wrote it first.
            SessionTooLarge
            StoreUnavailable: as the outage policy has it.
        """
        self._change()
        self._keep()

    # What ``exchange.Exchange`` does

    @abstractmethod
    def _find(self) -> None:
        """Adopt the session that the request presents, or a new one."""

    @abstractmethod
    def _begin_anew(self, tags: tuple[bytes, ...] | None, others: bytes | None = None) -> None:
        """``regenerate``, with the keys of the tags; *others*: of the tag whose other sessions end."""

    @abstractmethod
    def _end(self) -> None:
        """``invalidate``."""

    @abstractmethod
    def _keep(self) -> None:
        """``save``."""

    # What it does with the rest

    def _adopt(self, record: Record, *, new: bool) -> None:
        """Become the session of *record*."""
        self._record = record
        self._data = None
        self._suspect = self._nested = False
        self._new = new

    def _dump(self) -> bytes:
        """The data as JSON: the very object in the record if nothing differs from it."""
        held = self._record.data
        if not self._suspect or self._data is None:
            return held
        data = self._data
        if self._nested:  # a change inside can have brought in what an assignment would have refused
            for key, value in data.items():
                _check(key, value)
        raw = _encode(data).encode("utf-8") if data else EMPTY
        return held if raw == held else raw


def _tag_keys(tags: Iterable[str]) -> tuple[bytes, ...]:
    texts = [tags] if isinstance(tags, str) else list(tags)
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in texts):
        raise TypeError(f"tags: requires strings in a list or another iterable, received {tags!r}")
    return tuple(dict.fromkeys(map(tag_key, texts)))


_SCALARS = frozenset((str, int, float, bool, type(None)))
_MUTABLE = frozenset((dict, list))
_JSON_TYPES: tuple[type[Any], ...] = (str, int, float, dict, list, tuple)


def _check(key: str, value: Any, depth: int = 0) -> None:
    """Refuse what JSON cannot carry, or would carry back as something else."""
    kind = value.__class__
    if kind is str:
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise _unfit(key, "a string that is not Unicode text") from None
    elif kind is bool or value is None:
        pass
    elif kind is int:
        if not -_LARGEST_INT <= value < _LARGEST_INT:
            raise _unfit(key, "an integer of more than 64 bits")
    elif kind is float:
        if value - value != 0:
            raise _unfit(key, "a float that is not finite")
    elif depth > 64:
        raise _unfit(key, "a value nested more than 64 deep")
    elif kind is dict:
        for name, member in value.items():
            if name.__class__ is not str:
                raise _unfit(key, f"a dict with a key that is no string but {type(name).__name__}")
            _check(key, name)
            _check(key, member, depth + 1)
    elif kind is list or kind is tuple:
        for member in value:
            _check(key, member, depth + 1)
    else:
        for base in _JSON_TYPES:  # a subclass: JSON carries it as its base
            if isinstance(value, base):
                return _check(key, base(value), depth)
        raise _unfit(key, f"a {kind.__name__}")


def _unfit(key: str, what: str) -> SessionValueError:
    return SessionValueError(f"session[{key!r}]: JSON cannot carry {what}")
