"""What the response carries, and what ``save()`` does: the acts of ``standing``'s table, but for logins and logouts.

The order that makes dead sessions stay dead: what is to be sent is stamped with this moment, *then* sealed, which can
fail for its size, *then* the store is asked, or told what ends, *then* the clock is read again, *then* the cookie is
emitted. A fence raised after the store's answer outlives what was emitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from . import policy, successor, token
from .cookies import Sent
from .document import Document
from .errors import SessionConflict, StoreUnavailable
from .exchange import Exchange
from .logins import end_unseen, fences, log_in, log_out, renew
from .policy import CLOCK_TOLERANCE_MS, Ended
from .presented import Presented
from .revocation.fence import ENDED
from .seal import seal_lease
from .standing import ACTS, Act, Ask, Standing, Without
from .token import TRANSIENT

log = logging.getLogger("wsgi_rollsession")

WantsRoll = Callable[[], bool]


def leaves_alone(exchange: Exchange) -> bool:
    """Whether nobody has looked at the session, and the response need not carry anything. If so, it is decided."""
    if exchange.document is not None or exchange.outbox or (not exchange.committed and _looks_due(exchange)):
        return False
    exchange.committed = True
    return True


def commit(exchange: Exchange, wants_roll: WantsRoll) -> list[Sent]:
    """The cookies of the response, unless ``leaves_alone``. Called when it starts, and again if it starts over.

    Args:
        wants_roll: asked only if the session is due to be rolled, or was written.

    Raises:
        SessionTooLarge, SessionValueError: the session cannot be kept.
        SessionConflict: a login over somebody found that this session has ended.
        StoreUnavailable: the store did not confirm what the outage policy wants to be confirmed.
        After any of these, the session is what it was before, and a second call sends what had been done.
    """
    if not exchange.committed:
        if exchange.document is not None:
            _decide(exchange, exchange.document, wants_roll)
        else:
            _roll_unread(exchange, wants_roll)
        exchange.committed = True
    return [*exchange.outbox.values()] if exchange.outbox else []


def _decide(exchange: Exchange, document: Document, wants_roll: WantsRoll) -> None:
    try:
        data = document.dump()
        act = _next_act(exchange, data)
        if act is Act.ROLL:  # as for most requests
            if exchange.session is not None:
                _roll(exchange, exchange.session, wants_roll)
        else:
            _perform(exchange, act, data, wants_roll)
    except SessionConflict as error:
        exchange.revert()
        if act not in _DROPPED:
            raise
        session = exchange.session
        log.warning("session %s: a write was dropped: %s", session.record.id.hex() if session else "-", error)
    except BaseException:
        exchange.revert()
        raise


def _next_act(exchange: Exchange, data: bytes) -> Act:
    """What is to be done. A logout where nobody was found is done first, whatever becomes of the rest.

    A logout and a login end by themselves what was presented.
    """
    act = ACTS[exchange.standing][exchange.change(data)]
    if exchange.leaves and act not in (Act.LOGOUT, Act.LOGIN) and exchange.identities()[1] is None:
        end_unseen(exchange)
    return act


def _perform(exchange: Exchange, act: Act, data: bytes, wants_roll: WantsRoll | None) -> None:
    """Carry out an act on *data*. *wants_roll* is None for ``save()``, whose write is activity."""
    if act is Act.WRITE:
        _write(exchange, data, wants_roll)
    elif act in _LOGINS:
        _LOGINS[act](exchange)
    elif act is Act.BEGIN:
        _begin(exchange, data)
    elif act is Act.DROP or act is Act.CONFLICT:
        raise SessionConflict(exchange.why_lost())
    else:
        if act is Act.SEND:
            _confirm(exchange, Ask.SEND)
        elif act is Act.ROLL and wants_roll is None:  # nothing is to be saved: is it alive?
            _confirm(exchange, Ask.VERSIONED if exchange.site.settings.versioned else Ask.WRITE)
        return
    exchange.done()


#: What finds the session dead is not kept, and the log says so. Of others, a user has to be told.
_DROPPED = frozenset((Act.WRITE, Act.SEND, Act.RENEW, Act.DROP))
_LOGINS = {Act.LOGIN: log_in, Act.RENEW: renew, Act.LOGOUT: log_out}


def _looks_due(exchange: Exchange) -> bool:
    """Whether a roll looks due, by a time that is not authenticated: whoever forges it gets less."""
    site, header = exchange.site, exchange.header
    settings = site.settings
    if not settings.rolls:
        return False
    if settings.renew_after_ms:  # without it, a roll is due if no clock is ahead: _roll looks
        lease = site.last_lease(header)
        # Of a session with a shorter idle timeout than the configuration's, _roll knows when it is due.
        if lease is not None and lease.idle == settings.idle_s:
            now = site.clock() * 1000
            if now - settings.renew_after_ms < lease.renewed <= now + CLOCK_TOLERANCE_MS:
                return False  # as for most requests
    return site.cookies.anonymous in header


def _roll_unread(exchange: Exchange, wants_roll: WantsRoll) -> None:
    """Roll a session that nobody has looked at. It is not loaded for that, if it is the only one, as nearly always.

    So the fences are asked once, authoritatively.
    """
    session = exchange.arrival.alone
    if session is None:
        exchange.load()
        session = exchange.session
    if session is not None:
        _roll(exchange, session, wants_roll)
    if exchange.standing is Standing.LOST:  # the application has not seen it, and must not find it in its body
        exchange.unload()


def _roll(exchange: Exchange, session: Presented, wants_roll: WantsRoll) -> None:
    """Send a lease, if one is due and the session is alive."""
    site, now = exchange.site, exchange.now()
    if not site.settings.rolls or not session.is_due(now, site.settings) or session.expired(now):
        return
    if not wants_roll():
        return
    record, confirmed = session.record, True
    try:
        numbers = site.store.lookup_now(session.keys)
    except StoreUnavailable:
        if exchange.without(Ask.ROLL, record) is Without.SKIP:
            return
        confirmed, numbers = False, site.store.last_known(session.keys)
    ended = policy.refused(numbers, session.limits)
    if ended is not None:
        log.info("session %s not rolled: %s", record.id.hex(), ended)
        if exchange.session is session:
            exchange.lose(ended)
        return
    if session.expired(exchange.now()):  # suspended since, it would be revived by the stamp from before
        return
    name = site.cookies.lease_name(session.name)
    value = seal_lease(site.ring, name, record.id, (now, session.idle, record.version))
    left = None if record.flags & TRANSIENT else min((session.ends - now) // 1000, session.idle)
    exchange.settle(Sent(name, value, left))
    session.last_activity = now
    if confirmed:
        _end_others(exchange, session)


def _end_others(exchange: Exchange, session: Presented) -> None:
    """End the other logins that the request presents: requests that logged in have raced, and one is *the* login.

    Deleted from the browser only, they would escape its logout.
    """
    if len(exchange.arrival.presented) < 2 or not session.is_login:
        return
    others = [
        each
        for each in exchange.arrival.presented
        if each.is_login and each.ended is None and each.record.id != session.record.id
    ]
    if others:
        try:
            exchange.site.store.fence(fences(others), ENDED)
        except StoreUnavailable:
            return  # by the table, for Ask.OTHERS: the next roll tries again
        for each in others:
            each.ended = Ended.LOGGED_OUT


def _confirm(exchange: Exchange, ask: Ask) -> Without | None:
    """Ask the fences, authoritatively, whether the session may be issued. If nobody answered: how it may be.

    Raises:
        SessionConflict: a fence, or the clock, refuses it.
        StoreUnavailable: nobody answered, and the outage policy is not to go on then.
    """
    session, store = exchange.session, exchange.site.store
    assert session is not None
    without = None
    try:
        numbers = store.lookup_now(session.keys)
    except StoreUnavailable:
        without = exchange.without(ask, session.record)
        if without is Without.FAIL:
            if ask is Ask.SEND:
                exchange.lose(session.ended or Ended.SUPERSEDED)
            raise
        numbers = store.last_known(session.keys)
    ended = policy.refused(numbers, session.limits) or session.expired(exchange.now())
    if ended is not None:
        exchange.conflict(ended)
    return without


def _begin(exchange: Exchange, data: bytes) -> None:
    """Begin an anonymous session."""
    now, (everything, unasked) = exchange.now(), exchange.number_of_everything()
    record = successor.begun(exchange.site.settings, exchange.id, now, everything, unasked=unasked, data=data)
    name = exchange.site.cookies.anonymous
    exchange.settle(exchange.seal(name, record, now, now))
    exchange.become(Presented(name, exchange.site.opened(now, record)))


def _write(exchange: Exchange, data: bytes, wants_roll: WantsRoll | None) -> None:
    """Send the next version."""
    session, site, now = exchange.session, exchange.site, exchange.now()
    assert session is not None
    record = session.record
    ended = session.expired(now)
    if ended is not None:
        exchange.conflict(ended)
    version = record.version + 1
    if token.is_worn(record.version):
        if session.is_login:
            return renew(exchange)
        version = token.next_epoch(record.version)  # nothing else tells the epochs of an anonymous session apart
    # What extends nothing keeps the last confirmed activity, and what limits it.
    unextended = session.last_activity, session.idle
    extended = now, min(record.idle, site.settings.idle_s)
    issued, idle = extended if wants_roll is None or wants_roll() else unextended
    following = successor.written(record, version, idle=idle, ends=session.ends, data=data)
    sent = exchange.seal(session.name, following, issued, now)
    without = None
    if site.settings.versioned:  # an outage is an error then, whatever the policy
        limits = tuple(zip(session.keys, session.limits))
        if not site.store.compare_and_raise(limits, ((session.key, version),)):
            exchange.conflict(exchange.find_out(session) or Ended.SUPERSEDED)
        if session.expired(exchange.now()):
            exchange.conflict(Ended.IDLE)
    else:
        without = _confirm(exchange, Ask.WRITE)
        if without is Without.LAST_KNOWN and issued != session.last_activity:
            issued, idle = unextended
            following = following._replace(idle=idle)
            sent = exchange.seal(session.name, following, issued, now)
    exchange.settle(sent)
    exchange.become(session.written(following, issued, idle))
    if without is None:
        _end_others(exchange, session)


def save(exchange: Exchange) -> None:
    """Check, and seal what changed.

    Raises:
        SessionConflict, SessionTooLarge, SessionValueError, StoreUnavailable
    """
    document = exchange.changing()
    data = document.dump()
    act = _next_act(exchange, data)
    if act is Act.NOTHING and exchange.standing is Standing.LOST:
        raise SessionConflict(exchange.why_lost())
    _perform(exchange, act, data, None)
