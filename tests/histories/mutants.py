"""The rules of the sessions, each broken on purpose: some history must notice.

A mutant edits the source of a function, so the function stays as it is for everybody who has taken it by name; one whose
text is not found any more is an error, and has to follow the code.
"""

from __future__ import annotations
import __future__

import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from textwrap import dedent
from typing import Any, NamedTuple
from unittest.mock import patch

from wsgi_rollsession import arrival, exchange, logins, policy, presented, response, standing, successor
from wsgi_rollsession.cookies import Cookies
from wsgi_rollsession.exchange import Exchange
from wsgi_rollsession.revocation.clock import SteadyClock
from wsgi_rollsession.revocation.local_set import LocalSet
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.sessions import Sessions
from wsgi_rollsession.standing import Ask, Outage, Without

from .generate import Generator
from .machine import Machine
from .shrink import listening

Double = Callable[[], Any]


def edit(target: Any, *changes: tuple[str, str]) -> Double:
    """A function whose source is changed: each text, which must be there, by another."""

    @contextmanager
    def edited() -> Iterator[None]:
        function = target.fget if isinstance(target, property) else target
        source = dedent(inspect.getsource(function))
        for old, new in changes:
            if old not in source:
                raise LookupError(f"{function.__qualname__} has no {old!r} any more")
            source = source.replace(old, new)
        source = re.sub(r"\A(@.*\n)+", "", source)
        namespace = dict(function.__globals__)
        exec(
            compile(source, f"<mutant of {function.__qualname__}>", "exec", __future__.annotations.compiler_flag),
            namespace,
        )
        before = function.__code__
        function.__code__ = namespace[function.__name__].__code__
        try:
            yield
        finally:
            function.__code__ = before

    return edited


def swap(owner: Any, name: str, double: Any) -> Double:
    """Something else of that name."""
    return lambda: patch.object(owner, name, double)


def entry(table: Any, key: Any, value: Any) -> Double:
    """Something else in a table."""
    return lambda: patch.dict(table, {key: value})


class Mutant(NamedTuple):
    """A rule, and what breaks it."""

    rule: str
    name: str
    doubles: tuple[Double, ...]

    @contextmanager
    def alive(self) -> Iterator[None]:
        with ExitStack() as stack:
            for double in self.doubles:
                stack.enter_context(double())
            yield


_ADVANCE = ("exchange.advance_slot()", "pass")

