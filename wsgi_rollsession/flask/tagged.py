"""Values that JSON does not carry, as Flask's tagged JSON does: datetimes, UUIDs, bytes, ``Markup`` and tuples."""

from __future__ import annotations

from typing import Any

from flask.json.tag import TaggedJSONSerializer

from ..session import Session

#: What needs no tag, and has nothing in it that could change.
SCALARS = frozenset((str, int, float, bool, type(None)))


class Live(dict[str, Any]):
    """Values as the application has them, by key; the core holds them as JSON carries them. No scalars.

    Args:
        core: the session.
        serializer: tags, and takes tags away.
    """

    __slots__ = ("_core", "_serializer")

    def __init__(self, core: Session, serializer: TaggedJSONSerializer) -> None:
        self._core = core
        self._serializer = serializer

    def __missing__(self, key: str) -> Any:
        value = self._core[key]
        if value.__class__ not in SCALARS:
            value = self[key] = self._untagged(value)
        return value

    def sync(self) -> None:
        """Let the core see what has changed inside of values. That is no assignment: it does not follow a login."""
        core, tag = self._core, self._serializer.tag
        for key, value in self.items():
            if key not in core:
                continue
            held, tagged = core[key], tag(value)
            if isinstance(held, list) and isinstance(tagged, list):
                held[:] = tagged
            elif isinstance(held, dict) and isinstance(tagged, dict):
                held.clear()
                held.update(tagged)

    def keep_held(self) -> None:
        """Forget the values that the core does not have any more."""
        for key in [key for key in self if key not in self._core]:
            del self[key]

    def _untagged(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._untagged(each) for each in value]
        if isinstance(value, dict):
            plain = {key: self._untagged(each) for key, each in value.items()}
            return self._serializer.untag(plain)
        return value
