"""Each mechanism switched off, by a double and not by an option, makes a named row or a named invariant fail.

So the race table and the tests of the invariants are able to fail, and each mechanism is needed for something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import pytest

from wsgi_rollsession import RollSession, exchange, policy, presented, seal, token
from wsgi_rollsession.cookies import LONGEST, Cookies
from wsgi_rollsession.exchange import Exchange
from wsgi_rollsession.presented import Presented
from wsgi_rollsession.revocation.local_set import LocalSet
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.seal import Unsealable, seal_lease
from wsgi_rollsession.settings import Settings
from wsgi_rollsession.token import NEVER, UNLIMITED, Lease

from . import test_invariants as invariants
from .browser import Clock, wrap
from .test_race import LOST_BY_SINGLE, ROWS, VARIANTS


class Row(NamedTuple):
    """A row of the race table that a mutant makes fail, in just this way."""

    row: str
    variant: str
    outcome: Any
    options: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


class Test(NamedTuple):
    """A test of an invariant that a mutant makes fail, with this message."""

    __test__ = False

    test: Callable[[], None]
    message: str


class Mutant(NamedTuple):
    """What is switched off, and what notices."""

    off: Callable[[], AbstractContextManager[Any]]
    noticed: list[Row | Test]


def replace(owner: Any, name: str, double: Any) -> Callable[[], AbstractContextManager[Any]]:
    """A mutant with one double. Fails if there is nothing of that name to replace."""
    return lambda: mock.patch.object(owner, name, double)


def together(*mutations: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
    """Several mutants at once."""

    @contextmanager
    def all_of_them() -> Iterator[None]:
        with ExitStack() as stack:
            for mutation in mutations:
                stack.enter_context(mutation())
            yield

    return all_of_them


# Doubles

_refused, _extended = policy.refused, policy.extended
_rank, _unpack, _unpack_lease, _regenerate = exchange._rank, token.unpack, seal.unpack_lease, Exchange._begin_anew
_everyone, _open_session, _seal_session, _set = (
    Exchange._everyone,
    presented.open_session,
    exchange.seal_session,
    Cookies.set,
)
_call = RollSession.__call__


def resend(self: Exchange, base: Presented) -> Any:
    """A roll as everybody else does it: the session cookie again."""
    if policy.refused(base.record, self._context.store.lookup_now(base.keys)) is not None:
        return None, None
    return self._session_cookie(base.record, self._now), None


def resend_unchecked(self: Exchange, base: Presented) -> Any:
    return self._session_cookie(base.record, self._now), None


def _lease(self: Exchange, base: Presented, now: int) -> Any:
    name = Cookies.lease_name(base.name)
    value = seal_lease(self._context.ring, name, base.record.id, Lease(now, base.idle, base.record.version))
    return None, self._context.cookies.set(name, value, base.idle)


def roll_unchecked(self: Exchange, base: Presented) -> Any:
    return _lease(self, base, self._now)


_latest: list[RollSession] = []


def call_and_remember(self: RollSession, environ: Any, start_response: Any) -> Any:
    _latest[:] = [self]
    return _call(self, environ, start_response)


def roll_with_the_time_after_the_check(self: Exchange, base: Presented) -> Any:
    if policy.refused(base.record, self._context.store.lookup_now(base.keys)) is not None:
        return None, None
    return _lease(self, base, int(_latest[0]._context.clock() * 1000))


def only_the_chosen(self: Exchange) -> list[bytes]:
    return [self._base.key] if self._base is not None else []


def regenerate_and_leave(self: Exchange, *arguments: Any) -> None:
    with (
        mock.patch.object(self, "_everyone", list),
        mock.patch.object(self._context.store, "compare_and_raise", return_value=True),
    ):
        _regenerate(self, *arguments)


def regenerate_and_lift(self: Exchange, tags: Any, *rest: Any) -> None:
    """As in a peer: the login of a user deletes the mark that ended the user's sessions."""
    _regenerate(self, tags, *rest)
    for tag in tags or ():
        self._context.store._local._state[0].pop(tag, None)  # type: ignore[attr-defined]


def open_and_raise(self: Exchange, sessions: list[tuple[str, str]]) -> list[Presented]:
    return [Presented(self._context, name, value, self._leases.get(name), self._now) for name, value in sessions]


