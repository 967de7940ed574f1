"""The record that follows from what happened, as tables. Times are milliseconds, counted from an arbitrary moment."""

from __future__ import annotations

from typing import Any

import pytest

from wsgi_rollsession import SessionConflict
from wsgi_rollsession.revocation.fence import EVERYTHING
from wsgi_rollsession.successor import Regeneration, begun, both, is_another_user, logged_in, renewed, written
from wsgi_rollsession.token import FAIL_OPEN, NEVER, TRANSIENT, UNASKED, UNLIMITED, Record

from .browser import settings

T = 1_800_000_000_000
HOUR = 3_600_000
ID = bytes(range(16))
USER, TENANT, NEW = (bytes([n]) * 16 for n in (1, 2, 3))


def asked(**what: Any) -> Regeneration:
    """What ``regenerate()`` asked for, an hour after the login."""
    numbers = {EVERYTHING: 90, USER: 91, TENANT: 92, NEW: 93}
    return Regeneration(None, None, None, None, T + HOUR, numbers, False)._replace(**what)


RECORD = Record(ID, 3, T, T, 3600, T + 24 * HOUR, 0, (10, 11, 12), (USER, TENANT), b'{"a":1}')


@pytest.mark.parametrize(
    ("options", "unasked", "expected"),
    [
        ({}, False, {"idle": 3600, "ends": T + 24 * HOUR, "flags": 0, "passed": (90,)}),
        ({}, True, {"idle": 3600, "ends": T + 24 * HOUR, "flags": UNASKED, "passed": (0,)}),
        ({"outage": "open"}, False, {"idle": 3600, "ends": T + 24 * HOUR, "flags": FAIL_OPEN, "passed": (90,)}),
        ({"outage": "open"}, True, {"idle": 3600, "ends": T + 24 * HOUR, "flags": FAIL_OPEN | UNASKED, "passed": (0,)}),
        ({"outage": "closed"}, False, {"idle": 3600, "ends": T + 24 * HOUR, "flags": 0, "passed": (90,)}),
        ({"absolute_timeout": None}, False, {"idle": 3600, "ends": NEVER, "flags": 0, "passed": (90,)}),
        ({"rolling": False}, False, {"idle": UNLIMITED, "ends": T + 24 * HOUR, "flags": 0, "passed": (90,)}),
    ],
)
def test_begun(options: dict[str, Any], unasked: bool, expected: dict[str, Any]) -> None:
    """An anonymous session has no login time and no tags. It has passed what everything had, if that could be asked."""
    record = begun(settings(**options), ID, T, 90, unasked=unasked, data=b"{}")
    assert record == Record(id=ID, version=1, created=T, authenticated=0, tags=(), data=b"{}", **expected)


def test_written() -> None:
    """A write changes the version, the data and what it is told of the expiry, and nothing that a login began with."""
    record = written(RECORD, 4, idle=900, ends=T + HOUR, data=b"{}")
    assert record == RECORD._replace(version=4, idle=900, ends=T + HOUR, data=b"{}")