MUTANTS = [
    Mutant(*given[:2], tuple(given[2:]))  # type: ignore[arg-type]
    for given in (
        # Slots and cookies
        ("slots", "one row of slots: an epoch takes the slot of the one before",
            swap(Cookies, "other_half", staticmethod(lambda name: name))),
        ("slots", "a logout does not advance the slot",
            edit(logins.log_out, _ADVANCE), edit(logins.end_unseen, _ADVANCE),
            edit(Exchange.start_over, ("self.advance_slot()", "pass"))),
        ("slots", "the slot cookie is not looked at",
            edit(Exchange.next_pair, ("next_pair(opening.slot,", "next_pair(0,"))),
        ("slots", "a logout and a login in one response take two pairs",
            edit(Exchange.next_pair, ("return self._pair", "return self._pair % 4 + 1"))),
        ("slots", "a pass run again takes another pair",
            edit(Exchange.__init__, ("self._pair = int", "int"))),
        ("cookies", "reads delete what is dead",
            edit(response._decide, ("    try:\n        data", "    for each in exchange.arrival.presented:\n"
                 "        if each.ended is not None:\n            exchange.settle(Sent(each.name, None, None))\n"
                 "    try:\n        data"))),
        ("choosing", "an anonymous session that is newer outranks a login",
            edit(presented.rank, ("record.authenticated != 0, ", "True, "))),
        ("choosing", "a read ends the other anonymous sessions",
            edit(response._end_others, (" or not session.is_login", ""), ("if each.is_login and", "if"))),
        ("choosing", "the other logins end before the session's own yes",
            edit(response._write, ("    version = record.version + 1", "    _end_others(exchange, session)\n"
                 "    version = record.version + 1"))),
        # Logging in
        ("login", "the anonymous session that a login comes from is not ended",
            edit(logins.log_in, ("in fences(everyone)]", "in fences([e for e in everyone if e.is_login])]"))),
        ("login", "data of an anonymous session that has been ended go on in a login",
            edit(logins.log_in, ("*(zip(session.keys, session.limits) if session else ())", ""))),
        ("login", "as the one before, in an outage, of what this process knows",
            edit(logins.log_in, ("if ended is not None:\n                    return _log_in_without",
                                 "if False:\n                    return _log_in_without"))),
        ("login", "data are carried to another user",
            edit(logins.log_in, ("if is_lost or exchange.change", "if is_lost and exchange.change")),
            edit(Exchange.regenerate, ("document.keep_assigned()", "pass"))),
        ("login", "the identity is no tag",
            edit(Exchange.with_identity, ("tags = (*tags, key)", "pass"))),
        ("login", "what a login has passed is what is so at its response",
            edit(logins.log_in, ("with_numbers(asked, tags)",
                                 "with_numbers(asked and asked._replace(numbers={}), tags)"))),
        ("login", "the fences of tags do not count", edit(policy.refused, ("enumerate(limits)", "enumerate(limits[:2])"))),
        # Logging out
        ("logout", "a logout deletes cookies, and no more",
            edit(logins.log_out, ("raises = [(key, ENDED) for key in fences(ending)]", "raises = []"))),
        ("logout", "a logout is conditional",
            edit(logins.log_out, ("site.store.compare_and_raise((), raises)\n        if not is_alive or",
                                  "pass\n        if not is_alive or"))),
        ("logout", "a logout ends only what is alive",
            edit(logins.log_out, ("ending = exchange.logins() if", "ending = [each for each in exchange.logins()"
                                  " if each.ended is None] if"))),
        ("logout", "invalidate() ends only the session that was chosen",
            edit(logins.invalidate, ("everyone = exchange.everyone()",
                                     "everyone = [exchange.session] if exchange.session else []"))),
        ("logout", "the identity taken out where nobody is found ends nothing",
            edit(logins.end_unseen, ("    if logins:", "    if False:"))),
        ("logout", "what is left of a session that has died goes on",
            edit(logins.log_out, ("tuple(zip(session.keys, session.limits)), raises", "(), raises"))),
        ("logout", "invalidate() does not say that the store was down",
            edit(logins.invalidate, ("    if everyone:\n        exchange.site.store.fence(fences(everyone), ENDED)",
                                     "    try:\n        exchange.site.store.fence(fences(everyone), ENDED)\n"
                                     "    except StoreUnavailable:\n        pass"))),
        # All or nothing
        ("staged", "regenerate() ends the session at its call",
            edit(Exchange.regenerate, ("    asked_now =", "    if session is not None and not unasked:\n"
                 "        store.fence((session.key,), 0xFFFF_FFFF)\n    asked_now ="))),
        ("staged", "clear() ends the login at its call",
            edit(Exchange.clear, ("    self.discard()", "    for each in self.logins():\n"
                 "        self.site.store.fence((each.key,), 0xFFFF_FFFF)\n    self.discard()"))),
        ("staged", "an epoch is sealed after the store was told",
            edit(logins._begin_epoch, ("sent = exchange.seal(name, record, now, now)", "pass"),
                 ("exchange.settle(sent)", "exchange.settle(exchange.seal(name, record, now, now))"))),
        ("staged", "a login is sealed after the store was told",
            edit(logins.log_in, ("    sent = exchange.seal(name, record, now, now)\n    opened", "    opened"),
                 ("    exchange.settle(sent)", "    exchange.settle(exchange.seal(name, record, now, now))"))),
        ("staged", "an epoch and the end of the other logins are two raises",
            edit(logins._begin_epoch, ("    if not site.store.compare_and_raise(limits, raises):",
                 "    if others:\n        site.store.fence(fences(others), ENDED)\n"
                 "    if not site.store.compare_and_raise(limits, raises):"))),
        ("staged", "a login ends what was presented one by one",
            edit(logins.log_in, ("done = site.store.compare_and_raise(limits, [(key, ENDED) for key in fences(everyone)])",
                 "done = site.store.compare_and_raise(limits, []) and all([site.store.compare_and_raise((),"
                 " [(key, ENDED)]) for key in fences(everyone)])"))),
        ("staged", "what a failed response staged stays staged",
            edit(response._decide, ("    except BaseException:\n        exchange.revert()", "    except BaseException:"))),
        ("login", "data of an anonymous session that has died in the request go on in a login",
            edit(Exchange.regenerate, ("if self.standing is Standing.LOST or (self.site", "if (self.site")),
            edit(logins.log_in, ("if is_lost or exchange.change", "if exchange.change"))),
        ("staged", "a pass run again forgets what the one before has committed",
            edit(Sessions.begin, ("carried = before.settled", "pass"))),
        # Leases and deadlines
        ("clocks", "everything is stamped with the time of the request's arrival",
            edit(Exchange.now, ("return int(self.site.clock() * 1000)",
                                "return self.__dict__.setdefault('_arrived', int(self.site.clock() * 1000))"))),
        ("clocks", "a lease is stamped after the store's answer",
            edit(response._roll, ("(now, session.idle, record.version)", "(exchange.now(), session.idle, record.version)"),
                 ("    if session.expired(exchange.now()):", "    if False:"))),
        ("clocks", "the clock is not read again after the store's answer, for a lease",
            edit(response._roll, ("    if session.expired(exchange.now()):", "    if False:"))),
        ("clocks", "the clock is not read again after the store's answer, for a write",
            edit(response._confirm, (" or session.expired(exchange.now())", "")),
            edit(response._write, ("        if session.expired(exchange.now()):", "        if False:"))),
        ("clocks", "the clock is not read again after the store's answer, for an epoch",
            edit(logins._begin_epoch, ("    if session.expired(exchange.now()):", "    if False:"))),
        ("clocks", "the clock is not read again after the store's answer, for a login",
            edit(logins.log_in, ("if session is not None and session.expired(after):", "if False:"),
                 ("if policy.expired(after,", "if False and policy.expired(after,"))),
        ("leases", "a lease of another epoch counts",
            edit(policy.extended, (" or epoch(lease.version) != epoch(record.version)", ""))),
        ("leases", "a lease of a later version counts",
            edit(policy.extended, ("lease.version > record.version or ", ""))),
        ("leases", "a response that shared caches may store carries a lease",
            edit(Sessions._wants_roll, ("if caching.is_storable", "if False and caching.is_storable"))),
        ("leases", "a roll does not ask the fences",
            edit(response._roll, ("ended = policy.refused(numbers, session.limits)", "ended = None"))),
        ("leases", "a roll asks a set that may lag",
            edit(response._roll, ("store.lookup_now(session.keys)", "store.lookup(session.keys)"))),
        ("leases", "a write asks a set that may lag",
            edit(response._confirm, ("store.lookup_now(session.keys)", "store.lookup(session.keys)"))),
        ("leases", "a session whose roll is due is not rolled",
            edit(response._roll, ("    if not wants_roll():", "    if True:"))),
        ("deadlines", "the absolute timeout counts from each regenerate()",
            edit(successor.renewed, ("if what.tags is not None:", "if True:"))),
        ("deadlines", "today's configuration does not count",
            edit(policy.end, ("return record.ends if record.ends < today else today", "return record.ends"))),
        ("deadlines", "an idle timeout given to a login is forgotten",
            edit(successor.logged_in, ("_shorter(settings.idle_s, what.idle_s)", "settings.idle_s"))),
        # One login, one fence
        ("epochs", "regenerate() makes a new id, and fences the old one's copies",
            edit(successor.renewed, ("id_, next_epoch(version)", "__import__('os').urandom(16), next_epoch(version)"))),
        ("epochs", "regenerate() leaves the copies of the epoch before",
            edit(logins._begin_epoch, ("raises = ((session.key, record.version), *raises", "raises = (*raises"))),
        ("epochs", "regenerate() does not ask whether it is the first",
            edit(logins._begin_epoch, ("limits = (*zip(session.keys, session.limits), ", "limits = ("))),
        ("epochs", "a tag that is new and was revoked since the call ends the login",
            edit(logins._begin_epoch, ("*zip(opened.keys[2:], opened.limits[2:]), ", ""))),
        ("epochs", "revoke_others() passes off somebody else's revocation as its own",
            edit(logins._revoke_others, ("limits=[(tag, held)]", "limits=[]"), ("number if each == tag", "0xFFFF_FFFE if each == tag"))),
        ("epochs", "revoke_others() does not mind that it was slow",
            edit(logins.revoke_others, ("clock() - began <= 1000", "True"))),
        ("epochs", "versions are not checked",
            edit(response._write, ("if site.settings.versioned:", "if False:"))),
        ("fences", "a raise does not prolong a fence's lifetime",
            edit(LocalSet.load, ("elif expires_ms > expires[key]:", "elif False:"))),
        ("fences", "numbers that revoke are made from a clock that goes back",
            edit(SteadyClock.__call__, ("return self._latest_ms", "return self._wall()"))),
        ("fences", "a store that lost its data is not noticed",
            edit(MemoryRevocations._refuse_until, ("0 if self._options.accept_amnesia else number", "0"))),
        ("fences", "a load does not ask the fences",
            edit(Exchange._look_up, ("    store = self.site.store", "    return [0] * len(keys)\n"
                                     "    store = self.site.store"))),
        ("outage", "degrade rolls unchecked", entry(standing.WITHOUT[Ask.ROLL], Outage.DEGRADE, Without.LAST_KNOWN)),
        ("outage", "degrade extends what is written",
            edit(response._write, ("if without is Without.LAST_KNOWN and", "if False and"))),
        ("outage", "a session that began unasked has passed what this process knew",
            edit(successor.logged_in, ("0 if what.unasked else what.numbers[key]", "0xFFFF_FFFE if what.unasked else what.numbers[key]"))),
        ("logs", "each refused cookie is a line",
            edit(arrival.Arrival.choose, ('log.info("%s%s", refusals[0], more)', '[log.info("%s%s", each, more) for each in refusals]'))),
    )
]  # fmt: skip
_ = exchange


