"""Cookie names, the Cookie header -> what it presents, and Set-Cookie. Knows nothing of what the values mean.

An anonymous session has one name, ``__Host-session``. A login has a *slot*: one of the names of four pairs, from
``__Host-session-1`` and ``__Host-session-1b`` to ``-4b``. Each has its lease, of that name and ``-lease``.
``__Host-session-slot`` says which pair was used last.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from webob.cookies import make_cookie

from .seal import LEASE_LENGTH, unauthenticated_lease
from .settings import Settings
from .token import Lease

#: Browsers cap Max-Age at 400 days (RFC 6265bis, 5.5).
LONGEST_S = 400 * 86400
#: How many pairs of slots there are.
PAIRS = 4
#: Of a longer Cookie header, so many characters at its end are looked at: a bound on what a header can cost.
LONGEST_HEADER = 65_536

_LEASE = "-lease"
_BLANK = " \t"
_BLANK_OR_QUOTE = ' \t"'


class SetCookie(NamedTuple):
    """A cookie as frameworks with a cookie interface of their own want it. An empty *value* deletes it."""

    name: str
    value: str
    #: Seconds; None: until the browser is closed.
    max_age: int | None
    path: str
    domain: str | None
    secure: bool
    httponly: bool
    samesite: str
    partitioned: bool


class Sent(NamedTuple):
    """A cookie that a response carries: its value, None to delete it; and its Max-Age in seconds, None for none."""

    name: str
    value: str | None
    max_age: int | None


class Found(NamedTuple):
    """What a Cookie header holds of ours: session and lease cookies as (name, value), in its order, and the slot."""

    sessions: list[tuple[str, str]]
    #: By the name of the session that they belong to.
    leases: dict[str, list[str]]
    #: The pair used last, as far as anybody knows: 1 to ``PAIRS``, or 0.
    slot: int

    @property
    def names(self) -> list[str]:
        """The names that are there, of sessions and leases."""
        return [*dict(self.sessions), *(name + _LEASE for name in self.leases)]


class Cookies:
    """The cookies of one configuration: everything that can be prepared at start-up is."""

    __slots__ = ("_attributes", "_deletions", "_names", "_settings", "_slots", "anonymous", "slot")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # RFC 6265bis, 4.1.3: __Host- demands Secure, Path=/ and no Domain; __Secure- demands Secure.
        host_only = settings.cookie_domain is None and settings.cookie_path == "/"
        prefix = ("__Host-" if host_only else "__Secure-") if settings.secure else ""
        #: The name of the anonymous session's cookie, with which all others begin.
        self.anonymous = anonymous = prefix + settings.cookie_name
        #: The name of the cookie that says which pair was used last.
        self.slot = f"{anonymous}-slot"
        self._slots = {f"{anonymous}-{pair}{half}": pair for pair in range(1, PAIRS + 1) for half in ("", "b")}
        #: Every name of ours, and of a lease whose.
        self._names = dict.fromkeys((anonymous, *self._slots, self.slot), "")
        self._names |= {name + _LEASE: name for name in (anonymous, *self._slots)}
        # WebOb validates and writes the attributes, once.
        cookie = make_cookie(
            "n",
            "v",
            path=settings.cookie_path,
            domain=settings.cookie_domain,
            secure=settings.secure,
            httponly=True,
            samesite=settings.samesite,  # type: ignore[arg-type]  # settings has checked it
        )
        attributes = cookie.removeprefix("n=v")
        # Browsers ignore a deletion whose attributes differ from those of the cookie. A partitioned cookie and one
        # from before the site was partitioned are two cookies.
        forms = [attributes + "; Partitioned", attributes] if settings.partitioned else [attributes]
        self._attributes = forms[0]
        self._deletions = [f"=; Max-Age=0{form}" for form in forms]

    def parse(self, header: str) -> Found:
        """What *header* holds of ours, whatever else it holds."""
        if len(header) > LONGEST_HEADER:
            header = header[-LONGEST_HEADER:]
        sessions: list[tuple[str, str]] = []
        leases: dict[str, list[str]] = {}
        slot = 0
        names = self._names
        for cookie in header.split(";"):
            name, equals, value = cookie.partition("=")
            name = name.lstrip(_BLANK)
            owner = names.get(name)
            if owner is None or not equals:
                continue
            value = value.strip(_BLANK_OR_QUOTE)
            if owner:
                leases.setdefault(owner, []).append(value)
            elif name == self.slot:
                slot = int(value) if value in ("1", "2", "3", "4") else 0
            else:
                sessions.append((name, value))
        return Found(sessions, leases, slot)

    def last_lease(self, header: str) -> Lease | None:
        """What the last cookie of ours says, if it is a lease; not authenticated, so only ever a hint.

        Browsers send what they got last at the end (RFC 6265, 5.4), so for most requests it says all that there is to
        know, without taking the header apart. The lease of another application, whose names contain ours, says nothing.
        """
        at = header.rfind(self.anonymous)
        equals = header.find("=", at) if at >= 0 else -1
        if equals < 0 or not self._names.get(header[at:equals]) or not _begins(header, at):
            return None
        return unauthenticated_lease(header[equals + 1 : equals + 1 + LEASE_LENGTH])

    def is_login(self, name: str) -> bool:
        """Whether *name* is that of a slot."""
        return name in self._slots

    def next_pair(self, slot: int, presented: Collection[str]) -> int:
        """The pair that a login takes: the next after *slot* in which nothing is *presented*; if all are, the next."""
        taken = {self._slots.get(name) for name in presented}
        following = [(slot + step) % PAIRS + 1 for step in range(PAIRS)]
        return next((pair for pair in following if pair not in taken), following[0])

    def in_pair(self, pair: int) -> str:
        """The name of the slot that a login takes in *pair*."""
        return f"{self.anonymous}-{pair}"

    def pair(self, name: str) -> int:
        """The pair of the slot *name*."""
        return self._slots[name]

    @staticmethod
    def other_half(name: str) -> str:
        """The name of the other slot in the pair of *name*."""
        return name[:-1] if name.endswith("b") else name + "b"

    @staticmethod
    def lease_name(name: str) -> str:
        """The name of the lease cookie that belongs to a session cookie."""
        return name + _LEASE

    def header(self, name: str, value: str, max_age: int | None) -> str:
        """A Set-Cookie value. *max_age* is in seconds, None for a cookie that goes when the browser is closed."""
        if max_age is None:
            return f"{name}={value}{self._attributes}"
        return f"{name}={value}; Max-Age={max_age if max_age < LONGEST_S else LONGEST_S}{self._attributes}"

    def size(self, name: str, value: str, max_age: int | None) -> int:
        """The length of ``header``, in bytes."""
        return len(name) + len(value) + len(self.header("", "", max_age))

    def deletions(self, name: str) -> list[str]:
        """The Set-Cookie values that make a browser forget *name*."""
        return [name + each for each in self._deletions]

    def parts(self, name: str, value: str | None, max_age: int | None) -> list[SetCookie]:
        """As ``header``, or ``deletions`` where *value* is None, in parts."""
        settings = self._settings
        if value is None:
            value, max_age, forms = "", 0, [True, False] if settings.partitioned else [False]
        else:
            forms = [settings.partitioned]
        if max_age is not None:
            max_age = min(max_age, LONGEST_S)
        return [
            SetCookie(
                name, value, max_age, settings.cookie_path, settings.cookie_domain, settings.secure, True,
                settings.samesite, form,
            )
            for form in forms
        ]  # fmt: skip


def _begins(header: str, at: int) -> bool:
    """Whether a cookie begins at *at*, rather than some other cookie's value containing our name."""
    at -= 1
    while at >= 0 and header[at] in _BLANK:
        at -= 1
    return at < 0 or header[at] == ";"
