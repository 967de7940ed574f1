"""What the checker knows: which of the cookies that are presented are alive, and that no other works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .model import UNLIMITED, Held, Life, Verdict, Visit, held
from .request import Logs, Request
from .world import SLOTS, Browser, Call, Cookie, LeaseCookie, World


class Referee:
    """What a request may find, and what it must not: what is presented is held against the model.

    Args:
        counts: what was met is counted here.
    """

    def __init__(self, world: World, counts: Counter[str], logs: Logs) -> None:
        self.world, self.model, self.counts, self.logs = world, world.model, counts, logs

    def check(self, condition: object, message: str) -> None:
        """An invariant."""
        self.counts["checks"] += 1
        if not condition:
            raise AssertionError(message)

    def held(self, cookie: Cookie, leases: Sequence[LeaseCookie]) -> Held:
        return held(cookie.copy, [each.lease for each in leases])

    def present(self, request: Request) -> None:
        """What a request presents."""
        world, keys = self.world, request.process.setup.keys
        request.presented = []
        leases: dict[str, list[LeaseCookie]] = {}
        for name, value in request.pairs:
            lease = world.leases.get(value)
            if lease is not None and lease.name == name and lease.key in keys:
                leases.setdefault(name, []).append(lease)
        for name, value in request.pairs:
            cookie = world.cookies.get(value)
            if cookie is not None and cookie.name == name and cookie.key in keys:
                request.presented.append((cookie, self.held(cookie, leases.get(name + "-lease", ()))))

    def judge(self, request: Request, this: Held, now: int, event: int) -> Verdict:
        process = request.process
        return self.model.judge(this, now, process.idle_s, process.absolute_ms, event)

    def was_overslept(self, request: Request, this: Held, now: int) -> bool:
        """Whether the process was suspended at its question since *now*, longer than the session lives.

        The store may have forgotten by then what it was asked for.
        """
        over = self.judge(request, this, self.world.clock.wall, -1)
        return isinstance(over, str) and self.judge(request, this, now, -1) is None

    def failed(self, request: Request) -> None:
        for _, each in request.presented:
            each.copy.life.failed = True

    def lives(self, request: Request) -> list[Life]:
        """Those that the request may end."""
        lives = [each.copy.life for _, each in request.presented]
        visit = request.visit
        if visit is not None and visit.base is not None:
            lives.append(visit.base.copy.life)
        return lives

    def loaded(self, request: Request, now: int, infos: int, calls: Sequence[Call] | None = None) -> None:
        """What it found must be what there is."""
        session = request.session
        self.check(self.logs.infos - infos <= 1, "7: more than one line is logged")
        calls = self.world.calls if calls is None else calls
        answered = [each.event for each in calls if each.answered]
        event = answered[-1] if answered else request.process.wire.event
        found = self.choose(request, session, now, event)
        request.visit = Visit(request.process.setup.identity, found)
        if found is not None:
            self.check(dict(session) == found.copy.data, "3: the session holds other data than were sealed")
            if request.state == "begun":
                self.check((session.ended is None) == found.copy.life.is_login, "7: session.ended is wrong")
        else:
            self.check(not session, "3: a session that is not there holds data")

    def choose(self, request: Request, session: Any, now: int, event: int) -> Held | None:
        """The session that was found, which must be the best that is alive."""
        version, id_ = session.version, session.id
        best, found, wrong = None, None, None
        others: list[tuple[Life, bool]] = []
        for cookie, each in request.presented:
            verdict = self.judge(request, each, now, event)
            is_dead = isinstance(verdict, str)
            if verdict is None and (best is None or each.rank > best.rank):
                best = each
            if version and each.copy.version == version and self.world.unseal_id(cookie) == id_:
                # Of two copies of one version, which writes in parallel have made, that which is alive.
                better = found is None or (wrong is not None and not is_dead) or each.rank > found.rank
                if better and (found is None or wrong is not None or not is_dead):
                    found, wrong = each, verdict if is_dead else None
            if not is_dead and each.copy.life.is_login:
                others.append((each.copy.life, verdict is None))
            elif is_dead:
                self.counts["met: a dead cookie was presented"] += 1
        if found is not None and wrong is not None and self.was_overslept(request, found, now):
            self.counts["met: a load that took longer than its session lives"] += 1
        else:
            self.check(wrong is None, str(wrong))
        self.check(found is not None or not version, "7: a session out of nowhere")
        if best is not None and found is not best:
            if found is None or best.rank > found.rank:
                self.lost(best)
        request.others = [(life, sure) for life, sure in others if found is None or life is not found.copy.life]
        if request.others and found is not None and found.copy.life.is_login:
            self.counts["met: several logins in one request"] += 1
        return found

    def lost(self, this: Held) -> None:
        life = this.copy.life
        if life.failed:
            raise AssertionError(f"8: a response that failed ended {life}")
        if life.is_login:
            raise AssertionError(f"2: {life} was lost")
        raise AssertionError(f"5: a fence for an anonymous session: {life}")

    def arrived(self, request: Request, browser: Browser, before: dict[Life, int], turns: int) -> None:
        """An answer has reached a browser, and has taken none of the logins from it that it held before.

        Args:
            before: what ``living`` found then.
            turns: how many logins and logouts have arrived since the request was sent.
        """
        deletes = any(value is None for _, value, _ in request.answer)
        after = self.living(browser, late=True)
        for life, activity in before.items():
            if turns >= 4:
                self.counts["met: four logins while a response was on its way"] += 1
                continue
            if life in after:
                late = self.world.clock.wall - request.committed_at
                back = activity - after[life]
                if request.extends and late >= 0 and not self._was_renewed(life, request, 1):
                    allowed = late + request.process.setup.renew_after_s * 1000
                    allowed += self.world.clock.highest - self.world.clock.wall
                    self.check(back <= allowed, f"4: the activity of {life} went back by {back} ms")
                continue
            if self._was_renewed(life, request, 2):
                self.counts["met: two epochs during one late response"] += 1
                continue
            if "forget" in request.acts and deletes:
                continue
            visit = request.visit
            base = visit.base if visit is not None else None
            if life.browser is browser and self._shares_slot(life, request):
                self.counts["met: logins in parallel"] += 1
                continue
            raise AssertionError(f"2: {life} was lost when {'a dead' if base is None else 'another'} response arrived")

    def _shares_slot(self, life: Life, request: Request) -> bool:
        """Whether a response has to do with a login that was made in parallel with *life*; or that was late by four."""
        others = [each.copy.life for _, each in request.presented if each.copy.life is not life]
        others = [each for each in others if each.browser is life.browser]
        turns = [each.turn for each in others]
        if "login" in request.acts:
            turns.append(request.turn)
        if life.untold or life.turn in turns or life.late - life.turn >= 4:
            return True
        if life.browser.set_back >= min(turns, default=request.turn):
            return True  # a late answer has set the slot back, and so it is used again earlier
        # A cookie that arrived late lies ahead in the row, and its slot is used again while its deletion is on its way.
        return any(
            each.ended is not None and each.ended <= request.sent_at and life.turn - each.turn >= 4 for each in others
        )

    def _was_renewed(self, life: Life, request: Request, times: int) -> bool:
        return sum(event > request.sent_at for event in life.renewed) >= times

    def living(self, browser: Browser, *, late: bool = False) -> dict[Life, int]:
        """The logins that a browser holds and that are surely alive, and their last activity.

        Args:
            late: whether those count that only the idle timeout has ended.
        """
        world, now = self.world, self.world.clock.wall
        pairs = browser.cookies()
        leases = dict(pairs)
        found: dict[Life, int] = {}
        for name, value in pairs:
            if name in SLOTS:
                cookie = world.cookies.get(value)
                if cookie is not None and cookie.key in world.processes[0].setup.keys:
                    lease = world.leases.get(leases.get(name + "-lease", ""))
                    this = self.held(cookie, (lease,) if lease is not None and lease.name == name + "-lease" else ())
                    verdict = self.model.judge(this, now, UNLIMITED, 1 << 60, self.model.event)
                    if verdict is None or (late and isinstance(verdict, str) and "idle" in verdict):
                        found[cookie.copy.life] = max(this.activity, found.get(cookie.copy.life, 0))
        return found

    def look(self) -> None:
        """A thief presents every cookie that must not work, with every lease that there ever was."""
        world = self.world
        observer = world.observer
        now, event = world.clock.wall, self.model.event
        leases: dict[str, list[LeaseCookie]] = {}
        for lease in world.leases.values():
            leases.setdefault(lease.name, []).append(lease)
        dead, names = [], set()
        for cookie in world.cookies.values():
            this = self.held(cookie, leases.get(cookie.name + "-lease", ()))
            verdict = self.model.judge(this, now, observer.idle_s, observer.absolute_ms, event)
            if isinstance(verdict, str):
                dead.append((cookie, verdict))
                names.add(cookie.name)
        if not dead:
            return
        pairs = [f"{cookie.name}={cookie.value}" for cookie, _ in dead]
        pairs += [f"{each.name}={each.value}" for name in names for each in leases.get(name + "-lease", ())]
        session = observer.sessions.begin_header("; ".join(pairs))
        version = session.version
        self.counts["checks"] += len(dead)
        self.counts["met: cookies that a thief tried"] += len(dead)
        if version:
            id_ = session.id
            for cookie, verdict in dead:
                if cookie.copy.version == version and world.unseal_id(cookie) == id_:
                    raise AssertionError(f"{verdict}: the thief is in {cookie.copy.life}")
            raise AssertionError("7: a session out of nowhere")
