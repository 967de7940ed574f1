"""How a login begins, goes on in another epoch, and ends: the acts of ``standing``'s table that end something.

See ``response`` for the order in which each of them stamps, seals, ends and emits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from . import policy, successor
from .document import EMPTY, Document
from .errors import SessionConflict, StoreUnavailable
from .exchange import Exchange
from .policy import Ended
from .presented import Presented
from .revocation.clock import next_revoked_before, when_it_may
from .revocation.fence import ENDED
from .standing import Ask, Change, Standing, Without
from .token import Record

log = logging.getLogger("wsgi_rollsession")

#: How often ``revoke_others`` is repeated that has taken too long.
_ATTEMPTS = 3


def renew(exchange: Exchange) -> None:
    """Begin the next epoch of the login."""
    session, document, what = exchange.session, exchange.document, exchange.regeneration
    assert session is not None
    assert document is not None
    record, settings = session.record, exchange.site.settings
    tags = exchange.tags
    what = exchange.with_numbers(what, tags, record.tags)
    _begin_epoch(exchange, session, successor.renewed(settings, record, tags, what, document.dump()))


def _begin_epoch(
    exchange: Exchange,
    session: Presented,
    record: Record,
    limits: Sequence[tuple[bytes, int]] = (),
    raises: Sequence[tuple[bytes, int]] = (),
) -> None:
    """Send the next epoch of a login, in the other half of its pair, and end the one before.

    Raises:
        SessionConflict: another request was first.
        SessionTooLarge, StoreUnavailable
    """
    now = exchange.now()
    ended = session.expired(now)
    if ended is not None:
        exchange.conflict(ended)
    site = exchange.site
    name = site.cookies.other_half(session.name)
    sent = exchange.seal(name, record, now, now)
    opened = site.opened(now, record)
    others = [each for each in exchange.logins() if each.record.id != record.id]
    # A tag that is new and was revoked since the call would end the new epoch, and the one before is superseded.
    limits = (*zip(session.keys, session.limits), *zip(opened.keys[2:], opened.limits[2:]), *limits)
    raises = ((session.key, record.version), *raises, *((key, ENDED) for key in fences(others)))
    if not site.store.compare_and_raise(limits, raises):
        ended = exchange.find_out(session)
        if ended is None:
            raise SessionConflict("another request was first, or one of the new tags was revoked before the response")
        exchange.conflict(ended)
    if session.expired(exchange.now()):
        exchange.conflict(Ended.IDLE)
    exchange.logged_out(others)
    exchange.forget_cookies(exchange.names())
    exchange.settle(sent)
    exchange.become(Presented(name, opened))


def log_in(exchange: Exchange) -> None:
    """Begin a login, and end what the request presented."""
    document, site = exchange.document, exchange.site
    assert document is not None
    session = exchange.following
    is_lost = exchange.standing is Standing.LOST and not exchange.is_cleared
    if is_lost or exchange.change(document.dump()) is Change.SWITCHED:
        document = document.only_assigned()
    now = exchange.now()
    if session is not None and (ended := session.expired(now)) is not None:
        return _log_in_without(exchange, session, ended)
    asked = exchange.regeneration
    tags = exchange.tags
    what = exchange.with_numbers(asked, tags)
    site.steady_clock()  # which knows of the clock what it has seen
    record = successor.logged_in(site.settings, exchange.next_id(), tags, what, document.dump())
    name = site.cookies.in_pair(exchange.next_pair)
    sent = exchange.seal(name, record, now, now)
    opened = site.opened(now, record)
    everyone = exchange.everyone()
    if everyone or asked is not None:
        # What was raised since the call, too, ends the new session.
        limits = [*zip(opened.keys, opened.limits), *(zip(session.keys, session.limits) if session else ())]
        try:
            done = site.store.compare_and_raise(limits, [(key, ENDED) for key in fences(everyone)])
        except StoreUnavailable:
            if exchange.without(Ask.END if exchange.somebody_may_live(now) else Ask.BEGIN) is Without.FAIL:
                raise
            if session is not None:
                ended = policy.refused(site.store.last_known(session.keys), session.limits)
                if ended is not None:
                    return _log_in_without(exchange, session, ended)
            log.warning("a session began while the revocation store was unavailable; what it follows was not ended")
            record = successor.logged_in(site.settings, record.id, tags, what._replace(unasked=True), document.dump())
            # As if it had been sent at the call: a fence that was raised since, and that nobody could ask for, is kept
            # for one idle timeout.
            sent, opened, done = exchange.seal(name, record, what.at, now), site.opened(what.at, record), True
        if not done:
            ended = exchange.find_out(session) if session is not None else None
            if session is None or (ended is None and policy.refused(site.store.lookup_now(opened.keys), opened.limits)):
                raise SessionConflict("the login was revoked before its response")
            # What another process is raising refuses already, and may not be found yet.
            return _log_in_without(exchange, session, ended or Ended.SUPERSEDED)
        exchange.logged_out(everyone)
        after = exchange.now()
        if session is not None and session.expired(after):
            exchange.conflict(Ended.IDLE)
        # The call was so long ago that a fence raised after it may have been forgotten.
        if policy.expired(after, what.at, record.idle, record.ends):
            raise SessionConflict("the login took longer than its idle timeout")
    exchange.forget_cookies(exchange.names())
    exchange.advance_slot()
    exchange.settle(sent)
    exchange.become(Presented(name, opened))
    exchange.document = document


def _log_in_without(exchange: Exchange, session: Presented, ended: Ended) -> None:
    """The session that a login was to follow is dead. If it was a user's, that is a conflict."""
    exchange.lose(ended)
    if session.is_login:
        raise SessionConflict(str(ended))
    log_in(exchange)


