"""Each rule switched off, by a double and not by an option, makes a named row, or a named test, fail.

So the race table and the tests of the invariants are able to fail, and each rule is needed for something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import pytest

from wsgi_rollsession import (
    StoreUnavailable,
    arrival,
    caching,
    exchange,
    logins,
    policy,
    presented,
    response,
    seal,
    successor,
    token,
)
from wsgi_rollsession.cookies import LONGEST_S, PAIRS, Cookies, Found, Sent
from wsgi_rollsession.document import EMPTY, Document
from wsgi_rollsession.exchange import Exchange
from wsgi_rollsession.policy import Ended
from wsgi_rollsession.presented import Opening, Presented, Site
from wsgi_rollsession.revocation import memory
from wsgi_rollsession.revocation.clock import SteadyClock
from wsgi_rollsession.revocation.fence import ENDED
from wsgi_rollsession.revocation.local_set import LocalSet
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.seal import Unsealable
from wsgi_rollsession.settings import Settings
from wsgi_rollsession.standing import Act, Change
from wsgi_rollsession.token import NEVER, UNLIMITED, Lease, Record, epoch

from . import test_choosing as choosing
from . import test_invariants as invariants
from . import test_logout as logout_tests
from . import test_regenerate as regenerating
from . import test_rolling as rolling
from .browser import Clock, login, logout, put, untouched, who
from .test_invariants import LOGOUTS, RENEWALS, STAGED
from .test_race import ROWS, expected, table


class Row(NamedTuple):
    """A row of the race table that a mutant makes fail, in just this way."""

    row: str
    variant: str
    outcome: Any
    options: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


class Test(NamedTuple):
    """A test that a mutant makes fail, with this message; and what it is called with, a new clock where that is due."""

    __test__ = False

    test: Callable[..., None]
    message: str
    arguments: tuple[Any, ...] = ()

    def run(self) -> None:
        self.test(*(each() if each is Clock else each for each in self.arguments))


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


# What the doubles stand for

_rank, _judge, _choose = arrival.rank, arrival.judge, arrival.Arrival.choose
_unpack, _unpack_lease, _lease = token.unpack, seal.unpack_lease, response.seal_lease
_refused, _extended, _expired = policy.refused, policy.extended, policy.expired
_open_session, _open_lease, _seal_session = presented.open_session, presented.open_lease, exchange.seal_session
_commit, _roll, _begin, _end_others, _end_unseen = (
    response.commit,
    response._roll,
    response._begin,
    response._end_others,
    response.end_unseen,
)
_log_out, _begin_epoch, _log_in = logins.log_out, logins._begin_epoch, logins.log_in
_logged_in, _renewed = successor.logged_in, successor.renewed
_now, _seal, _change, _start_over = Exchange.now, Exchange.seal, Exchange.change, Exchange.start_over
_regenerate, _clear, _everyone = Exchange.regenerate, Exchange.clear, Exchange.everyone
_parse, _header, _deletions, _opening = Cookies.parse, Cookies.header, Cookies.deletions, Site._opening
_compare_and_raise, _merged, _genesis = MemoryRevocations.compare_and_raise, caching.merged, memory.genesis
_next_revoked_before = memory.next_revoked_before


# Slots


def one_more_each_time() -> Callable[[], AbstractContextManager[Any]]:
    """Each login that asks gets another pair."""
    count = iter(range(1_000_000))

    def next_pair(self: Exchange) -> int:
        if "another_pair" not in self.__dict__:
            self.__dict__["another_pair"] = next(count) % PAIRS + 1
        return int(self.__dict__["another_pair"])

    return replace(Exchange, "next_pair", property(next_pair))


def next_in_the_row(name: str) -> str:
    base, _, slot = name.rpartition("-")
    return f"{base}-{int(slot[0]) % PAIRS + 1}"


def begin_in_a_slot(self: Exchange, data: bytes) -> None:
    cookies = self.site.cookies
    anonymous, cookies.anonymous = cookies.anonymous, cookies.in_pair(self.next_pair)
    try:
        _begin(self, data)
    finally:
        cookies.anonymous = anonymous


def without_the_slot(do: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    def double(self: Exchange) -> None:
        with mock.patch.object(Exchange, "advance_slot"):
            do(self)

    return double


def in_acts(act: Act, double: Any) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch.dict(response._LOGINS, {act: double})


def delete_what_is_dead(self: Exchange, wants_roll: Any) -> list[Sent]:
    sent = _commit(self, wants_roll)
    if self.document is None:
        return sent
    names = {each.name for each in sent}
    dead = [each.name for each in self.arrival.presented if each.ended is not None and each.name not in names]
    return [*sent, *(Sent(name, None, None) for name in dead)]


def end_all_others(self: Exchange, session: Presented) -> None:
    others = [each for each in self.arrival.presented if each.record.id != session.record.id]
    if others:
        self.site.store.fence(logins.fences(others), ENDED)


def end_other_versions(self: Exchange, session: Presented) -> None:
    others = [each for each in self.arrival.presented if each.is_login and each.record != session.record]
    if others:
        self.site.store.fence(logins.fences(others), ENDED)


def end_others_and_roll(self: Exchange, session: Presented, wants_roll: Any) -> None:
    _end_others(self, session)
    _roll(self, session, wants_roll)


# Ending


def only_the_living(self: Exchange) -> list[Presented]:
    return [each for each in _everyone(self) if each.ended is None]


def only_the_chosen(self: Exchange) -> list[Presented]:
    return [] if self.session is None else [self.session]


def clear_by_removing(self: Exchange) -> None:
    document = self.changing()
    for key in list(document.read()):
        document.remove(key)


def clear_at_once(self: Exchange) -> None:
    self.load()
    if self.everyone():
        self.site.store.fence(logins.fences(self.everyone()), ENDED)
    _clear(self)


def emptied_is_cleared(self: Exchange, raw: bytes) -> Change:
    return Change.CLEARED if raw == EMPTY and self.is_somebody() else _change(self, raw)


def a_write_instead(change: Change) -> Callable[[Exchange, bytes], Change]:
    def double(self: Exchange, raw: bytes) -> Change:
        found = _change(self, raw)
        return Change.WRITTEN if found is change else found

    return double


def unless_overtaken(self: MemoryRevocations, limits: Any, raises: Any) -> bool:
    return True if not limits else _compare_and_raise(self, limits, raises)


def whatever_is_held(self: MemoryRevocations, limits: Any, raises: Any) -> bool:
    return _compare_and_raise(self, (), raises)


def one_after_another(self: MemoryRevocations, limits: Any, raises: Sequence[tuple[bytes, int]]) -> bool:
    for key, number in raises:
        self.fence([key], number)
    return _compare_and_raise(self, limits, ())


def no_epochs(self: MemoryRevocations, limits: Any, raises: Sequence[tuple[bytes, int]]) -> bool:
    return _compare_and_raise(self, limits, [(key, number) for key, number in raises if number == ENDED])


def tags_first(self: Exchange, session: Presented, record: Record, limits: Any = (), raises: Any = ()) -> None:
    for key, number in raises:
        self.site.store.fence([key], number)
    own = tuple(zip(session.keys[:2], session.limits[:2]))
    with mock.patch.object(
        MemoryRevocations, "compare_and_raise", lambda store, _, new: _compare_and_raise(store, own, new)
    ):
        _begin_epoch(self, session, record)


# All or nothing


def regenerate_at_once(self: Exchange, *arguments: Any) -> None:
    _regenerate(self, *arguments)
    response.save(self)


def end_before_sealing(self: Exchange, *arguments: Any) -> Sent:
    if self.everyone():
        self.site.store.fence(logins.fences(self.everyone()), ENDED)
    return _seal(self, *arguments)


def numbers_of_the_response(self: Exchange, *arguments: Any) -> None:
    _regenerate(self, *arguments)
    assert self.regeneration is not None
    self.regeneration = self.regeneration._replace(numbers={})


# Stamps and leases


def resend(self: Exchange, session: Presented, wants_roll: Any) -> None:
    """A roll as everybody else does it: the session cookie again."""
    now = self.now()
    if policy.refused(self.site.store.lookup_now(session.keys), session.limits) is None:
        self.settle(_seal(self, session.name, session.record, now, now))


def resend_unchecked(self: Exchange, session: Presented, wants_roll: Any) -> None:
    now = self.now()
    self.settle(_seal(self, session.name, session.record, now, now))


def lease(self: Exchange, session: Presented, now: int) -> None:
    name = self.site.cookies.lease_name(session.name)
    value = _lease(self.site.ring, name, session.record.id, Lease(now, session.idle, session.record.version))
    self.settle(Sent(name, value, session.idle))


def roll_unchecked(self: Exchange, session: Presented, wants_roll: Any) -> None:
    lease(self, session, self.now())


def roll_stamped_after_the_check(self: Exchange, session: Presented, wants_roll: Any) -> None:
    if policy.refused(self.site.store.lookup_now(session.keys), session.limits) is None:
        lease(self, session, self.now())


def one_reading_a_request(self: Exchange) -> int:
    return int(self.__dict__.setdefault("_first_reading", _now(self)))


def one_reading_a_response(self: Exchange, wants_roll: Any) -> list[Sent]:
    moment = _now(self)
    with mock.patch.object(Exchange, "now", return_value=moment):
        return _commit(self, wants_roll)


def extended_by_any_version(record: Record, issued: int, found: Lease) -> tuple[int, int]:
    return _extended(record._replace(version=found.version), issued, found)


def extended_by_any_epoch(record: Record, issued: int, found: Lease) -> tuple[int, int]:
    if epoch(found.version) < epoch(record.version):
        found = found._replace(version=record.version)
    return _extended(record, issued, found)


# What a session has passed, and how long it lives


def passed_though_unasked(settings: Settings, id_: bytes, tags: Any, what: Any, data: bytes) -> Record:
    return _logged_in(settings, id_, tags, what._replace(unasked=False), data)


def passing_everything(*arguments: Any) -> Record:
    record = _renewed(*arguments)
    return record._replace(passed=(ENDED - 1,) * len(record.passed))


def authenticated_again(settings: Settings, record: Record, tags: Any, what: Any, data: bytes) -> Record:
    what = what or successor.Regeneration(None, None, None, None, record.created, {}, False)
    return _renewed(settings, record, tags, what._replace(tags=record.tags), data)


def renews_nothing(self: LocalSet, rows: Any) -> None:
    """A key that is there is kept until the end that it had."""
    with self._lock:
        recent, _, expires = self._state
        for key, number, expires_ms in rows:
            expires.setdefault(key, expires_ms)
            recent[key] = max(number, recent.get(key, 0))


# Headers


def eight_candidates(self: Cookies, header: str) -> Found:
    found = _parse(self, header)
    return found._replace(sessions=found.sessions[-8:])


def the_last_lease(self: Cookies, header: str) -> Found:
    found = _parse(self, header)
    return found._replace(leases={name: values[-1:] for name, values in found.leases.items()})


def opening_that_raises(self: Site, header: str) -> Opening:
    for name, value in self.cookies.parse(header).sessions:
        self.open(name, value)
    return _opening(self, header)


def open_and_tell(ring: Any, name: str, value: str) -> Any:
    try:
        return _open_session(ring, name, value)
    except Unsealable as error:
        raise Unsealable(f"{error}: {value}") from None


def ask_for_each(found: Sequence[Presented], now: int, look_up: Any) -> None:
    for each in found:
        _judge([each], now, look_up)


class Verbose:
    """A log with a line for each refusal."""

    def info(self, text: str, first: str, more: str) -> None:
        for _ in range(1 + bool(more)):
            arrival_log.info(text, first, more)


arrival_log = arrival.log


def merged_without(name: str) -> Callable[..., Any]:
    def double(headers: Any, *arguments: Any, **named: Any) -> Any:
        return [pair for pair in _merged(headers, *arguments, **named) if pair[0] != name or pair in headers]

    return double


never_fenced = together(
    replace(MemoryRevocations, "fence", lambda self, keys, number: None),
    replace(MemoryRevocations, "compare_and_raise", lambda self, limits, raises: True),
)
one_for_all = together(
    replace(exchange, "seal_session", lambda ring, name, *rest: _seal_session(ring, "any", *rest)),
    replace(presented, "open_session", lambda ring, name, value: _open_session(ring, "any", value)),
)
keep_all_data = replace(Document, "keep_assigned", lambda self: None)

MUTANTS: dict[str, Mutant] = {
    # Slots
    "isolation off": Mutant(
        together(
            replace(Cookies, "next_pair", lambda self, slot, presented: 1),
            replace(Cookies, "other_half", staticmethod(lambda name: name)),
        ),
        [
            Row("S7 late", "write", None),
            Test(invariants.test_invariant_2_no_response_touches_another_session, "another session's", (put("a", 1),)),
            Test(invariants.test_invariant_2_no_late_response_hides_a_login, "the login was lost", (put("a", 1),)),
        ],
    ),
    "isolation off, and reads delete what is dead": Mutant(
        together(
            replace(Cookies, "next_pair", lambda self, slot, presented: 1),
            replace(response, "commit", delete_what_is_dead),
        ),
        [
            Row("S4 lost login", "read", None),
            Row("S8 queued", "read", None),
        ],
    ),
    "a login takes the next pair, whatever lies there": Mutant(
        replace(Cookies, "next_pair", lambda self, slot, presented: slot % PAIRS + 1),
        [Test(invariants.test_invariant_2_a_slot_that_is_taken, "where a late write arrives")],
    ),
    "a logout does not advance the slot": Mutant(
        replace(Exchange, "start_over", without_the_slot(_start_over)),
        [Test(invariants.test_invariant_2_a_logout_beside_a_login, "the late login lies", (logout,))],
    ),
    "a logout by clear() does not advance the slot": Mutant(
        in_acts(Act.LOGOUT, without_the_slot(_log_out)),
        [Test(invariants.test_invariant_2_a_logout_beside_a_login, "the late login lies", (LOGOUTS["clear"],))],
    ),
    "a logout that finds nobody does not advance the slot": Mutant(
        replace(response, "end_unseen", without_the_slot(_end_unseen)),
        [Test(invariants.test_invariant_2_a_logout_beside_a_login, "the late login lies", (LOGOUTS["pop"],))],
    ),
    "one row of slots": Mutant(
        replace(Cookies, "other_half", staticmethod(next_in_the_row)),
        [Test(invariants.test_invariant_2_an_epoch_beside_a_login, "lies where the login was")],
    ),
    "logins in parallel take slots of their own": Mutant(
        one_more_each_time(),
        [
            Row("S10 logins in parallel", "first visit", "too large"),
            Test(invariants.test_invariant_5_logins_in_parallel_share_a_slot, "a slot for each of them"),
        ],
    ),
    "an anonymous session takes a slot": Mutant(
        replace(response, "_begin", begin_in_a_slot),
        [Test(invariants.test_invariant_5_a_first_visit_gets_one_cookie, "a cookie for each image")],
    ),
    "reads and writes delete what is dead": Mutant(
        replace(response, "commit", delete_what_is_dead),
        [
            Test(invariants.test_invariant_1_reads_leave_a_logout_what_it_needs, "logged in again after the logout"),
            Test(
                choosing.test_reads_and_writes_delete_nothing,
                "a read or a write deleted something",
                (Clock, lambda browser: browser.clock.advance(3600), Ended.IDLE, who),
            ),
        ],
    ),
    # Choosing
    "a login does not outrank an anonymous session": Mutant(
        replace(arrival, "rank", lambda each: _rank(each)[1:]),
        [
            Row("S8 queued past the login", "write", None),
            Row("S8 first visit", "write", None),
            Test(invariants.test_invariant_2_an_anonymous_session_does_not_hide_a_login, "the login was hidden"),
        ],
    ),
    "the earliest login is the session": Mutant(
        replace(arrival, "rank", lambda each: -_rank(each)[1]),
        [Test(invariants.test_invariant_2_the_later_of_two_logins_wins, "the earlier login won")],
    ),
    "a read ends what is nobody's": Mutant(
        replace(response, "_end_others", end_all_others),
        [Test(invariants.test_invariant_5_visitors_cost_the_set_nothing, "a fence for what is nobody's")],
    ),
    "other logins are left alone": Mutant(
        replace(response, "_end_others", lambda self, session: None),
        [
            Test(choosing.test_a_roll_sorts_out_several_logins, "another login was left", (Clock, untouched)),
            Test(choosing.test_a_write_ends_the_other_logins, "another login was left", (Clock, put("a", 1))),
        ],
    ),
    "two versions of one login are two": Mutant(
        replace(response, "_end_others", end_other_versions),
        [Test(choosing.test_two_versions_of_one_login_are_one, "ended as another login", (Clock, who))],
    ),
    "others are ended before the store has said yes": Mutant(
        replace(response, "_roll", end_others_and_roll),
        [Test(choosing.test_a_roll_that_is_refused_ends_no_other_session, "has ended the other", (Clock,))],
    ),
    "eight candidates": Mutant(
        replace(Cookies, "parse", eight_candidates),
        [Test(invariants.test_invariant_7_only_what_authenticates_counts, "hidden by junk")],
    ),
    # Identity
    "the identity is no tag": Mutant(
        replace(Exchange, "with_identity", lambda self, tags: tags),
        [Test(invariants.test_invariant_1_log_out_everywhere_by_identity, "the user's tag does not end it")],
    ),
    "an identity that goes is a write": Mutant(
        together(
            replace(Exchange, "change", a_write_instead(Change.LOGGED_OUT)),
            replace(response, "end_unseen", lambda self: None),
        ),
        [
            Row("S11 documented logout", "pop", "alice", {"identity_key": "user"}),
            Row("S11 documented logout", "None", "alice", {"identity_key": "user"}),
            Test(
                invariants.test_invariant_1_nothing_is_accepted_after_a_logout,
                "accepted after its logout",
                (LOGOUTS["pop"],),
            ),
        ],
    ),
    "an identity that changes is a write": Mutant(
        replace(Exchange, "change", a_write_instead(Change.SWITCHED)),
        [Test(invariants.test_invariant_1_another_user_begins_with_nothing, "the other user's session")],
    ),
    "another user gets the data": Mutant(
        keep_all_data,
        [
            Test(invariants.test_invariant_1_another_user_begins_with_nothing, "the other user's data"),
            Test(invariants.test_invariant_1_the_data_of_an_ended_visitor_do_not_live_on, "its data live on"),
        ],
    ),
    "all tags are of the same user": Mutant(
        replace(exchange, "is_another_user", lambda held, tags: False),
        [Test(invariants.test_invariant_1_another_user_begins_with_nothing, "the other user's data")],
    ),
    "other tags are of another user": Mutant(
        replace(exchange, "is_another_user", lambda held, tags: set(held) != set(tags)),
        [Test(invariants.test_invariant_1_the_id_ends_every_epoch, "")],
    ),
    # Ending
    "a logout only deletes the cookies": Mutant(
        never_fenced,
        [
            Row("S1 S2 resurrection", "write", "alice"),
            Row("S3 replay", "read", "alice"),
            Row("S3 replay", "write", "alice"),
            Row("S6 store interleaving", "read", "alice"),
            Row("S6 store interleaving", "write", "alice"),
            Row("S9 elevation", "answered", "alice"),
            Row("S11 documented logout", "clear", "alice"),
            Test(
                invariants.test_invariant_1_nothing_is_accepted_after_a_logout, "accepted after its logout", (logout,)
            ),
        ],
    ),
    "clear() is no logout": Mutant(
        replace(Exchange, "clear", clear_by_removing),
        [
            Row("S11 documented logout", "clear", "alice"),
            Row("S11 documented logout", "clear, message", "alice"),
            Test(
                invariants.test_invariant_1_the_data_do_not_live_on,
                "its data live on",
                (invariants.ENDS["clear"],),
            ),
        ],
    ),
    "being empty is a logout": Mutant(
        replace(Exchange, "change", emptied_is_cleared),
        [Test(logout_tests.test_being_empty_ends_nothing, "ended by being empty", (Clock, lambda s: s.pop("message")))],
    ),
    "a logout ends what is alive": Mutant(
        replace(Exchange, "everyone", only_the_living),
        [
            Row("S9 elevation", "answered", "alice"),
            Test(
                invariants.test_invariant_1_a_logout_where_the_session_is_over_already,
                "the logout was not recorded",
                (logout,),
            ),
            Test(
                invariants.test_invariant_1_a_logout_ends_the_epoch_under_way,
                "logged in again after the logout",
                (RENEWALS["regenerate"], logout),
            ),
        ],
    ),
    "a logout ends the chosen session": Mutant(
        replace(Exchange, "everyone", only_the_chosen),
        [
            Test(
                invariants.test_invariant_1_a_logout_ends_every_login_that_was_presented,
                "an older login was left",
                (logout,),
            ),
            Test(invariants.test_invariant_1_a_logout_ends_any_number_of_logins, "a login was left", (logout,)),
        ],
    ),
    "a logout that finds nobody does nothing": Mutant(
        replace(response, "end_unseen", lambda self: None),
        [
            Test(
                invariants.test_invariant_1_a_logout_ends_the_epoch_under_way,
                "logged in again after the logout",
                (RENEWALS["regenerate"], LOGOUTS["pop"]),
            )
        ],
    ),
    "a logout that was overtaken is dropped": Mutant(
        replace(MemoryRevocations, "compare_and_raise", unless_overtaken),
        [
            Test(
                invariants.test_invariant_1_a_logout_that_is_overtaken_by_an_epoch,
                "logged in again after the logout",
                (LOGOUTS["pop"],),
            )
        ],
    ),
    "what is over by the clock here is over everywhere": Mutant(
        replace(presented, "OVER", presented.OVER | {Ended.ABSOLUTE, Ended.IDLE}),
        [Test(invariants.test_invariant_1_a_login_in_an_outage_leaves_nobody_behind, "somebody was left behind")],
    ),
    "only what opens is deleted": Mutant(
        replace(Exchange, "names", lambda self: [each.name for each in self.arrival.presented]),
        [Test(invariants.test_invariant_5_what_no_key_opens_is_deleted, "cookies that no key opens are left")],
    ),
    "one form of a partitioned cookie is deleted": Mutant(
        replace(Cookies, "deletions", lambda self, name: _deletions(self, name)[:1]),
        [Test(logout_tests.test_partitioned_was_switched_on, "one of the forms is left", (Clock, logout))],
    ),
    "a login leaves the session before it alone": Mutant(
        replace(logins, "fences", lambda sessions: []),
        [Test(invariants.test_invariant_1_a_login_ends_the_session_before_it, "the session from before the login")],
    ),
    "a login keeps the id": Mutant(
        replace(Exchange, "next_id", lambda self: self.session.record.id if self.session else bytes(16)),
        [Test(invariants.test_invariant_1_a_login_ends_the_session_before_it, "")],
    ),
    # The checks
    "no fence check on load": Mutant(
        replace(arrival.Arrival, "choose", lambda self, now, look_up: _choose(self, now, lambda keys: [0] * len(keys))),
        [
            Row("S3 replay", "read", "alice"),
            Row("S6 store interleaving", "read", "alice"),
            Test(
                invariants.test_invariant_1_nothing_is_accepted_after_a_logout, "accepted after its logout", (logout,)
            ),
        ],
    ),
    "no fence check before a roll": Mutant(
        replace(response, "_roll", roll_unchecked),
        [
            Test(invariants.test_invariant_1_nothing_is_issued_after_a_logout, "issued after the logout"),
            Test(invariants.test_invariant_1_a_process_that_cannot_ask_extends_nothing, "the outage extended it"),
        ],
    ),
    "no fence check before a write": Mutant(
        replace(response, "_confirm", lambda self, ask: None),
        [
            Test(invariants.test_invariant_1_nothing_is_issued_after_a_logout, "issued after the logout"),
            Test(invariants.test_invariant_1_a_process_that_cannot_ask_extends_nothing, "the outage extended it"),
        ],
    ),
    "whatever is raised is raised without a condition": Mutant(
        replace(MemoryRevocations, "compare_and_raise", whatever_is_held),
        [
            Row("S5 stale overwrite", "write", None, {"versioned": True}),
            Test(invariants.test_invariant_1_the_data_of_an_ended_visitor_do_not_live_on, "its data live on"),
            Test(
                invariants.test_invariant_1_a_logout_that_is_overtaken_by_an_epoch,
                "its data live on",
                (LOGOUTS["pop"],),
            ),
            Test(
                regenerating.test_what_is_ended_at_the_very_moment,
                "carried on",
                (Clock, RENEWALS["regenerate"], regenerating.END["logout"]),
            ),
        ],
    ),
    "the fences of tags are ignored": Mutant(
        replace(policy, "refused", lambda numbers, limits: _refused(numbers[:2], limits[:2])),
        [Test(invariants.test_invariant_1_log_out_everywhere, "the tag's sessions have ended")],
    ),
    "the fence's lifetime is too short": Mutant(
        replace(Settings, "fence_lifetime_ms", property(lambda self: self.idle_s * 500)),
        [Test(invariants.test_invariant_1_logged_out_as_long_as_it_could_live, "the fence was dropped too early")],
    ),
    "a raise does not renew the lifetime": Mutant(
        replace(LocalSet, "load", renews_nothing),
        [Test(invariants.test_invariant_1_a_logout_after_an_epoch_is_kept_as_long, "the fence was dropped too early")],
    ),
    "fences are never dropped": Mutant(
        replace(LocalSet, "purge", lambda self, now_ms: None),
        [Test(invariants.test_invariant_5_the_set_is_bounded, "more than one lifetime's fences")],
    ),
    "genesis is ignored": Mutant(
        replace(policy, "refused", lambda numbers, limits: _refused([0, *numbers[1:]], limits)),
        [
            Test(invariants.test_invariant_6_a_store_that_lost_its_data_refuses, "from before the loss"),
            Test(invariants.test_invariant_1_revoke_session_and_everything, "everything was revoked"),
        ],
    ),
    "a genesis is even": Mutant(
        replace(memory, "genesis", lambda *arguments: _genesis(*arguments) + 1 & ~1),
        [Test(invariants.test_invariant_6_a_store_that_lost_its_data_refuses, "nobody is told of the loss")],
    ),
    "a revocation of everything is odd": Mutant(
        replace(memory, "next_revoked_before", lambda at, held, **_: (_next_revoked_before(at, held) or 0) | 1),
        [Test(invariants.test_invariant_6_a_revocation_is_no_loss, "taken for a loss")],
    ),
    # All or nothing
    "regenerate() acts at once": Mutant(
        replace(Exchange, "regenerate", regenerate_at_once),
        [
            Test(
                invariants.test_invariant_8_a_request_that_failed_has_done_nothing,
                "something was ended",
                (STAGED["regenerate"],),
            ),
            Test(invariants.test_invariant_8_a_login_that_failed_has_done_nothing, "something", (login("bob"),)),
        ],
    ),
    "clear() acts at once": Mutant(
        replace(Exchange, "clear", clear_at_once),
        [
            Test(
                invariants.test_invariant_8_a_request_that_failed_has_done_nothing,
                "something was ended",
                (STAGED["clear"],),
            )
        ],
    ),
    "what was before is ended first, and then sealed": Mutant(
        replace(Exchange, "seal", end_before_sealing),
        [
            Test(
                invariants.test_invariant_8_a_request_that_failed_has_done_nothing,
                "something was ended",
                (STAGED["another identity"],),
            )
        ],
    ),
    "what failed is tried again": Mutant(
        replace(Exchange, "revert", lambda self: None),
        [
            Test(invariants.test_invariant_8_a_retry_inside_the_application, "the first try counts"),
            Test(regenerating.test_a_response_that_failed_is_not_tried_again, "tried again", (Clock, StoreUnavailable)),
        ],
    ),
    "a raise for each key": Mutant(
        replace(MemoryRevocations, "compare_and_raise", one_after_another),
        [Test(invariants.test_invariant_8_a_store_that_fails_has_ended_nothing, "a step of several")],
    ),
    "a discarded pass is forgotten": Mutant(
        replace(Exchange, "settled", []),
        [
            Test(
                invariants.test_invariant_8_a_pass_that_was_discarded,
                "the discarded pass was forgotten",
                (invariants.count, False),
            )
        ],
    ),
    "what is passed is of the response": Mutant(
        replace(Exchange, "regenerate", numbers_of_the_response),
        [Test(invariants.test_invariant_1_a_revocation_between_login_and_response, "passed what was raised since")],
    ),
    # Leases and stamps
    "lease off": Mutant(
        replace(response, "_roll", resend),
        [
            Row("S5 stale overwrite", "read", None),
            Test(invariants.test_invariant_3_only_a_write_sends_the_session, "only a write sends the session"),
        ],
    ),
    "neither lease nor fence": Mutant(
        together(replace(response, "_roll", resend_unchecked), never_fenced),
        [Row("S1 S2 resurrection", "read", "alice"), Row("S5 stale overwrite", "read", None)],
    ),
    "every response writes": Mutant(
        replace(
            Exchange,
            "change",
            lambda self, raw: Change.WRITTEN if _change(self, raw) is Change.SAME else _change(self, raw),
        ),
        [
            Row("S5 stale overwrite", "read", None),
            Test(invariants.test_invariant_3_keys_are_rotated_by_writes_only, "only a write sends the session"),
        ],
    ),
    "the version is not bound in the lease": Mutant(
        replace(
            policy, "extended", lambda record, at, found: _extended(record._replace(version=found.version), at, found)
        ),
        [
            Test(
                invariants.test_invariant_3_versioned_old_copies_are_not_kept_alive_by_fresh_leases,
                "rolled back by an old",
            )
        ],
    ),
    "the epoch is not bound in the lease": Mutant(
        replace(policy, "extended", extended_by_any_epoch),
        [
            Test(
                invariants.test_invariant_4_a_lease_of_another_epoch_extends_nothing,
                "extended by another epoch's lease",
            )
        ],
    ),
    "the id is not bound in the lease": Mutant(
        together(
            replace(response, "seal_lease", lambda ring, name, id_, found: _lease(ring, name, b"", found)),
            replace(presented, "open_lease", lambda ring, name, id_, value: _open_lease(ring, name, b"", value)),
        ),
        [Test(rolling.test_a_lease_of_another_session_is_nothing, "alice's lease for bob", (Clock,))],
    ),
    "the last of several leases counts": Mutant(
        replace(Cookies, "parse", the_last_lease),
        [Test(invariants.test_invariant_7_the_best_lease_counts, "the lease was hidden")],
    ),
    "one reading of the clock a request": Mutant(
        replace(Exchange, "now", one_reading_a_request),
        [Test(invariants.test_invariant_4_activity_does_not_go_back, "an active user is out")],
    ),
    "one reading of the clock a response": Mutant(
        replace(response, "commit", one_reading_a_response),
        [
            Test(invariants.test_invariant_1_a_suspended_process_revives_nothing, "alive again", (each,))
            for each in (who, put("a", 1), RENEWALS["regenerate"])
        ],
    ),
    "the stamp is of after the check": Mutant(
        replace(response, "_roll", roll_stamped_after_the_check),
        [Test(invariants.test_invariant_1_long_requests_are_no_way_around_the_fence, "alive again")],
    ),
    # Caches
    "storable responses are rolled": Mutant(
        replace(caching, "is_storable", lambda headers, now: False),
        [
            Test(
                rolling.test_what_a_shared_cache_may_store_carries_no_lease,
                "a cache could store the lease",
                (Clock, untouched, header),
            )
            for header in rolling.STORABLE
        ],
    ),
    "no Vary": Mutant(
        replace(caching, "merged", merged_without("Vary")),
        [
            Test(
                rolling.test_what_a_shared_cache_may_store_carries_no_lease,
                "a cache could serve it to others",
                (Clock, who, rolling.STORABLE[0]),
            ),
            Test(
                rolling.test_what_carries_our_cookies_is_in_no_shared_cache,
                "a cache could serve it to others",
                (Clock, untouched, "private", rolling.OTHERS[0]),
            ),
        ],
    ),
    "no Cache-Control": Mutant(
        replace(caching, "merged", merged_without("Cache-Control")),
        [
            Test(
                rolling.test_what_carries_our_cookies_is_in_no_shared_cache,
                "a cache could store the cookie",
                (Clock, untouched, "private", rolling.OTHERS[0]),
            )
        ],
    ),
    # One login, one fence
    "each regenerate() makes a new id": Mutant(
        together(replace(Exchange, "is_renewed", lambda self: False), keep_all_data),
        [
            Row("S9 elevation", "answered", "alice"),
            Test(
                invariants.test_invariant_1_a_logout_ends_the_epoch_under_way,
                "logged in again after the logout",
                (RENEWALS["regenerate"], logout),
            ),
        ],
    ),
    "an epoch does not end the one before": Mutant(
        replace(MemoryRevocations, "compare_and_raise", no_epochs),
        [
            Test(
                invariants.test_invariant_1_an_epoch_ends_the_one_before,
                "an earlier epoch was accepted",
                (RENEWALS["regenerate"],),
            )
        ],
    ),
    "revoke_others() raises the tag, and then the epoch": Mutant(
        replace(logins, "_begin_epoch", tags_first),
        [Test(regenerating.test_revoke_others_beside_a_regenerate, "nobody is left", (Clock, "regenerate last"))],
    ),
    "a login does not pass the fences that exist": Mutant(
        replace(
            policy, "limits", lambda record: (0, record.version, *[(record.created - 1) // 1000 for _ in record.tags])
        ),
        [Test(invariants.test_invariant_1_log_out_everywhere, "")],
    ),
    "an anonymous session does not pass what there is": Mutant(
        replace(Exchange, "number_of_everything", lambda self: (0, False)),
        [Test(regenerating.test_what_began_by_storing_passes_too, "", (Clock,))],
    ),
    "an epoch passes whatever will be raised": Mutant(
        replace(successor, "renewed", passing_everything),
        [
            Test(
                regenerating.test_many_revocations_do_not_outrun_other_fences,
                "survived",
                (Clock, "revoke_others", regenerating.FENCES["another tag"], 0),
            )
        ],
    ),
    "a login in an outage passes what was known": Mutant(
        replace(successor, "logged_in", passed_though_unasked),
        [Test(invariants.test_invariant_1_a_login_in_an_outage_has_passed_nothing, "passed what it could not ask for")],
    ),
    "the clock of revocations goes back": Mutant(
        replace(SteadyClock, "__call__", lambda self: self._wall()),
        [Test(invariants.test_invariant_1_log_out_everywhere_after_a_step_back, "missed by the revocation")],
    ),
    # Deadlines
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
    "today's configuration is ignored": Mutant(
        together(
            replace(policy, "idle", lambda record, today: record.idle),
            replace(policy, "end", lambda record, today: record.ends),
        ),
        [
            Test(invariants.test_invariant_4_a_shorter_timeout_holds_at_once, "past today's timeout"),
        ],
    ),
    "every epoch is a login": Mutant(
        replace(successor, "renewed", authenticated_again),
        [Test(invariants.test_invariant_4_the_absolute_deadline_stands, "past its absolute deadline")],
    ),
    "regenerate() can lengthen lifetimes": Mutant(
        replace(successor, "_shorter", lambda one, other: one if other is None else other),
        [Test(invariants.test_invariant_4_a_login_of_a_longer_life, "longer than it was configured to live")],
    ),
    "regenerate() cannot shorten lifetimes": Mutant(
        replace(successor, "_shorter", lambda one, other: one),
        [Test(invariants.test_invariant_4_a_login_of_a_shorter_life, "past the deadline it was given")],
    ),
    "only the browser ends sessions": Mutant(
        replace(policy, "expired", lambda *anything: None),
        [
            Test(invariants.test_invariant_4_the_idle_timeout_is_enforced, "past its idle timeout"),
            Test(invariants.test_invariant_4_the_absolute_deadline_stands, "past its absolute deadline"),
        ],
    ),
    "cookies have a Max-Age of their own": Mutant(
        replace(Cookies, "header", lambda self, name, value, max_age: _header(self, name, value, LONGEST_S)),
        [Test(invariants.test_invariant_4_max_age_is_what_is_left, "longer than the session lives")],
    ),
    "all cookies are kept": Mutant(
        together(replace(exchange, "TRANSIENT", 0), replace(response, "TRANSIENT", 0)),
        [Test(rolling.test_a_session_until_the_browser_is_closed, "Max-Age", (Clock, False))],
    ),
    # Bad input
    "bad input raises": Mutant(
        replace(Site, "_opening", opening_that_raises),
        [Test(invariants.test_invariant_7_garbage_is_an_empty_session, "raised Unsealable")],
    ),
    "a value opens under any name": Mutant(
        one_for_all, [Test(invariants.test_invariant_7_garbage_is_an_empty_session, "__Host-session-")]
    ),
    "all of a header is looked at": Mutant(
        lambda: mock.patch("wsgi_rollsession.cookies.LONGEST_HEADER", 1_000_000_000),
        [Test(invariants.test_invariant_7_the_work_for_one_header_is_bounded, "opened more than it looks at")],
    ),
    "a question for each session": Mutant(
        replace(arrival, "judge", ask_for_each),
        [Test(invariants.test_invariant_7_the_work_for_one_header_is_bounded, "asked more than once")],
    ),
    "a line for each refusal": Mutant(
        replace(arrival, "log", Verbose()),
        [Test(invariants.test_invariant_7_one_line_says_why_without_secrets, "one line")],
    ),
    "the log shows what was refused": Mutant(
        replace(presented, "open_session", open_and_tell),
        [Test(invariants.test_invariant_7_one_line_says_why_without_secrets, "without secrets")],
    ),
}


def play(row: str, variant: str, options: dict[str, Any]) -> Any:
    """A row of the race table, on the memory store."""
    each = ROWS[row]
    return each.play(table(Clock(time.time()), **options), each.variants[variant])


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
            each.run()
            with off(), pytest.raises((AssertionError, pytest.fail.Exception)) as raised:
                each.run()
            assert each.message in str(raised.value), each


def test_every_row_has_a_mutant() -> None:
    """Every row of the race table is noticed to fail by some mutant."""
    named = {each.row for mutant in MUTANTS.values() for each in mutant.noticed if isinstance(each, Row)}
    assert named == set(ROWS)


def test_every_invariant_has_a_mutant() -> None:
    """Every one of the eight invariants is noticed to be broken by some mutant."""
    named = {
        each.test.__name__.split("_")[2]
        for mutant in MUTANTS.values()
        for each in mutant.noticed
        if isinstance(each, Test) and each.test.__module__ == invariants.__name__
    }
    assert named == set("12345678")
