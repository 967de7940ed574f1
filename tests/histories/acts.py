"""What responses, and ``save()``, do: each must send what is right, and what it has ended is over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from wsgi_rollsession import SessionTooLarge, StoreUnavailable

from .model import EVERYTHING, UNLIMITED, VAGUE, Copy, Held, Life, Visit, user_of
from .referee import Referee
from .request import Request
from .world import NAMES, SLOT, SLOTS, Cookie, LeaseCookie

#: Acts that end no login.
QUIET = ("roll", "nothing", "send", "write", "begin", "drop")


class Acts:
    """One act after the other is held against the model, and told to it: what was sent, and what has ended."""

    def __init__(self, referee: Referee) -> None:
        self.referee, self.check, self.judge = referee, referee.check, referee.judge
        self.world, self.model, self.counts = referee.world, referee.model, referee.counts
        self.tokens: dict[str, tuple[str | None, int]] = {}  # for whom, and by which request

    def excused(self, request: Request, error: Exception) -> str | None:
        """What an error means for the session: it is lost, or nobody can say, or nothing. It needs a reason."""
        visit, model = request.visit, self.model
        assert visit is not None
        self.referee.failed(request)
        if isinstance(error, StoreUnavailable):
            self.check(not all(each.answered for each in request.calls), f"8: {error!r} without a reason")
            self.counts["met: the store could not be asked"] += 1
            return None
        if isinstance(error, SessionTooLarge):
            self.check("big" in visit.data, f"8: {error!r} without a reason")
            self.counts["met: a response that is too large"] += 1
            return None
        self.counts["met: a conflict"] += 1
        base = visit.base
        verdict = None if base is None else self.judge(request, base, self.world.clock.wall, model.event)
        if visit.standing == "lost" or isinstance(verdict, str):
            return "lost"
        what = visit.regeneration
        at = request.committed_at if what is None else what.at
        idle_s, absolute_s = request.process.idle_s, request.process.setup.absolute_s
        if what is not None:
            idle_s, absolute_s = min(idle_s, what.idle_s or idle_s), min(absolute_s, what.absolute_s or absolute_s)
        if self.world.clock.wall >= at + 1000 * min(idle_s, absolute_s):
            return None  # the login took too long
        asked = {} if what is None else what.asked
        for tag in (EVERYTHING, *asked, f"user:{visit.identities[1]}"):
            since = asked.get(tag, request.start_event)
            if any(at > since for at, _, _ in model.revoked.get(tag, ())):
                # A login is in doubt then whether the session that it follows has been ended.
                request.blurred = request.blurred or visit.act() == "login"
                return None
        self.check(verdict is VAGUE or (what is not None and what.unasked), "2: a conflict without a reason")
        request.blurred = True
        return "vague"

    def after_error(self, request: Request, error: Exception, act: str = "") -> None:
        visit = request.visit
        assert visit is not None
        logins = any(each.is_login for each in self.referee.lives(request))
        fence = next((each.answered for each in request.calls if each.method == "fence"), not logins)
        if act not in ("", "login", "logout") and visit.leaves and fence:
            self._end_unseen(request)  # that was done first
            visit.leaves = False
            if visit.regeneration is not None and visit.regeneration.tags is None:
                visit.regeneration = None
        if self.excused(request, error) == "lost":
            visit.standing = "lost"

    def token(self, request: Request, visit: Visit) -> str:
        token = f"t{len(self.tokens)}"
        self.tokens[token] = visit.user(), request.number
        return token

    def ambiguous(self, request: Request, tag: str | None = None) -> None:
        """Something failed after the store had confirmed: the process slept for too long."""
        if any(each.raised and each.method == "compare_and_raise" for each in request.calls):
            tagged = [each.copy.life for each in self.world.cookies.values() if tag in each.copy.tags]
            for life in (*self.referee.lives(request), *tagged):
                life.vague = True

    def apply(
        self, request: Request, act: str, start: int, now: int,
        sent: Sequence[tuple[str, str | None, int | None]], *, tag: str | None = None, saved: bool = False,
    ) -> None:  # fmt: skip
        """An act has been carried out: what it sent must be right, and what it ended is over."""
        visit, world, model = request.visit, self.world, self.model
        sessions = [
            (name, value, age) for name, value, age in sent if name in NAMES and value and value not in world.cookies
        ]
        leases = [
            (name, value) for name, value, _ in sent if value and name.endswith("-lease") and value not in request.known
        ]
        for name, value, _ in sent:
            base_name = name.removesuffix("-lease")
            self.check(name == SLOT or base_name in NAMES, "5: a cookie of an unknown name")
            if value is None and not request.deletes and act in ("unread", *QUIET):
                self.check(
                    visit is not None and visit.leaves and base_name in SLOTS,
                    "1: a response deletes what a logout needs",
                )
            if value is not None:
                request.known.add(value)
        self.check(len(sessions) <= 1, "5: more than one session in a response")
        if visit is not None and visit.leaves and act in QUIET and request.visit is not None:
            self._end_unseen(request)
        asked = [each for each in request.calls if each.method in ("lookup_now", "compare_and_raise", "last_known")]
        answered = [each for each in asked if each.answered and each.yes]
        event = max(start, answered[-1].event) if answered else start
        if request.degraded:
            request.extends = False
            event = request.process.wire.event if not answered else answered[-1].event
            self.counts["met: a response in an outage"] += 1
        until = answered[-1].until if answered else max((each.until for each in request.calls), default=now)
        self.counts["act " + act] += 1
        request.acts.add(act)
        if act == "unread":
            self._lease(request, leases, event, now, until, None, sent)
            self.check(not sessions, "3: a session was sent that nobody wrote")
            return
        assert visit is not None
        base = visit.base
        if act in ("roll", "nothing", "send", "drop", "conflict"):
            self.check(not sessions, "3: a session was sent that nobody wrote")
            self.check(act != "conflict", "8: a conflict went unnoticed")
            if act == "send" and base is not None and not saved:
                request.committed_at = min(request.committed_at, base.copy.stamp)
            if act == "send" and base is not None and any(value in request.known for _, value, _ in sent):
                names = {
                    name for name, value, _ in sent if value in world.cookies and world.cookies[value].copy is base.copy
                }
                if names:
                    verdict = model.dead(base.copy, event)
                    self.check(not isinstance(verdict, str), f"{verdict}: it was sent")
            self._lease(request, leases, event, now, until, base, sent)
            if saved:
                visit.become(base) if act == "send" else visit.discard()
            return
        self.check(not leases, "4: a lease beside a session")
        handler = getattr(self, "_" + act)
        handler(request, visit, sessions[0] if sessions else None, event, now, until, tag)

    def sealed(
        self, request: Request, sent: tuple[str, str, int | None], life: Life, tags: frozenset[str],
        passed: dict[str, int], data: Sequence[dict[str, Any]], *, begun: int | None = None,
    ) -> Held:  # fmt: skip
        """A session cookie was sealed; whose data may be any of *data*."""
        name, value, max_age = sent
        world = self.world
        issued, record, fail_open, unasked, transient = world.unseal(name, value)
        if unasked and begun is not None:
            passed = dict.fromkeys(passed, -1 - begun)
        found = json.loads(record.data)
        copy = Copy(
            life, record.version, issued, record.idle, record.ends, record.created, record.authenticated, fail_open,
            tags, passed, found,
        )  # fmt: skip
        self.check(found in data, f"3: {found} was sealed, and not {data[0]}")
        self.check(bool(record.authenticated) == life.is_login, "7: the login time is wrong")
        world.cookies[value] = Cookie(name, value, request.process.setup.keys[0], copy)
        world.ids[value] = record.id.hex()
        self.check(not unasked or min(passed.values()) < 0, "7: begun unasked, and the store was asked")
        self._is_nobody_elses(request, copy)
        left = max((record.ends - world.clock.wall) // 1000, 0)
        self.check(max_age is None if transient else max_age is not None and max_age >= left, "4: a wrong Max-Age")
        return Held(copy, issued, record.idle)

    def _is_nobody_elses(self, request: Request, copy: Copy) -> None:
        """A login holds no data of somebody else."""
        life = copy.life
        for value in copy.data.values():
            known = self.tokens.get(value)
            if known is None:
                continue
            if not life.is_login or known[1] == request.number:
                # What is left is nobody's; what this request assigned, the user's. What was nobody's may be taken over
                # twice: a login in an outage leaves the session that it comes from alive.
                self.tokens[value] = life.user, known[1]
            else:
                self.check(known[0] in (None, life.user), f"1: data of {known[0]} are in a session of {life.user}")

    def _within(self, request: Request, this: Held, ends: int, idle_s: int, activity: int) -> None:
        copy = this.copy
        self.check(copy.ends <= ends, "4: the absolute deadline grew")
        self.check(copy.idle_s <= idle_s, "4: the idle timeout grew")
        self.check(copy.stamp <= activity, "4: it was extended where it may not be")

    def _lease(
        self, request: Request, leases: Sequence[tuple[str, str]], event: int, now: int, until: int, base: Held | None,
        sent: Sequence[tuple[str, str | None, int | None]],
    ) -> None:  # fmt: skip
        process, world = request.process, self.world
        degraded = request.degraded
        for name, value in leases:
            name_of = name.removesuffix("-lease")
            among = [(cookie, each) for cookie, each in request.presented if cookie.name == name_of]
            lease = world.unseal_lease(name, value, [(cookie.copy, world.ids[cookie.value]) for cookie, _ in among])
            self.check(lease is not None, "7: a lease out of nowhere")
            assert lease is not None
            world.leases[value] = LeaseCookie(name, value, process.setup.keys[0], lease)
            this = next(
                each for _, each in among if each.copy.life is lease.life and each.copy.version == lease.version
            )
            verdict = self.judge(request, this, now, event)
            self.check(not isinstance(verdict, str), f"{verdict}: a lease was issued")
            verdict = self.judge(request, this, until, event)
            self.check(not isinstance(verdict, str), f"{verdict}: it is over when the lease is issued")
            self.check(now <= lease.renewed <= until, "4: a lease of another moment")
            self.check(request.wanted, "4: a lease on a response that must have none")
            self.check(lease.idle_s <= min(this.copy.idle_s, process.idle_s), "4: the idle timeout grew")
            self.check(
                not degraded or (this.copy.fail_open and process.setup.outage == "open"), "4: extended in an outage"
            )
            self.counts["met: a roll"] += 1
            self._end_others(request, this.copy.life)
        if (
            request.state == "answered"
            and not any(name.endswith("-lease") and value for name, value, _ in sent)
            and not degraded
            and not request.junk
            and request.extends
            and process.setup.rolling
        ):
            if base is None and len(request.presented) == 1 and len(request.pairs) <= 3:
                base = request.presented[0][1]
            strays = [self.world.leases[value].lease.life for _, value in request.pairs if value in self.world.leases]
            if base is not None and any(each is not base.copy.life for each in strays):
                return  # the lease of a login in parallel is a hint that this one is not due yet
            if base is None or (request.visit is not None and request.visit.standing != "held"):
                return
            fine = (
                self.judge(request, base, now, event) is None
                and self.judge(request, base, until, self.model.event) is None
            )
            after = process.setup.renew_after_s * 1000
            idle_s = min(base.idle_s, process.idle_s)
            due = now - base.activity >= after * idle_s // process.idle_s
            if (
                fine
                and due
                and request.known.isdisjoint(value for value in world.cookies)
                and not request.acts - {"unread", "roll"}
            ):
                raise AssertionError(f"4: {base.copy.life} was active, and not extended")

    def _end_others(self, request: Request, life: Life) -> None:
        """A login was extended, and ended the others that the request presents."""
        fence = next((each for each in request.calls if each.method == "fence"), None)
        if fence is None or not life.is_login:
            return
        if not fence.answered:
            return
        self.counts["met: other logins ended"] += 1
        for other, sure in request.others:
            if other is not life:
                if sure:
                    self.model.end([other], fence.event)
                else:
                    other.vague = True

    def _end_unseen(self, request: Request) -> None:
        raised = next((each.event for each in request.calls if each.raised), self.model.event)
        self.model.end([each.copy.life for _, each in request.presented if each.copy.life.is_login], raised)
        self.counts["met: identity taken out where nobody is"] += 1
        request.deletes = request.turns = True

    def _dropped(self, request: Request, visit: Visit, base: Held, now: int) -> None:
        """A write was not kept. It needs a reason."""
        event, clock = self.model.event, self.world.clock.wall
        if self.judge(request, base, now, event) is None and self.judge(request, base, clock, event) is None:
            what = visit.regeneration
            asked = {} if what is None else what.asked
            revoked = any(
                at > asked.get(tag, request.start_event)
                for tag in (*asked, f"user:{visit.identities[1]}")
                for at, _, _ in self.model.revoked.get(tag, ())
            )
            self.check(request.degraded or revoked, f"2: a write to {base.copy.life} was dropped without a reason")
            if revoked:
                return
        self.counts["met: a write was dropped"] += 1
        self.ambiguous(request)
        visit.standing = "lost"

    def _write(
        self, request: Request, visit: Visit, sent: Any, event: int, now: int, until: int, tag: str | None
    ) -> None:
        process, base = request.process, visit.base
        assert base is not None
        if sent is None:
            self._dropped(request, visit, base, now)
            return
        for moment in (now, until):
            verdict = self.judge(request, base, moment, event)
            self.check(not isinstance(verdict, str), f"{verdict}: it was written")
        copy = base.copy
        degraded = request.degraded
        fail_open = copy.fail_open and process.setup.outage == "open"
        extends = (fail_open or not degraded) and (request.wanted or request.state == "begun")
        this = self.sealed(request, sent, copy.life, copy.tags, copy.passed, [visit.data])
        ends = min(copy.ends, (copy.authenticated or copy.created) + process.absolute_ms)
        self._within(request, this, ends, copy.idle_s, until if extends else base.activity)
        self.check(not extends or this.copy.stamp >= now, "4: a write of an earlier moment")
        self.check(this.copy.version > copy.version, "3: a write without a new version")
        if process.setup.versioned:
            self.check(not degraded, "3: written in an outage, without a check of its version")
            copy.life.floors.append((event, this.copy.version, "3: an old version was accepted"))
        self._end_others(request, copy.life)
        visit.become(this)

    def _renew(
        self, request: Request, visit: Visit, sent: Any, event: int, now: int, until: int, tag: str | None
    ) -> None:
        process, base, what = request.process, visit.base, visit.regeneration
        assert base is not None
        if sent is None and tag is None and request.state == "answered":  # it was dropped, as a write is
            self._dropped(request, visit, base, now)
            return
        self.check(sent is not None, "8: a new epoch without a cookie")
        for moment in (now, until):
            verdict = self.judge(request, base, moment, event)
            self.check(not isinstance(verdict, str), f"{verdict}: it was regenerated")
        copy, life = base.copy, base.copy.life
        tags = copy.tags
        user = visit.identities[1]
        if tag is None:
            if what is not None and what.tags is not None:
                tags = what.tags
            if user is not None:
                tags |= {f"user:{user}"}
        asked = [each.event for each in request.calls if each.method == "lookup_now" and each.answered]
        passed = {EVERYTHING: copy.passed[EVERYTHING]}
        for each in tags:
            if each in copy.passed:
                passed[each] = copy.passed[each]
            else:
                known = what is not None and each in what.asked
                passed[each] = what.asked[each] if known and what is not None else max(asked, default=event)
        if tag is not None:
            passed[tag] = event
        if user is not None:
            self.check(life.user in (None, user), f"1: {life} goes on as {user}")
            life.user = user
        this = self.sealed(request, sent, life, tags, passed, [visit.data])
        verdict = self.model.dead(this.copy, event - 1)
        self.check(not isinstance(verdict, str), f"{verdict}: it was regenerated")
        ends, activity, idle = min(copy.ends, copy.authenticated + process.absolute_ms), until, copy.idle_s
        if what is not None and tag is None:
            if what.tags is not None:
                # Lengths that are given replace those that it had.
                length = process.absolute_ms
                if what.absolute_s is None:
                    length = min(copy.ends - copy.authenticated, length)
                ends = what.at + length
                idle = idle if what.idle_s is None else process.idle_s
                self.check(this.copy.authenticated == what.at, "4: the login time is wrong")
                self.counts["met: authenticated again"] += 1
            else:
                self.check(this.copy.authenticated == copy.authenticated, "4: the login time changed")
            if what.absolute_s is not None:
                ends = min(ends, this.copy.authenticated + what.absolute_s * 1000)
            if what.idle_s is not None:
                idle = min(idle, what.idle_s)
        self._within(request, this, ends, min(idle, process.idle_s), activity)
        self.check(this.copy.stamp >= now, "4: an epoch of an earlier moment")
        # revoke_others() is repeated if it was slow: each try begins an epoch.
        tries = [each.event for each in request.calls if each.method == "compare_and_raise" and each.raised] or [event]
        for position, at in enumerate(tries):
            version = this.copy.version - (len(tries) - 1 - position << 16)
            life.floors.append((at, version, "1: a copy of an earlier epoch is accepted"))
            life.renewed.append(at)
            if tag is not None:
                self.model.revoke(tag, at, self.world.clock.highest)
        if tag is not None:
            self.counts["met: revoke_others()"] += 1
        self.model.end(
            [each.copy.life for _, each in request.presented if each.copy.life.is_login and each.copy.life is not life],
            event,
        )
        self.counts["met: a new epoch"] += 1
        request.deletes = True
        visit.become(this)

    def _others(self, *arguments: Any) -> None:
        self._renew(*arguments)

    def _login(
        self, request: Request, visit: Visit, sent: Any, event: int, now: int, until: int, tag: str | None
    ) -> None:
        process, base, what = request.process, visit.base, visit.regeneration
        self.check(sent is not None, "8: a login without a cookie")
        switched = not visit.cleared and visit.standing != "lost" and visit.change() == "switch"
        user = visit.user_in_data() or user_of(what.tags if what is not None and what.tags is not None else ())
        tags = what.tags if what is not None and what.tags is not None else frozenset[str]()
        if visit.identities[1] is not None:
            tags |= {f"user:{visit.identities[1]}"}
        position = len(request.calls) - 1
        while position >= 0 and request.calls[position].method != "compare_and_raise":
            position -= 1
        before = request.calls[: position + 1] if position >= 0 else request.calls
        asked = [each.event for each in before if each.method == "lookup_now" and each.answered]
        passed: dict[str, int] = {}
        begun = request.began if what is None else what.asked[EVERYTHING]
        for each in (EVERYTHING, *tags):
            known = what is not None and each in what.asked
            passed[each] = what.asked[each] if known and what is not None else asked[-1] if asked else -1 - begun
        full = visit.data
        less = {key: value for key, value in full.items() if key in visit.assigned}
        unasked = request.degraded
        data = [full]
        if visit.standing == "lost" or switched:
            data = [less]
        elif base is not None and not visit.cleared:
            verdict = self.judge(request, base, now, event)
            data = [less] if isinstance(verdict, str) else [full] if verdict is None else [full, less]
            if isinstance(verdict, str):
                self.counts["met: a login from a session that is over"] += 1
            elif any(at > request.start_event for each in tags for at, _, _ in self.model.revoked.get(each, ())):
                data = [full, less]  # the user was logged out everywhere just now: in doubt it begins without the data
        life = self.model.life(user, True)
        life.browser, life.turn = request.browser, request.turn
        life.untold = request.is_untold
        request.begun.append(life)
        try:
            this = self.sealed(request, sent, life, tags, passed, data, begun=begun)
        except AssertionError as error:
            if data == [less] and str(error).startswith("3: "):
                raise AssertionError(f"1: data live on in {life}") from None
            raise
        if not unasked:
            verdict = self.model.dead(this.copy, event)
            self.check(not isinstance(verdict, str), f"{verdict}: it was issued")
        at = what.at if what is not None else until
        ends = at + process.absolute_ms
        idle = process.idle_s
        if what is not None:
            self.check(this.copy.created == what.at, "4: a login is not of its call")
            ends = min(ends, at + (what.absolute_s or 1 << 20) * 1000)
            idle = min(idle, what.idle_s or UNLIMITED)
        self._within(request, this, ends, idle, max(until, at))
        raised = [each for each in request.calls if each.method == "compare_and_raise" and each.answered and each.yes]
        if raised:
            self.model.end([each for each in self.referee.lives(request) if each is not life], raised[-1].event)
        elif not unasked:
            self.model.end(self.referee.lives(request), self.model.event)
        else:
            self.counts["met: a login in an outage"] += 1
        self.counts["met: a change of user" if switched else "met: a login"] += 1
        if base is not None and not base.copy.life.is_login and full:
            self.counts["met: a login that takes data over"] += 1
        request.deletes = request.turns = True
        visit.become(this)

    def _begin(
        self, request: Request, visit: Visit, sent: Any, event: int, now: int, until: int, tag: str | None
    ) -> None:
        self.check(sent is not None, "8: a session began without a cookie")
        visit.become(self._anonymous(request, visit, sent, until))
        self.counts["met: an anonymous session"] += 1

    def _anonymous(self, request: Request, visit: Visit, sent: Any, until: int) -> Held:
        process = request.process
        asked = [each.event for each in request.calls if each.method == "lookup_now" and each.answered]
        life = self.model.life(None, False)
        passed = {EVERYTHING: asked[0] if asked else -1 - request.began}
        this = self.sealed(request, sent, life, frozenset(), passed, [visit.data], begun=request.began)
        self._within(request, this, until + process.absolute_ms, process.idle_s, until)
        return this

    def _logout(
        self, request: Request, visit: Visit, sent: Any, event: int, now: int, until: int, tag: str | None
    ) -> None:
        base = visit.base if not visit.cleared and visit.standing != "lost" else None
        lives = [each for each in self.referee.lives(request) if each.is_login]
        if base is not None:
            lives.append(base.copy.life)
        verdict = None if base is None else self.judge(request, base, now, event)
        left = None
        expected = bool(visit.data) and (base is not None or visit.cleared)
        if sent is not None:
            self.check(not isinstance(verdict, str), f"{verdict}: what was left in it lives on")
            self.check(expected, "1: data live on after a logout")
            left = self._anonymous(request, visit, sent, until)
            self.counts["met: something is left after a logout"] += 1
        elif expected and verdict is None and base is not None:
            self.check(
                self.judge(request, base, self.world.clock.wall, self.model.event) is not None,
                "3: what was left is lost",
            )
        raised = [each.event for each in request.calls if each.raised]
        self.model.end(lives, raised[-1] if raised else self.model.event)
        self.counts["met: a staged logout"] += 1
        if any(isinstance(self.model.dead(each.copy, event - 1), str) for _, each in request.presented):
            self.counts["met: a logout that presents a dead login"] += 1
        request.deletes = request.turns = True
        visit.become(left)
