"""The data of a session: JSON that is parsed if somebody looks, and knows whether it changed."""

from __future__ import annotations

from json import JSONDecoder, JSONEncoder
from typing import Any

from .errors import SessionValueError

# ensure_ascii=False: what counts against a cookie's limit is UTF-8. Not a number and infinity are not JSON. And what
# contains itself is too deep for ``check``, which everything has passed.
encode = JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
decode = JSONDecoder().raw_decode
EMPTY = b"{}"
_LARGEST_INT = 1 << 63
_SCALARS = frozenset((str, int, float, bool, type(None)))
_MUTABLE = frozenset((dict, list))
_JSON_TYPES: tuple[type[Any], ...] = (str, int, float, dict, list, tuple)


class Document:
    """One JSON object. Not safe for several threads, but for the first ``read``, which the caller guards.

    Args:
        raw: the object in UTF-8, as it was sealed.
    """

    __slots__ = ("_data", "_nested", "_suspect", "assigned", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._data: dict[str, Any] | None = None if raw != EMPTY else {}
        self._suspect = False  # something was assigned, or a mutable value was handed out
        self._nested = False  # a mutable value was assigned or handed out: its insides may have changed
        #: The keys that were assigned since.
        self.assigned: set[str] = set()

    def read(self) -> dict[str, Any]:
        """The data. Not to be changed by the caller."""
        data = self._data
        if data is None:
            data = self._data = decode(self.raw.decode("utf-8"))[0]
        return data

    def get(self, key: str) -> Any:
        """The value of *key*, whose insides the caller may change. Raises ``KeyError``."""
        value = (self._data or self.read())[key]
        if value.__class__ in _MUTABLE:
            self._suspect = self._nested = True
        return value

    def set(self, key: str, value: Any) -> None:
        """Assign a value that ``check`` has passed."""
        self.read()[key] = value
        self.assigned.add(key)
        self._suspect = True
        if value.__class__ not in _SCALARS:
            self._nested = True

    def remove(self, key: str) -> None:
        """Remove *key*. Raises ``KeyError``."""
        del self.read()[key]
        self.assigned.discard(key)
        self._suspect = True

    def keep_assigned(self) -> None:
        """Remove everything that was not assigned since: it belongs to another session."""
        data = self.read()
        self._data = {key: value for key, value in data.items() if key in self.assigned}
        self._suspect = True

    def only_assigned(self) -> Document:
        """As ``keep_assigned``, and this document stays as it is."""
        other = Document(EMPTY)
        other._data, other.assigned = dict(self.read()), {*self.assigned}
        other._suspect, other._nested = True, self._nested
        other.keep_assigned()
        return other

    def dump(self) -> bytes:
        """The data as JSON: the very object ``raw`` if nothing differs from it.

        Raises:
            SessionValueError: a nested change brought in what JSON cannot carry.
        """
        held, data = self.raw, self._data
        if not self._suspect or data is None:
            return held
        if self._nested:  # a change inside can have brought in what an assignment would have refused
            for key, value in data.items():
                check(key, value)
        raw = encode(data).encode("utf-8") if data else EMPTY
        return held if raw == held else raw

    def rebase(self, raw: bytes) -> None:
        """These data have been sealed, as *raw*: changes count from here."""
        self.raw = raw
        self.assigned = set()

    def copy(self) -> dict[str, Any]:
        """The data as a plain dict that shares nothing with the session."""
        copied: dict[str, Any] = decode(self.dump().decode("utf-8"))[0]
        return copied


def check(key: Any, value: Any, depth: int = 0) -> None:
    """Refuse what JSON cannot carry, or would carry back as something else.

    Raises:
        SessionValueError: names *key*, that of the session.
    """
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
            check(key, name)
            check(key, member, depth + 1)
    elif kind is list or kind is tuple:
        for member in value:
            check(key, member, depth + 1)
    else:
        for base in _JSON_TYPES:  # a subclass: JSON carries it as its base
            if isinstance(value, base):
                return check(key, base(value), depth)
        raise _unfit(key, f"a {kind.__name__}")


def identity(key: str, value: Any) -> str | None:
    """Who is logged in by *value*, that of the identity key; None for nobody.

    Raises:
        SessionValueError: it is neither text nor an integer, nor anything that stands for nobody.
    """
    if value is None or value is False or value == "" or value in ([], (), {}):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _unfit(key, f"an identity that is {type(value).__name__} and neither text nor an integer", "a session")
    # As JSON carries it: a subclass, such as an Enum, may call itself otherwise.
    return str.__str__(value) if isinstance(value, str) else int.__repr__(value)


def known_identity(key: str, value: Any) -> str | None:
    """As ``identity``, of a value that was loaded: from before *key* was the identity key, it may be anything."""
    try:
        return identity(key, value)
    except SessionValueError:
        return encode(value)


def _unfit(key: str, what: str, who: str = "JSON") -> SessionValueError:
    return SessionValueError(f"session[{key!r}]: {who} cannot carry {what}")