HEADING = "## What is noticed"


class Verdict(NamedTuple):
    """How many histories it took, or None, and what the first that noticed said."""

    mutant: str
    histories: int | None
    message: str


def hunt(seed: int, count: int, index: int) -> Verdict:
    """Look for a history that notices a mutant."""
    mutant = MUTANTS[index]
    counts: Counter[str] = Counter()
    with listening() as logs, mutant.alive():
        for number in range(count):
            try:
                Machine(Generator(f"{seed}/{number}").history(), counts, logs).carry_out()
            except AssertionError as error:
                if re.match("[1-8]: ", str(error)):
                    return Verdict(mutant.name, number + 1, str(error))
                raise
            except Exception as error:
                return Verdict(mutant.name, None, repr(error))
    return Verdict(mutant.name, None, "")


def report(count: int, processes: int, seed: int) -> tuple[str, int]:
    """A page of all mutants; and how many of them nobody noticed."""
    lines = [
        HEADING,
        "",
        "Each rule, broken by an edit of the code (`tests/histories/mutants.py`); how many histories of seed"
        f" {seed} it took until",
        "one broke an invariant, and which: the number is that of the invariant.",
        "",
        "| rule | broken | histories | noticed as |",
        "|---|---|--:|---|",
    ]
    missed = 0
    with get_context("spawn").Pool(processes) as pool:
        verdicts = pool.imap(partial(hunt, seed, count), range(len(MUTANTS)))
        for mutant, verdict in zip(MUTANTS, verdicts):
            found = f"{verdict.histories:,}" if verdict.histories is not None else f"**none of {count:,}**"
            message = re.sub(r"(login|session) \d+ of \w+", r"a \1", verdict.message)
            message = re.sub(r"[{].*[}]", "other data", message)
            message = re.sub(r"\(.*\)", "", message)
            lines.append(f"| {mutant.rule} | {mutant.name} | {found} | {message} |")
            print(lines[-1], file=sys.stderr, flush=True)
            missed += verdict.histories is None
    return "\n".join(lines) + "\n", missed
