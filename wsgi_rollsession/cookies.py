"""Cookie names, the Cookie header -> candidates, and Set-Cookie. Knows nothing of what the values mean.

Isolated layout: ``__Host-session-<tag>`` and ``__Host-session-<tag>-lease``, the tag derived from the session's id, so
that a response for one session cannot touch another's cookies. Single layout: ``__Host-session``, and no lease.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode

from webob.cookies import make_cookie

from .seal import peek
from .settings import Settings

#: Browsers cap Max-Age at 400 days (RFC 6265bis, 5.5).
LONGEST = 400 * 86400
#: Sessions looked at when one is loaded, and all that a logout looks for: bounds on what a header can cost.
CANDIDATES = 8
PRESENTED = 64

_LEASE = "-lease"
_LEASE_IS = _LEASE + "="
_BLANK = " \t"
_BLANK_OR_QUOTE = ' \t"'


class Cookies:
    """The cookies of one configuration: everything that can be prepared at start-up is."""

    __slots__ = ("_attributes", "_deletion", "_length", "isolated", "prefix")

    def __init__(self, settings: Settings) -> None:
        secure = not settings.insecure_http
        self.isolated = settings.cookie_layout == "isolated"
        # RFC 6265bis, 4.1.3: __Host- demands Secure, Path=/ and no Domain; __Secure- demands Secure.
        host_only = settings.cookie_domain is None and settings.cookie_path == "/"
        prefix = ("__Host-" if host_only else "__Secure-") if secure else ""
        #: The full name of the session cookie, up to its tag in the isolated layout.
        self.prefix = prefix + settings.cookie_name + ("-" if self.isolated else "")
        self._length = len(self.prefix) + (8 if self.isolated else 0)
        # WebOb validates and writes the attributes, once.
        cookie = make_cookie(
            "n",
            "v",
            path=settings.cookie_path,
            domain=settings.cookie_domain,
            secure=secure,
            httponly=True,
            samesite=settings.samesite,  # type: ignore[arg-type]  # settings has checked it
        )
        attributes = cookie.removeprefix("n=v") + ("; Partitioned" if settings.partitioned else "")
        self._attributes = attributes
        # Browsers ignore a deletion whose attributes differ from those of the cookie.
        self._deletion = "=; Max-Age=0" + attributes

    def parse(self, header: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
        """Sessions as (name, value) in the order of the header, and lease values by the name of their session."""
        sessions: list[tuple[str, str]] = []
        leases: dict[str, str] = {}
        prefix, length = self.prefix, self._length
        at = header.find(prefix)
        while at >= 0:  # from one of ours to the next, whatever else the header holds
            stop = header.find(";", at)
            if stop < 0:
                stop = len(header)
            if at == 0 or header.startswith("; ", at - 2) or _begins(header, at):
                equals = at + length
                if header.startswith("=", equals):
                    sessions.append((header[at:equals], header[equals + 1 : stop].strip(_BLANK_OR_QUOTE)))
                elif self.isolated and header.startswith(_LEASE_IS, equals):
                    leases[header[at:equals]] = header[equals + len(_LEASE_IS) : stop].strip(_BLANK_OR_QUOTE)
            at = header.find(prefix, stop)
        return sessions, leases

    def last_stamp(self, header: str) -> int:
        """The clear time stamp (Unix ms) of the last cookie that looks like one of ours, or 0: a hint.

        Browsers send what they got last at the end (RFC 6265, 5.4), so for most requests it says all that there is to
        know, without taking the header apart.
        """
        at = header.rfind(self.prefix)
        if at < 0:
            return 0
        value = at + self._length + 1
        if self.isolated and header.startswith(_LEASE, value - 1):
            value += len(_LEASE)
        return peek(header, value)

    def name(self, digest: bytes) -> str:
        """The name of the session cookie of the session with this digest (``fence.session_digest``)."""
        if not self.isolated:
            return self.prefix
        return self.prefix + urlsafe_b64encode(digest[16:22]).decode("ascii")

    @staticmethod
    def lease_name(name: str) -> str:
        """The name of the lease cookie that belongs to a session cookie."""
        return name + _LEASE

    def set(self, name: str, value: str, max_age: int) -> str:
        """A Set-Cookie value. *max_age* is in seconds."""
        return f"{name}={value}; Max-Age={max_age if max_age < LONGEST else LONGEST}{self._attributes}"

    def delete(self, name: str) -> str:
        """The Set-Cookie value that makes a browser forget *name*."""
        return name + self._deletion


def _begins(header: str, at: int) -> bool:
    """Whether a cookie begins at *at*, rather than some other cookie's value containing our name."""
    at -= 1
    while at >= 0 and header[at] in _BLANK:
        at -= 1
    return at < 0 or header[at] == ";"