@pytest.mark.parametrize(
    ("options", "what", "expected"),
    [
        ({}, {}, {"idle": 3600, "ends": T + 25 * HOUR, "flags": 0, "passed": (90, 91, 93)}),
        ({}, {"unasked": True}, {"idle": 3600, "ends": T + 25 * HOUR, "flags": UNASKED, "passed": (0, 0, 0)}),
        ({}, {"persistent": True}, {"idle": 3600, "ends": T + 25 * HOUR, "flags": 0, "passed": (90, 91, 93)}),
        ({}, {"persistent": False}, {"idle": 3600, "ends": T + 25 * HOUR, "flags": TRANSIENT, "passed": (90, 91, 93)}),
        ({"outage": "open"}, {}, {"idle": 3600, "ends": T + 25 * HOUR, "flags": FAIL_OPEN, "passed": (90, 91, 93)}),
        ({}, {"idle_s": 60}, {"idle": 60, "ends": T + 25 * HOUR, "flags": 0, "passed": (90, 91, 93)}),
        ({}, {"idle_s": 7200}, {"idle": 3600, "ends": T + 25 * HOUR, "flags": 0, "passed": (90, 91, 93)}),
        ({}, {"absolute_s": 7200}, {"idle": 3600, "ends": T + 3 * HOUR, "flags": 0, "passed": (90, 91, 93)}),
        ({}, {"absolute_s": 864_000}, {"idle": 3600, "ends": T + 25 * HOUR, "flags": 0, "passed": (90, 91, 93)}),
        ({"absolute_timeout": None}, {}, {"idle": 3600, "ends": NEVER, "flags": 0, "passed": (90, 91, 93)}),
        (
            {"absolute_timeout": None},
            {"absolute_s": 7200},
            {"idle": 3600, "ends": T + 3 * HOUR, "flags": 0, "passed": (90, 91, 93)},
        ),
        ({"rolling": False}, {}, {"idle": UNLIMITED, "ends": T + 25 * HOUR, "flags": 0, "passed": (90, 91, 93)}),
        ({"rolling": False}, {"idle_s": 60}, {"idle": 60, "ends": T + 25 * HOUR, "flags": 0, "passed": (90, 91, 93)}),
    ],
)
def test_logged_in(options: dict[str, Any], what: dict[str, Any], expected: dict[str, Any]) -> None:
    """A login begins at the call, has passed the numbers of the call, and lives as long as configured, or shorter."""
    record = logged_in(settings(**options), ID, (USER, NEW), asked(**what), b"{}")
    assert record == Record(
        id=ID, version=1, created=T + HOUR, authenticated=T + HOUR, tags=(USER, NEW), data=b"{}", **expected
    )


EPOCH = 1 << 16 | 1


@pytest.mark.parametrize(
    ("options", "before", "what", "expected"),
    [
        # Nobody was authenticated: login time and deadline stay.
        ({}, {}, {}, {}),
        ({}, {}, None, {}),
        ({"absolute_timeout": "8h"}, {}, {}, {"ends": T + 8 * HOUR}),
        ({"absolute_timeout": "30d"}, {}, {}, {}),
        ({"idle_timeout": "10m"}, {}, {}, {"idle": 600}),
        ({"idle_timeout": "5h"}, {}, {}, {}),
        ({}, {}, {"idle_s": 60}, {"idle": 60}),
        ({}, {"idle": 60}, {"idle_s": 600}, {"idle": 60}),
        ({}, {}, {"absolute_s": 7200}, {"ends": T + 2 * HOUR}),
        ({}, {"ends": T + HOUR}, {"absolute_s": 7200}, {"ends": T + HOUR}),
        ({"absolute_timeout": None}, {"ends": NEVER}, {}, {"ends": NEVER}),
        ({"absolute_timeout": None}, {"ends": NEVER}, {"absolute_s": 7200}, {"ends": T + 2 * HOUR}),
        # Somebody was: the deadline begins anew, with the length that it had, or a shorter one.
        ({}, {}, {"tags": ()}, {"authenticated": T + HOUR, "ends": T + 25 * HOUR}),
        ({"absolute_timeout": "8h"}, {}, {"tags": ()}, {"authenticated": T + HOUR, "ends": T + 9 * HOUR}),
        ({"absolute_timeout": "30d"}, {}, {"tags": ()}, {"authenticated": T + HOUR, "ends": T + 25 * HOUR}),
        ({}, {"ends": T + 2 * HOUR}, {"tags": ()}, {"authenticated": T + HOUR, "ends": T + 3 * HOUR}),
        ({}, {}, {"tags": (), "absolute_s": 60}, {"authenticated": T + HOUR, "ends": T + HOUR + 60_000}),
        (
            {},
            {"ends": T + 2 * HOUR},
            {"tags": (), "absolute_s": 7200 * 2},
            {"authenticated": T + HOUR, "ends": T + 5 * HOUR},
        ),
        ({}, {}, {"tags": (), "absolute_s": 864_000}, {"authenticated": T + HOUR, "ends": T + 25 * HOUR}),
        (
            {},
            {"idle": 60},
            {"tags": (), "idle_s": 600},
            {"authenticated": T + HOUR, "ends": T + 25 * HOUR, "idle": 600},
        ),
        ({}, {"idle": 60}, {"tags": ()}, {"authenticated": T + HOUR, "ends": T + 25 * HOUR}),
        ({}, {"ends": NEVER}, {"tags": ()}, {"authenticated": T + HOUR, "ends": T + 25 * HOUR}),
        ({"absolute_timeout": None}, {"ends": NEVER}, {"tags": ()}, {"authenticated": T + HOUR, "ends": NEVER}),
        ({"absolute_timeout": None}, {}, {"tags": ()}, {"authenticated": T + HOUR, "ends": T + 25 * HOUR}),
        # Its cookies.
        ({}, {}, {"persistent": False}, {"flags": TRANSIENT}),
        ({}, {"flags": TRANSIENT}, {"persistent": True}, {"flags": 0}),
        ({}, {"flags": TRANSIENT}, {}, {"flags": TRANSIENT}),
        ({}, {"flags": FAIL_OPEN}, {"persistent": False}, {"flags": FAIL_OPEN | TRANSIENT}),
        ({"outage": "open"}, {}, {}, {"flags": 0}),
        # Its version.
        ({}, {"version": 65_535}, None, {"version": EPOCH}),
        ({}, {"version": 5 << 16 | 9}, {}, {"version": 6 << 16 | 1}),
    ],
)
def test_renewed(
    options: dict[str, Any], before: dict[str, Any], what: dict[str, Any] | None, expected: dict[str, Any]
) -> None:
    """A new epoch keeps the login: its id, its creation, what it passed. Deadlines only shrink, from the login."""
    record = RECORD._replace(**before)
    following = renewed(settings(**options), record, record.tags, None if what is None else asked(**what), b"{}")
    assert following == record._replace(**{"version": EPOCH, "data": b"{}", **expected})