def open_and_tell(ring: Any, name: str, value: str) -> Any:
    try:
        return _open_session(ring, name, value)
    except Unsealable as error:
        raise Unsealable(f"{error}: {value}") from None


one_name = replace(Cookies, "name", lambda self, digest: self.prefix + "AAAAAAAA")
never_fenced = replace(MemoryRevocations, "fence", lambda self, keys, number: None)
unchecked_load = replace(Exchange, "_judge", lambda self, presented: None)
unchecked_write = replace(Exchange, "_check", lambda self: True)
unchecked_roll = replace(Exchange, "_roll", roll_unchecked)
one_for_all = together(
    replace(exchange, "seal_session", lambda ring, name, *rest: _seal_session(ring, "any", *rest)),
    replace(presented, "open_session", lambda ring, name, value: _open_session(ring, "any", value)),
)

MUTANTS: dict[str, Mutant] = {
    # Isolation
    "isolation off": Mutant(
        one_name,
        [
            Row("S4 lost login", "read", None),
            Row("S7 late", "write", None),
            Row("S8 queued", "read", None),
            Row("S8 queued", "write", None),
            Row("S8 queued past the login", "write", None),
            Row("S8 first visit", "write", None),
            Test(invariants.test_invariant_2_no_response_touches_another_session, "another session's cookies"),
        ],
    ),
    "a login does not outrank an anonymous session": Mutant(
        replace(exchange, "_rank", lambda each: _rank(each)[1:]),
        [
            Row("S8 queued past the login", "write", None),
            Row("S8 first visit", "write", None),
            Test(invariants.test_invariant_2_an_anonymous_session_does_not_hide_a_login, "the login was hidden"),
        ],
    ),
    "the earliest login is the session": Mutant(
        replace(exchange, "_rank", lambda each: -_rank(each)[1]),
        [Test(invariants.test_invariant_2_the_later_of_two_logins_wins, "the earlier login won")],
    ),
    "the single layout deletes the cookies of dead sessions": Mutant(
        replace(Exchange, "_doom", Exchange._delete),
        [Row("S4 lost login", "read", None, {"cookie_layout": "single"})],
    ),
    # Lease
    "lease off": Mutant(
        replace(Exchange, "_roll", resend),
        [
            Row("S5 stale overwrite", "read", None),
            Test(invariants.test_invariant_3_only_a_write_sends_the_session, "only a write sends the session"),
        ],
    ),
    "neither lease nor fence": Mutant(
        together(replace(Exchange, "_roll", resend_unchecked), never_fenced),
        [Row("S1 S2 resurrection", "read", "alice"), Row("S5 stale overwrite", "read", None)],
    ),
    "every response writes": Mutant(
        replace(Exchange, "_changed", lambda self, raw: self._base is not None or raw is not self._record.data),
        [
            Row("S5 stale overwrite", "read", None),
            Test(invariants.test_invariant_3_keys_are_rotated_by_writes_only, "only a write sends the session"),
        ],
    ),
    "the version is not bound in the lease": Mutant(
        replace(policy, "extended", lambda record, *rest: _extended(record._replace(version=UNLIMITED), *rest)),
        [
            Test(
                invariants.test_invariant_3_strict_old_copies_are_not_kept_alive_by_fresh_leases,
                "rolled back by an old",
            )
        ],
    ),
    # Fence
    "a logout only deletes the cookies": Mutant(
        never_fenced,
        [
            Row("S1 S2 resurrection", "write", "alice"),
            Row("S3 replay", "read", "alice"),
            Row("S3 replay", "write", "alice"),
            Row("S6 store interleaving", "read", "alice"),
            Row("S6 store interleaving", "write", "alice"),
            Test(invariants.test_invariant_1_nothing_is_accepted_after_a_logout, "accepted after its logout"),
        ],
    ),
    "no fence check on load": Mutant(
        unchecked_load,
        [
            Row("S3 replay", "read", "alice"),
            Row("S6 store interleaving", "read", "alice"),
            Test(invariants.test_invariant_1_nothing_is_accepted_after_a_logout, "accepted after its logout"),
            Test(invariants.test_invariant_1_in_the_single_layout, "accepted after its logout"),
        ],
    ),
    "no fence check before a roll": Mutant(
        unchecked_roll,
        [
            Test(invariants.test_invariant_1_nothing_is_issued_after_a_logout, "issued after the logout"),
            Test(invariants.test_invariant_1_a_process_that_cannot_ask_extends_nothing, "the outage extended it"),
        ],
    ),
    "no fence check before a write": Mutant(
        unchecked_write,
        [
            Test(invariants.test_invariant_1_nothing_is_issued_after_a_logout, "issued after the logout"),
            Test(invariants.test_invariant_1_in_the_single_layout, "issued after the logout"),
            Test(invariants.test_invariant_1_a_process_that_cannot_ask_extends_nothing, "the outage extended it"),
        ],
    ),
    "the expiry is computed after the check": Mutant(
        together(
            replace(RollSession, "__call__", call_and_remember),
            replace(Exchange, "_roll", roll_with_the_time_after_the_check),
        ),
        [Test(invariants.test_invariant_1_long_requests_are_no_way_around_the_fence, "alive again")],
    ),
    "invalidate() ends only the chosen session": Mutant(
        replace(Exchange, "_everyone", only_the_chosen),
        [
            Test(
                invariants.test_invariant_1_a_logout_ends_every_session_that_was_presented,
                "an older session was uncovered",
            )
        ],
    ),
    "invalidate() ends only the sessions that were examined": Mutant(
        replace(Exchange, "_beyond", True),
        [Test(invariants.test_invariant_1_a_logout_ends_more_sessions_than_are_examined, "an older session was left")],
    ),
    "regenerate() leaves the old session alone": Mutant(
        replace(Exchange, "_begin_anew", regenerate_and_leave),
        [Test(invariants.test_invariant_1_regenerate_ends_the_old_session, "the id from before the login")],
    ),
    "emptying is no logout": Mutant(
        replace(Exchange, "_emptied", lambda self, raw: False),
        [Test(invariants.test_invariant_1_emptying_is_a_logout, "cleared but not ended")],
    ),
    "the fences of tags are ignored": Mutant(
        replace(policy, "refused", lambda record, numbers: _refused(record, numbers[:2])),
        [Test(invariants.test_invariant_1_log_out_everywhere, "the tag's sessions have ended")],
    ),
    "a login does not pass the fences that exist": Mutant(
        replace(policy, "refused", lambda record, numbers: _refused(record._replace(passed=bytes(40)), numbers)),
        [Test(invariants.test_invariant_1_log_out_everywhere, "a login right after log out everywhere works")],
    ),
    "a login lifts the fence of its tag": Mutant(
        replace(Exchange, "_begin_anew", regenerate_and_lift),
        [Test(invariants.test_invariant_1_log_out_everywhere, "the login revived an old cookie")],
    ),
    "the fence's lifetime is too short": Mutant(
        replace(Settings, "fence_lifetime_ms", property(lambda self: self.idle_s * 500)),
        [Test(invariants.test_invariant_1_logged_out_as_long_as_it_could_live, "the fence was dropped too early")],
    ),
    "fences are never dropped": Mutant(
        replace(LocalSet, "purge", lambda self, now_ms: None),
        [Test(invariants.test_invariant_5_the_set_is_bounded, "more than one lifetime's fences")],
    ),
    "genesis is ignored": Mutant(
        replace(policy, "refused", lambda record, numbers: _refused(record, [0, *numbers[1:]])),
        [
            Test(invariants.test_invariant_6_a_store_that_lost_its_data_refuses, "from before the loss"),
            Test(invariants.test_invariant_1_revoke_session_and_everything, "everything was revoked"),
        ],
    ),
    # Stamped expiry
    "stamped expiry off": Mutant(
        together(
            replace(token, "unpack", lambda plaintext: _unpack(plaintext)._replace(idle=UNLIMITED, ends=NEVER)),
            replace(seal, "unpack_lease", lambda packed: _unpack_lease(packed)._replace(idle=UNLIMITED)),
        ),
        [
            Test(invariants.test_invariant_4_a_longer_timeout_does_not_reach_back, "issued under"),
            Test(
                invariants.test_invariant_4_a_longer_timeout_revives_nothing, "a configuration change brought it back"
            ),
            Test(invariants.test_invariant_4_the_absolute_deadline_stands, "past its absolute deadline"),
            Test(invariants.test_invariant_4_rolling_off_and_on, "past its absolute deadline"),
        ],
    ),
    "leases have no stamp": Mutant(
        replace(seal, "unpack_lease", lambda packed: _unpack_lease(packed)._replace(idle=UNLIMITED)),
        [
            Test(
                invariants.test_invariant_4_a_roll_is_as_short_as_the_timeout_it_was_made_under,
                "past the idle timeout that it was last rolled under",
            )
        ],
    ),
    "what is over by the clock here is not ended": Mutant(
        replace(exchange, "OVER", exchange.OVER | {policy.Why.ABSOLUTE}),
        [Test(invariants.test_invariant_1_a_logout_where_the_session_is_over_already, "the logout was not recorded")],
    ),
    "today's configuration is ignored": Mutant(
        together(
            replace(policy, "idle", lambda record, today: record.idle),
            replace(policy, "end", lambda record, today: record.ends),
        ),
        [Test(invariants.test_invariant_4_a_shorter_timeout_holds_at_once, "past today's timeout")],
    ),
    "only the browser ends sessions": Mutant(
        replace(policy, "expired", lambda *anything: None),
        [
            Test(invariants.test_invariant_4_the_idle_timeout_is_enforced, "past its idle timeout"),
            Test(invariants.test_invariant_4_the_absolute_deadline_stands, "past its absolute deadline"),
        ],
    ),
    "cookies have a Max-Age of their own": Mutant(
        replace(Cookies, "set", lambda self, name, value, max_age: _set(self, name, value, LONGEST)),
        [Test(invariants.test_invariant_4_max_age_is_what_is_left, "longer than the session lives")],
    ),
    # Versions
    "strict writes do not take turns": Mutant(
        replace(MemoryRevocations, "compare_and_raise", lambda self, limits, raises: True),
        [
            Row("S5 stale overwrite", "write", None, {"strict": True}),
            Test(invariants.test_invariant_3_strict_refuses_old_copies, "rolled back"),
        ],
    ),
    # Bad input
    "bad input raises": Mutant(
        replace(Exchange, "_open", open_and_raise),
        [Test(invariants.test_invariant_7_garbage_is_an_empty_session, "raised Unsealable")],
    ),
    "a value opens under any name": Mutant(
        one_for_all, [Test(invariants.test_invariant_7_garbage_is_an_empty_session, "__Host-session-")]
    ),
    "every candidate is opened": Mutant(
        replace(exchange, "CANDIDATES", 1_000_000),
        [Test(invariants.test_invariant_7_the_work_for_one_header_is_bounded, "opened more than it examines")],
    ),
    "the log shows what was refused": Mutant(
        replace(presented, "open_session", open_and_tell),
        [Test(invariants.test_invariant_7_one_line_says_why_without_secrets, "without secrets")],
    ),
}


