"""The options, and the one frozen value that they are parsed into. ``docs/configuration.md`` describes every option."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypedDict

from .errors import ConfigurationError
from .keys import KeyRing
from .revocation import Revocations, StoreOptions
from .revocation.fence import CLOCK_SKEW_MS
from .standing import Outage
from .token import NEVER, UNLIMITED

if TYPE_CHECKING:
    from typing_extensions import Required

    from .moving import OldCookies

Duration = int | str | timedelta
OpenStore = Callable[[StoreOptions], Revocations]
RollIf = Callable[[dict[str, Any]], object]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 10 * 365 * 86400
#: Added to a fence's lifetime: clocks of two machines, twice, and what a load may be behind.
_SLACK_MS = 2 * CLOCK_SKEW_MS + 6_000


class Options(TypedDict, total=False):
    """The options of ``RollSession`` and ``Sessions``. All but the callables may be text, as an ini file has it."""

    keys: Required[str | Sequence[str]]
    revocations: Required[str | OpenStore]
    identity_key: str | None
    idle_timeout: Duration | None
    absolute_timeout: Duration | None
    rolling: bool | str
    renew_after: Duration | None
    versioned: bool | str
    cookie_name: str
    cookie_domain: str | None
    cookie_path: str
    samesite: str
    partitioned: bool | str
    insecure_http: bool | str
    outage: str
    amnesia: str
    roll_if: RollIf | str | None
    clock: Callable[[], float]
    moving_in: Sequence[OldCookies] | str


DEFAULTS: dict[str, Any] = {
    "identity_key": None,
    "idle_timeout": "1h",
    "absolute_timeout": "24h",
    "rolling": True,
    "renew_after": None,
    "versioned": False,
    "cookie_name": "session",
    "cookie_domain": None,
    "cookie_path": "/",
    "samesite": "Lax",
    "partitioned": False,
    "insecure_http": False,
    "outage": "degrade",
    "amnesia": "refuse",
    "roll_if": None,
    "clock": time.time,
    "moving_in": (),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the options mean, in the units that are used. Made by ``parse``."""

    ring: KeyRing = field(repr=False)
    #: A store's URL may hold a password.
    revocations: str | OpenStore = field(repr=False)
    identity_key: str | None
    #: The idle timeout in seconds, ``UNLIMITED`` where sessions have a fixed end.
    idle_s: int
    #: The absolute timeout in milliseconds, ``NEVER`` without one.
    absolute_ms: int
    #: Whether activity extends sessions at all.
    rolls: bool
    #: How long ago the last confirmed activity must be for a session to be rolled, in milliseconds.
    renew_after_ms: int
    versioned: bool
    cookie_name: str
    cookie_domain: str | None
    cookie_path: str
    samesite: str
    partitioned: bool
    secure: bool
    outage: Outage
    accept_amnesia: bool
    roll_if: RollIf | None
    #: Unix seconds.
    clock: Callable[[], float] = field(repr=False)
    #: The cookies of other systems, whose sessions move in.
    moving_in: tuple[OldCookies, ...] = field(repr=False)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Settings:
        """The settings that *options* mean.

        Raises:
            ConfigurationError: names the option, what it requires and what it received.
        """
        _check_names(options)
        given = {**DEFAULTS, **options}
        idle = seconds("idle_timeout", given["idle_timeout"], smallest=1)
        absolute = seconds("absolute_timeout", given["absolute_timeout"], smallest=1)
        renew_after = seconds("renew_after", given["renew_after"], smallest=0)
        outage = Outage(_choice("outage", given["outage"], tuple(each.value for each in Outage)))
        rolls = _boolean("rolling", given["rolling"]) and idle is not None
        _check_timeouts(idle if rolls else None, absolute, renew_after, outage)
        if renew_after is None:
            renew_after = min(idle // 10, 60) if idle is not None else 60
        insecure_http = _boolean("insecure_http", given["insecure_http"])
        partitioned = _boolean("partitioned", given["partitioned"])
        samesite = _choice("samesite", given["samesite"], ("Strict", "Lax", "None"))
        _check_attributes(samesite, partitioned=partitioned, insecure_http=insecure_http)
        return cls(
            ring=KeyRing(given["keys"]),
            revocations=_store("revocations", given["revocations"]),
            identity_key=_identity_key("identity_key", given["identity_key"]),
            idle_s=idle if rolls and idle is not None else UNLIMITED,
            absolute_ms=absolute * 1000 if absolute is not None else NEVER,
            rolls=rolls,
            renew_after_ms=renew_after * 1000,
            versioned=_boolean("versioned", given["versioned"]),
            cookie_name=_cookie_name("cookie_name", given["cookie_name"]),
            cookie_domain=_domain("cookie_domain", given["cookie_domain"]),
            cookie_path=_path("cookie_path", given["cookie_path"]),
            samesite=samesite,
            partitioned=partitioned,
            secure=not insecure_http,
            outage=outage,
            accept_amnesia=_choice("amnesia", given["amnesia"], ("refuse", "accept")) == "accept",
            roll_if=_roll_if("roll_if", given["roll_if"]),
            clock=_clock("clock", given["clock"]),
            moving_in=_moving_in("moving_in", given["moving_in"]),
        )

    @property
    def fence_lifetime_ms(self) -> int:
        """How long a fence must be kept, in milliseconds: as long as anything it refuses could otherwise be accepted.

        That is one idle timeout, for nothing behind a fence is ever renewed; or the absolute timeout, where
        there is no idle timeout or an outage policy extends sessions without asking; or the lifetime of an old cookie
        that sessions move in with.
        """
        longest_ms = self.idle_s * 1000 if self.rolls and self.outage is not Outage.OPEN else self.absolute_ms
        return max(longest_ms, *(each.lifetime_s * 1000 for each in self.moving_in), 0) + _SLACK_MS


def seconds(option: str, value: object, smallest: int) -> int | None:
    """A duration in seconds; None for ``none``.

    Raises:
        ConfigurationError: *value* is not a duration, or is shorter than *smallest* seconds.
    """
    requirement = 'a duration such as 90, "90s", "30m", "24h" or "7d", in whole seconds'
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    found: float = -1
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and (match := re.fullmatch(r"\s*([0-9]{1,12})\s*([smhd]?)\s*", value)):
        found = int(match[1]) * _UNITS[match[2] or "s"]
    if found != int(found) or not smallest <= found <= _LONGEST:
        _refuse(option, f"{requirement}, from {smallest} s to ten years", value)
    return int(found)


def _check_names(options: Mapping[str, Any]) -> None:
    known = {"keys", "revocations", *DEFAULTS}
    for name in options:
        if name not in known:
            (*close,) = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigurationError(f"{name}: requires one of {', '.join(sorted(known))}, received {name!r}{hint}")
    for name, what in (("keys", "one made by `rollsession keygen`"), ("revocations", "the URL of a store")):
        if name not in options:
            raise ConfigurationError(f"{name}: requires {what}, received none")


def _check_timeouts(idle: int | None, absolute: int | None, renew_after: int | None, outage: Outage) -> None:
    """*idle* is None where it does not apply."""
    if absolute is None and idle is None:
        _refuse("absolute_timeout", "a duration where rolling is off or idle_timeout is none", "none")
    if absolute is None and outage is Outage.OPEN:
        _refuse("absolute_timeout", "a duration with outage=open, which extends sessions unchecked", "none")
    if idle is not None and absolute is not None and idle > absolute:
        _refuse("absolute_timeout", f"at least idle_timeout ({idle} s)", f"{absolute} s")
    if idle is not None and renew_after is not None and renew_after >= idle:
        _refuse("renew_after", f"less than idle_timeout ({idle} s)", f"{renew_after} s")


def _check_attributes(samesite: str, *, partitioned: bool, insecure_http: bool) -> None:
    if samesite == "None" and insecure_http:
        _refuse("samesite", "Strict or Lax with insecure_http, for browsers want None to be Secure", "None")
    if partitioned and insecure_http:
        _refuse("partitioned", "false with insecure_http, for browsers want Partitioned to be Secure", "true")
    if partitioned and samesite != "None":
        _refuse("samesite", "None with partitioned, for an embedded page sends no other cookie", samesite)


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


def _store(option: str, value: Any) -> str | OpenStore:
    if not isinstance(value, str) and not callable(value):
        _refuse(option, "the URL of a store, or a callable that opens one", type(value).__name__)
    return value  # type: ignore[no-any-return]


def _identity_key(option: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        _refuse(option, "the session key that says who is logged in, or nothing", value)
    return value  # type: ignore[no-any-return]


def _cookie_name(option: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_.]{0,63}", value):
        _refuse(option, "1 to 64 letters, digits, underscores or dots, not beginning with a dot or __", value)
    return value  # type: ignore[no-any-return]


_is_domain = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]").fullmatch


def _domain(option: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and _is_domain(value)):
        _refuse(option, "a host name of two labels or more, or nothing for this host only", value)
    return value  # type: ignore[no-any-return]


def _path(option: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[A-Za-z0-9_.~!$&'()*+=:@%/-]*", value):
        _refuse(option, "a path that starts with /, as RFC 3986 writes paths, without a semicolon", value)
    return value  # type: ignore[no-any-return]


def _clock(option: str, value: Any) -> Callable[[], float]:
    if not callable(value):
        _refuse(option, "a callable that returns Unix seconds", type(value).__name__)
    return value  # type: ignore[no-any-return]


def _moving_in(option: str, value: Any) -> tuple[OldCookies, ...]:
    if isinstance(value, str):
        value = _resolved(option, value)
    found = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for each in found:
        if not all(hasattr(each, name) for name in ("read", "cookie_name", "lifetime_s")):
            _refuse(option, "old cookies, such as those of wsgi_rollsession.migration", type(each).__name__)
    return found


def _roll_if(option: str, value: Any) -> RollIf | None:
    if isinstance(value, str):
        return _imported(option, value)
    if value is not None and not callable(value):
        _refuse(option, "a callable that receives the environ, or its module:name", type(value).__name__)
    return value  # type: ignore[no-any-return]


def _imported(option: str, text: str) -> RollIf:
    found = _resolved(option, text)
    if not callable(found):
        _refuse(option, "module:name of a callable", text)
    return found  # type: ignore[no-any-return]


def _resolved(option: str, text: str) -> Any:
    from pkgutil import resolve_name

    try:
        return resolve_name(text)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{option}: requires module:name of something, received {text!r} ({error})") from None