@pytest.mark.parametrize(
    ("tags", "passed"),
    [
        ((USER, TENANT), (10, 11, 12)),
        ((USER,), (10, 11)),
        ((TENANT, USER), (10, 12, 11)),
        ((), (10,)),
        ((USER, TENANT, NEW), (10, 11, 12, 93)),
        ((NEW,), (10, 93)),
    ],
)
def test_numbers_carry_over(tags: tuple[bytes, ...], passed: tuple[int, ...]) -> None:
    """A new epoch has passed what the login had passed, and of new tags what they had at the call."""
    record = renewed(settings(), RECORD, tags, asked(tags=tags), b"{}")
    assert (record.tags, record.passed) == (tags, passed)


def test_the_last_epoch() -> None:
    """After the last epoch of a login there is none."""
    with pytest.raises(SessionConflict):
        renewed(settings(), RECORD._replace(version=16_383 << 16 | 1), RECORD.tags, asked(), b"{}")


@pytest.mark.parametrize(
    ("held", "tags", "another"),
    [
        ((USER,), (USER,), False),
        ((USER, TENANT), (USER,), False),
        ((USER,), (TENANT, USER), False),
        ((), (USER,), False),
        ((USER,), (), False),
        ((), (), False),
        ((USER,), (NEW,), True),
        ((USER, TENANT), (NEW, TENANT), True),
        ((USER, TENANT), (USER, NEW), True),
    ],
)
def test_another_user(held: tuple[bytes, ...], tags: tuple[bytes, ...], another: bool) -> None:
    """Without an identity key, a login is another user's unless one of the two sets of tags contains the other."""
    assert is_another_user(held, tags) is another
    assert is_another_user(tags, held) is another


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        *(
            ({field: one}, {field: other}, {field: result})
            for field, one, other, result in (
                ("tags", (USER,), None, (USER,)),
                ("tags", None, (), ()),
                ("tags", (USER,), (TENANT,), (TENANT,)),
                ("idle_s", 60, None, 60),
                ("idle_s", None, 60, 60),
                ("idle_s", 60, 90, 90),
                ("absolute_s", 60, None, 60),
                ("absolute_s", None, 60, 60),
                ("absolute_s", 60, 90, 90),
                ("persistent", False, None, False),
                ("persistent", None, False, False),
                ("persistent", True, False, False),
                ("persistent", False, True, True),
                ("unasked", True, False, True),
                ("unasked", False, True, True),
                ("at", T, T + 1, T),
            )
        ),
        ({"numbers": {USER: 1}}, {"numbers": {USER: 2, NEW: 3}}, {"numbers": {USER: 1, NEW: 3}}),
    ],
)
def test_both(first: dict[str, Any], second: dict[str, Any], expected: dict[str, Any]) -> None:
    """Of two calls the later counts where it says something; moment and numbers are those of the earlier."""
    assert both(asked(**first), asked(**second)) == asked(**expected)