def log_out(exchange: Exchange) -> None:
    """End every login presented. What is left goes on in an anonymous session, if the one before was alive."""
    document, site = exchange.document, exchange.site
    assert document is not None
    session = exchange.following
    ending = exchange.logins() if session is None or session.is_login else [*exchange.logins(), session]
    sent = left = None
    if (session is not None or exchange.is_cleared) and document.dump() != EMPTY:
        now, (everything, unasked) = exchange.now(), exchange.number_of_everything()
        record = successor.begun(
            site.settings, exchange.next_id(), now, everything, unasked=unasked, data=document.dump()
        )
        sent = exchange.seal(site.cookies.anonymous, record, now, now)
        left = Presented(sent.name, site.opened(now, record))
    raises = [(key, ENDED) for key in fences(ending)]
    if session is not None and left is not None:
        is_alive = not session.expired(exchange.now()) and site.store.compare_and_raise(
            tuple(zip(session.keys, session.limits)), raises
        )
        if not is_alive:
            site.store.compare_and_raise((), raises)
        if not is_alive or session.expired(exchange.now()):
            sent = left = None
    elif raises:
        site.store.compare_and_raise((), raises)
    exchange.logged_out(ending)
    exchange.forget_cookies(exchange.names())
    exchange.advance_slot()
    exchange.session, exchange.standing = None, Standing.NEW
    if sent is None or left is None:
        exchange.document = Document(EMPTY)
    else:
        exchange.settle(sent)
        exchange.become(left)


def end_unseen(exchange: Exchange) -> None:
    """The identity was taken out of a session in which nobody is logged in: a newer one may be on its way."""
    logins = exchange.logins()
    if logins:
        exchange.site.store.fence(fences(logins), ENDED)
        exchange.logged_out(logins)
    is_ours = exchange.site.cookies.is_login
    exchange.forget_cookies([name for name in exchange.names() if is_ours(name.removesuffix("-lease"))])
    exchange.advance_slot()
    exchange.leaves = False
    if exchange.regeneration is not None and exchange.regeneration.tags is None:
        exchange.regeneration = None  # it was a part of the logout


def revoke_others(exchange: Exchange, tag: bytes) -> None:
    """End all other sessions with *tag*, and begin the next epoch of this one, at once.

    Raises:
        ValueError, SessionConflict, SessionTooLarge, StoreUnavailable
    """
    clock = exchange.site.steady_clock
    for _ in range(_ATTEMPTS):
        began = clock()
        _revoke_others(exchange, tag)
        # What began since the number was made may be later than it says: it reaches two seconds ahead, for clocks.
        if clock() - began <= 1000:
            return
    raise StoreUnavailable("the revocation set is slow: sessions that began meanwhile may be alive")


def _revoke_others(exchange: Exchange, tag: bytes) -> None:
    document = exchange.changing()
    session = exchange.session
    if session is None or exchange.is_cleared or tag not in session.record.tags:
        raise ValueError("tag: requires a tag of this session")
    if exchange.standing is Standing.LOST:
        raise SessionConflict(exchange.why_lost())
    held = 0

    def attempt() -> int | None:
        nonlocal held
        held = exchange.site.store.lookup_now((tag,))[0]
        return next_revoked_before(exchange.site.steady_clock(), (held,))

    number = when_it_may(attempt)
    record = successor.renewed(exchange.site.settings, session.record, session.record.tags, None, document.dump())
    record = record._replace(
        passed=(
            record.passed[0],
            *(number if each == tag else passed for each, passed in zip(record.tags, record.passed[1:])),
        )
    )
    # In one step with the epoch: so it cannot pass off somebody else's revocation of the tag as its own.
    _begin_epoch(exchange, session, record, limits=[(tag, held)], raises=[(tag, number)])
    exchange.done()


def invalidate(exchange: Exchange) -> None:
    """End everything that the request presented, now. The data are gone.

    Raises:
        StoreUnavailable
    """
    exchange.load()
    everyone = exchange.everyone()
    if everyone:
        exchange.site.store.fence(fences(everyone), ENDED)
    exchange.logged_out(everyone)
    exchange.start_over()


def fences(sessions: Sequence[Presented]) -> list[bytes]:
    """The sessions' own fences, each once."""
    return list({each.key: None for each in sessions})
