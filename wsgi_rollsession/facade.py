"""A session under the interface of another system: the mapping that its facades have in common."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from .session import Session

_ABSENT = object()


class Facade(MutableMapping[str, Any]):
    """The data of a session. What else another system has for its sessions is its own facade's.

    Args:
        session: the package's own.
    """

    __slots__ = ("rollsession",)

    def __init__(self, session: Session) -> None:
        #: The session itself: ``regenerate()``, ``revoke_others()``, ``tags``, ``ended`` and so on.
        self.rollsession = session

    def __getitem__(self, key: str) -> Any:
        return self.rollsession[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.rollsession[key] = value

    def __delitem__(self, key: str) -> None:
        del self.rollsession[key]

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        """As ``Session.pop``: of the identity key, it is a logout, even if it is not there."""
        return self.rollsession.pop(key) if default is _ABSENT else self.rollsession.pop(key, default)

    def clear(self) -> None:
        """As ``Session.clear``: if somebody is logged in, that is a logout."""
        self.rollsession.clear()

    def copy(self) -> dict[str, Any]:
        """The data as a plain dict."""
        return self.rollsession.copy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.rollsession)

    def __len__(self) -> int:
        return len(self.rollsession)

    def __contains__(self, key: object) -> bool:
        return key in self.rollsession

    def __repr__(self) -> str:
        return repr(self.rollsession)

    def invalidate(self) -> None:
        """Log out, at once. What is stored afterwards begins a new session.

        Raises:
            StoreUnavailable: the store did not confirm it. **The session may still be alive**: tell the user.
        """
        self.rollsession.invalidate()
