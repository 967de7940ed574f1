"""What a response's headers say about caches: may it carry a lease, and what has to be added where it carries a cookie.

RFC 9111 (HTTP caching), RFC 9213 (targeted cache control), and the fields that CDNs and proxies had before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from functools import partial

Headers = list[tuple[str, str]]

# One member of a list: a name, and after "=" a token or a quoted string (RFC 9110, 5.6).
_members = re.compile(r'([^\s,=";]+)(?:\s*=\s*("(?:[^"\\]|\\.)*(?:"|$)|[^\s,;]*))?').finditer
_remove_quoted = partial(re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)').sub, '""')
#: Those that are older than RFC 9213, whose names all end in ``-Cache-Control``.
_TARGETED = frozenset(("surrogate-control", "edge-control"))
#: How long a cache may use a response without asking. The last is of Akamai's Edge-Control.
_LIFETIMES = ("max-age", "s-maxage", "cache-maxage")
#: nginx: seconds, or @ and a time.
_ACCEL = "x-accel-expires"
#: How the names end of all fields that are looked at here.
_ENDINGS = frozenset(("control", "expires"))


def is_storable(headers: Sequence[tuple[str, str]], now: float) -> bool:
    """Whether the application lets shared caches store the response, so that it must not carry a lease.

    Args:
        now: Unix seconds.
    """
    for name, _ in headers:
        if name[-7:].lower() in _ENDINGS:
            return _is_storable(headers, now)
    return False  # as for most responses


def _is_storable(headers: Sequence[tuple[str, str]], now: float) -> bool:
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    plain = _directives(fields.pop("cache-control", ()))
    if _allows(plain):
        return True
    for name, values in fields.items():
        if _is_targeted(name) and _allows(_directives(values)):
            return True
        if name == _ACCEL and any(value.strip() not in ("", "0", "off") for value in values):
            return True
    decided = plain.keys() & {*_LIFETIMES, "no-cache"} or _forbids(plain)
    return not decided and any(_is_future(value, now) for value in fields.get("expires", ()))


def merged(
    headers: Sequence[tuple[str, str]], set_cookies: Sequence[str], *, lease_only: bool, was_read: bool
) -> Headers:
    """The response's headers with ours. What the application said stays, but that it may be stored.

    RFC 9111, 7.3: Set-Cookie alone does not keep a shared cache from storing a response.
    """
    result = list(headers)
    varies = cached = False
    for name, _ in headers:
        ending = name[-7:].lower()
        varies |= ending == "vary"
        cached |= ending in _ENDINGS
    if set_cookies or was_read:
        if varies:
            _include(result, "vary", "Cookie", unless=("cookie", "*"))
        else:
            result.append(("Vary", "Cookie"))
    if set_cookies:
        if cached:
            _forbid(result, lease_only=lease_only)
        else:
            result.append(("Cache-Control", "private" if lease_only else "no-store"))
        for each in set_cookies:
            result.append(("Set-Cookie", each))
    return result


def _forbid(headers: Headers, *, lease_only: bool) -> None:
    """Keep shared caches from storing the response; any cache, unless it carries a lease only."""
    directive = "private" if lease_only else "no-store"
    for each in _missing([value for name, value in headers if name.lower() == "cache-control"], directive):
        _append(headers, "cache-control", "Cache-Control", each)
    for index, (name, value) in enumerate(headers):
        lowered = name.lower()
        if lowered == _ACCEL:
            headers[index] = name, "0"
        elif _is_targeted(lowered) and (missing := _missing([value], directive)):
            headers[index] = name, ", ".join([value, *missing] if value.strip() else missing)


def _append(headers: Headers, lowered: str, name: str, member: str) -> None:
    """Put *member* into the header *name*, a comma-separated list."""
    for index, (given, value) in enumerate(headers):
        if given.lower() == lowered:
            headers[index] = given, f"{value}, {member}" if value.strip() else member
            return
    headers.append((name, member))


def _include(headers: Headers, lowered: str, member: str, unless: tuple[str, ...]) -> None:
    """As ``_append``, unless something that makes it needless is there."""
    for given, value in headers:
        if given.lower() == lowered and any(each.strip().lower() in unless for each in value.split(",")):
            return
    _append(headers, lowered, lowered.title(), member)


def _is_targeted(lowered: str) -> bool:
    return lowered.endswith("-cache-control") or lowered in _TARGETED


def _parse(value: str) -> Iterator[tuple[str, str]]:
    """The directives in a field, lowered, each with its argument without quotes, "" if it has none."""
    for match in _members(value):
        yield match[1].lower(), (match[2] or "").strip('"')


def _directives(values: Sequence[str]) -> dict[str, str]:
    """The directives of a field. Of several with one name, that which is taken more seriously by some cache.

    Of several lifetimes a cache may take the first (RFC 9111, 4.2.1), and some take the last.
    """
    found: dict[str, str] = {}
    for value in values:
        for name, argument in _parse(value):
            if name not in found or (argument == "" if name == "private" else not _is_positive(found[name])):
                found[name] = argument
    return found


def _missing(values: Sequence[str], directive: str) -> list[str]:
    """What a field lacks of *directive*, without a condition; or of no-store, which says more.

    It counts only between commas: of ``no-store; max-age=0`` some caches make one directive of another name.
    """
    members = {each.strip().lower() for value in values for each in _remove_quoted(value).split(",")}
    missing = [] if members & {"no-store", directive} else [directive]
    if "must-understand" in _directives(values) and "private" not in members and missing != ["private"]:
        missing.append("private")
    return missing


def _allows(directives: dict[str, str]) -> bool:
    """Whether directives let shared caches store a response and use it without asking."""
    if _forbids(directives):
        return False
    return "public" in directives or any(_is_positive(directives.get(name)) for name in _LIFETIMES)


def _forbids(directives: dict[str, str]) -> bool:
    """Whether directives keep shared caches from storing a response."""
    # RFC 9111, 5.2.2.3: caches that implement must-understand ignore no-store beside it. 5.2.2.7: private="field"
    # speaks of that field only.
    return directives.get("private") == "" or ("no-store" in directives and "must-understand" not in directives)


def _is_positive(argument: str | None) -> bool:
    """Whether a number of seconds is more than 0. What cannot be read might be."""
    return argument is not None and not re.fullmatch(r"0+", argument)


def _is_future(date: str, now: float) -> bool:
    try:
        return bool(date) and parsedate_to_datetime(date).timestamp() > now
    except (ValueError, TypeError, OverflowError):
        return False  # RFC 9111, 5.3: an invalid date is in the past