def expected(row: str, variant: str, options: dict[str, Any]) -> Any:
    """The outcome of a row that has nothing switched off."""
    if options.get("cookie_layout") == "single":
        return LOST_BY_SINGLE.get((row, variant), ROWS[row][1])
    assert (row, variant) != ("S5 stale overwrite", "write") or options.get("strict")
    return ROWS[row][1]


def play(row: str, variant: str, options: dict[str, Any]) -> Any:
    """A row of the race table, on the memory store."""
    application = wrap(Clock(time.time()), renew_after=0, **options)
    return ROWS[row][0](application, VARIANTS[variant])


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant(name: str) -> None:
    """The mutant is noticed by each row and test that it names, in the way that it says; without it, all hold."""
    off, noticed = MUTANTS[name]
    for each in noticed:
        if isinstance(each, Row):
            holds = expected(each.row, each.variant, each.options)
            assert play(each.row, each.variant, each.options) == holds
            with off():
                assert play(each.row, each.variant, each.options) == each.outcome, each
            assert each.outcome != holds
        else:
            each.test()
            with off(), pytest.raises(AssertionError) as raised:
                each.test()
            assert each.message in str(raised.value), each


def test_every_row_has_a_mutant() -> None:
    """Every row of the race table is noticed to fail by some mutant."""
    named = {each.row for mutant in MUTANTS.values() for each in mutant.noticed if isinstance(each, Row)}
    assert named == set(ROWS)


def test_every_invariant_has_a_mutant() -> None:
    """Every one of the seven invariants is noticed to be broken by some mutant."""
    named = {
        each.test.__name__.split("_")[2]
        for mutant in MUTANTS.values()
        for each in mutant.noticed
        if isinstance(each, Test)
    }
    assert named == set("1234567")
