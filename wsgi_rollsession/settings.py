"""One frozen settings value, validated once. ``docs/configuration.md`` describes every option."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from .errors import ConfigurationError
from .keys import KeyRing
from .revocation.fence import CLOCK_SKEW_MS
from .token import NEVER, UNLIMITED

Duration = int | str | timedelta | None

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 10 * 365 * 86400
#: Added to a fence's lifetime: clocks of two machines, twice, and what a load may be behind.
_SLACK_MS = 2 * CLOCK_SKEW_MS + 6_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of ``RollSession``. All of them may be text, as an ini file has it.

    Raises:
        ConfigurationError: names the option, what it requires and what it received.
    """

    keys: str | Sequence[str]
    revocations: str
    idle_timeout: Duration = "1h"
    absolute_timeout: Duration = "24h"
    rolling: bool | str = True
    renew_after: Duration = None
    strict: bool | str = False
    cookie_name: str = "session"
    cookie_domain: str | None = None
    cookie_path: str = "/"
    samesite: str = "Lax"
    partitioned: bool | str = False
    cookie_layout: str = "isolated"
    insecure_http: bool | str = False
    outage: str = "degrade"
    amnesia: str = "refuse"
    roll_if: Callable[[dict[str, Any]], bool] | str | None = None

    def __post_init__(self) -> None:
        for name in ("rolling", "strict", "partitioned", "insecure_http"):
            self._set(name, _boolean(name, getattr(self, name)))
        for name, choices in (
            ("samesite", ("Strict", "Lax", "None")),
            ("cookie_layout", ("isolated", "single")),
            ("outage", ("degrade", "closed", "open")),
            ("amnesia", ("refuse", "accept")),
        ):
            self._set(name, _choice(name, getattr(self, name), choices))
        for name in ("idle_timeout", "absolute_timeout", "renew_after"):
            self._set(name, _seconds(name, getattr(self, name), smallest=0 if name == "renew_after" else 1))
        self._check_timeouts()
        self._check_cookie()
        if not isinstance(self.revocations, str):
            _refuse("revocations", "the URL of a store", type(self.revocations).__name__)
        if isinstance(self.roll_if, str):
            self._set("roll_if", _imported("roll_if", self.roll_if))
        elif self.roll_if is not None and not callable(self.roll_if):
            _refuse("roll_if", "a callable that receives the environ, or its module:name", type(self.roll_if).__name__)

    def __repr__(self) -> str:
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.name not in _SECRET)
        return f"Settings({', '.join(shown)})"

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_timeouts(self) -> None:
        idle, absolute = self.idle_timeout, self.absolute_timeout
        if absolute is None and (idle is None or not self.rolling):
            _refuse("absolute_timeout", "a duration where rolling is off or idle_timeout is none", "none")
        if absolute is None and self.outage == "open":
            _refuse("absolute_timeout", "a duration with outage=open, which extends sessions unchecked", "none")
        if isinstance(idle, int) and isinstance(absolute, int) and idle > absolute and self.rolling:
            _refuse("absolute_timeout", f"at least idle_timeout ({idle} s)", f"{absolute} s")
        if self.renew_after is None:
            self._set("renew_after", min(idle // 10, 60) if isinstance(idle, int) else 60)
        elif isinstance(idle, int) and isinstance(self.renew_after, int) and self.renew_after >= idle and self.rolling:
            _refuse("renew_after", f"less than idle_timeout ({idle} s)", f"{self.renew_after} s")

    def _check_cookie(self) -> None:
        name, path, domain = self.cookie_name, self.cookie_path, self.cookie_domain
        if not isinstance(name, str) or not re.fullmatch(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_.]{0,63}", name):
            _refuse("cookie_name", "1 to 64 letters, digits, underscores or dots, not beginning with a dot or __", name)
        if self.samesite == "None" and self.insecure_http:
            _refuse("samesite", "Strict or Lax with insecure_http, for browsers want None to be Secure", "None")
        if self.partitioned and self.insecure_http:
            _refuse("partitioned", "false with insecure_http, for browsers want Partitioned to be Secure", "true")
        if not isinstance(path, str) or not re.fullmatch(r"/[A-Za-z0-9_.~!$&'()*+=:@%/-]*", path):
            _refuse("cookie_path", "a path that starts with /, as RFC 3986 writes paths, without a semicolon", path)
        if domain is not None and not (isinstance(domain, str) and _is_domain(domain)):
            _refuse("cookie_domain", "a host name of two labels or more, or nothing for this host only", domain)

    # What follows is derived, in the units that the hot path wants.

    def ring(self) -> KeyRing:
        """The key ring of ``keys``."""
        return KeyRing(self.keys)

    @property
    def rolls(self) -> bool:
        """Whether activity extends sessions at all."""
        return bool(self.rolling) and self.idle_timeout is not None

    @property
    def idle_s(self) -> int:
        """The idle timeout in seconds, ``UNLIMITED`` where sessions have a fixed end."""
        return self.idle_timeout if self.rolls and isinstance(self.idle_timeout, int) else UNLIMITED

    @property
    def absolute_ms(self) -> int:
        """The absolute timeout in milliseconds, ``NEVER`` without one."""
        return self.absolute_timeout * 1000 if isinstance(self.absolute_timeout, int) else NEVER

    @property
    def renew_after_ms(self) -> int:
        """How long ago a session must have been seen to be rolled again, in milliseconds."""
        return self.renew_after * 1000 if isinstance(self.renew_after, int) else 0

    @property
    def fence_lifetime_ms(self) -> int:
        """How long a fence must be kept: as long as anything it refuses could otherwise be accepted.

        That is one idle timeout, for nothing behind a fence is ever renewed; or the absolute timeout, where
        there is no idle timeout or an outage policy extends sessions without asking.
        """
        if self.rolls and self.outage != "open":
            return self.idle_s * 1000 + _SLACK_MS
        return self.absolute_ms + _SLACK_MS


_is_domain = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]").fullmatch

_SECRET = {"keys", "revocations"}  # a store's URL may hold a password


def _refuse(option: str, requirement: str, received: object) -> None:
    raise ConfigurationError(f"{option}: requires {requirement}, received {received!r}")


def _boolean(option: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if not isinstance(value, str) or value.strip().lower() not in known:
        _refuse(option, "true or false", value)
    return known[str(value).strip().lower()]


def _choice(option: str, value: object, choices: tuple[str, ...]) -> str:
    for choice in choices:
        if isinstance(value, str) and value.strip().lower() == choice.lower():
            return choice
    _refuse(option, " or ".join(choices), value)
    raise AssertionError


def _seconds(option: str, value: object, smallest: int) -> int | None:
    requirement = 'a duration such as 90, "90s", "30m", "24h" or "7d", in whole seconds'
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    seconds: float = -1
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and (match := re.fullmatch(r"\s*([0-9]{1,12})\s*([smhd]?)\s*", value)):
        seconds = int(match[1]) * _UNITS[match[2] or "s"]
    if seconds != int(seconds) or not smallest <= seconds <= _LONGEST:
        _refuse(option, f"{requirement}, from {smallest} s to ten years", value)
    return int(seconds)


def _imported(option: str, text: str) -> Callable[[dict[str, Any]], bool]:
    from pkgutil import resolve_name

    try:
        found = resolve_name(text)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{option}: requires module:name of a callable, received {text!r} ({error})") from None
    if not callable(found):
        _refuse(option, "module:name of a callable", text)
    return found  # type: ignore[no-any-return]
