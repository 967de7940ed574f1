"""Histories, and how one is carried out: what happens in the world, and the life of each request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from wsgi_rollsession import SessionConflict, SessionTooLarge, StoreUnavailable
from wsgi_rollsession.session import exchange_of

from .acts import Acts
from .model import EVERYTHING, Setup, Visit
from .operations import Operations
from .referee import Referee
from .request import Failure, Logs, Request, application, cookies_of
from .world import NAME, NAMES, SLOT, World

#: A step: what happens, and to what. Requests that do not exist are passed over, so any step can be left out.
Step = tuple[Any, ...]
USERS = ("alice", "bob")


class History(NamedTuple):
    """What happens."""

    setups: tuple[Setup, Setup]
    steps: list[Step]


class Machine:
    """Carries out one history.

    Args:
        counts: what was met is counted here.
    """

    def __init__(self, history: History, counts: Counter[str], logs: Logs) -> None:
        self.history, self.counts, self.logs = history, counts, logs
        self.world = World(application, history.setups)
        self.world.run = self.run_meanwhile
        self.model = self.world.model
        self.referee = Referee(self.world, counts, logs)
        self.acts = Acts(self.referee)
        self.operations = Operations(self.referee, self.acts, self.perform)
        self.requests: dict[int, Request] = {}

    def carry_out(self) -> None:
        """All of it, and the thief at the end."""
        self.run(self.history.steps)
        for wire in self.world.wires:
            wire.mend()
        self.referee.look()
        for ms in (30_000, 60_000, 500_000):
            self.world.clock.advance(ms)
            self.world.purge()
            self.referee.look()

    def run(self, steps: Sequence[Step]) -> None:
        """Some steps."""
        counts = self.counts
        for step in steps:
            counts["step " + step[0]] += 1
            getattr(self, "step_" + step[0])(*step[1:])

    def run_meanwhile(self, steps: Sequence[Step]) -> None:
        """Some steps, while a process is suspended."""
        infos = self.logs.infos
        self.run(steps)
        self.logs.infos = infos

    # The world

    def step_tick(self, ms: int) -> None:
        self.world.clock.advance(ms)

    def step_step(self, ms: int) -> None:
        self.world.clock.step(ms)
        for process in self.world.processes:  # each looks at its clock more often than that is set
            process.sessions._site.steady_clock()

    def step_purge(self) -> None:
        self.world.purge()

    def step_cut(self, where: int) -> None:
        self.world.wires[where].cut()

    def step_mend(self, where: int) -> None:
        self.world.wires[where].mend()

    def step_lag(self, where: int) -> None:
        self.world.wires[where].freeze()

    def step_restart(self, where: int, idle_s: int, absolute_s: int, renew_after_s: int, rolling: bool) -> None:
        setup = self.world.processes[where].setup._replace(
            idle_s=idle_s, absolute_s=absolute_s, renew_after_s=renew_after_s, rolling=rolling
        )
        self.world.restart(where, setup)

    def step_rotate(self) -> None:
        """A new key on every process; the oldest of three goes."""
        for where, process in enumerate(self.world.processes):
            keys = process.setup.keys
            if keys[0] < 3:
                self.world.restart(where, process.setup._replace(keys=(keys[0] + 1, *keys)[:3]))

    def step_lose(self) -> None:
        """The store loses its data. It takes some seconds to begin anew."""
        self.world.clock.advance(3000)
        self.world.lose_store()
        clock = self.world.clock
        self.model.losses.append((self.model.tick(), 0 if clock.wall < clock.highest else clock.wall))
        self.model.revoke(EVERYTHING, self.model.event, self.world.clock.highest, "6: the store's loss went unnoticed")

    def step_revoke(self, where: int, what: str) -> None:
        world = self.world
        world.clock.advance(1000)  # numbers run ahead of the clock by seconds at most, and then a revocation waits
        world.calls, world.asked = [], 0
        wrapped = world.processes[where].filter
        try:
            if what == EVERYTHING:
                wrapped.revoke_everything()
            else:
                wrapped.revoke(what)
        except StoreUnavailable:
            self.referee.check(world.wires[where].is_down, "8: a revocation failed without a reason")
            return
        self.model.revoke(what, world.calls[-1].event, world.clock.highest)
        self.counts["met: revoked from outside"] += 1

    def step_revoke_session(self, where: int, which: int) -> None:
        """By its id, as from a device list."""
        world = self.world
        copies = [cookie for cookie in world.cookies.values() if cookie.copy.life.is_login]
        if not copies:
            return
        cookie = copies[which % len(copies)]
        id_ = world.unseal(cookie.name, cookie.value).record.id
        world.calls, world.asked = [], 0
        try:
            world.processes[where].filter.revoke_session(id_.hex())
        except StoreUnavailable:
            self.referee.check(world.wires[where].is_down, "8: a revocation failed without a reason")
            return
        self.model.end([cookie.copy.life], world.calls[-1].event)

    # A request

    def steal(self, picks: Sequence[int]) -> list[tuple[str, str]]:
        """A thief combines any cookies with any leases."""
        world = self.world
        cookies, leases = list(world.cookies.values()), list(world.leases.values())
        pairs = []
        for pick in picks:
            if cookies:
                cookie = cookies[pick % len(cookies)]
                pairs.append((cookie.name, cookie.value))
                fitting = [each for each in leases if each.name == cookie.name + "-lease"]
                if fitting:
                    lease = fitting[pick % len(fitting)]
                    pairs.append((lease.name, lease.value))
        return pairs

    def step_send(self, number: int, who: int, where: int, begin: bool, touch: bool, junk: int) -> None:
        browser = self.world.browsers[who]
        request = Request(number, browser, self.world.processes[where], browser.cookies())
        self._send(request, begin, touch, junk)

    def step_thief(self, number: int, where: int, touch: bool, picks: Sequence[int]) -> None:
        self._send(Request(number, None, self.world.processes[where], self.steal(picks)), True, touch, 0)

    def _send(self, request: Request, begin: bool, touch: bool, junk: int) -> None:
        if request.number in self.requests:
            return
        self.requests[request.number] = request
        request.sent_at = self.model.event
        if junk:
            request.junk = True
            request.pairs = self._with_junk(request.pairs, junk)
        if begin:
            self.step_begin(request.number, touch)
        elif request.pairs:
            self.counts["met: a queued request with old cookies"] += 1

    def _with_junk(self, pairs: list[tuple[str, str]], junk: int) -> list[tuple[str, str]]:
        values = list(self.world.cookies.values())
        stray = values[junk % len(values)] if values else None
        made = [
            (f"{NAME}-{junk % 4 + 1}", "AQ" + "A" * 252),
            (NAME, "x" * (junk % 90)),
            (f"{NAME}-2-lease", "AQ" + "B" * 46),
            (f"{NAME}-slots", "7"),
            (f"{NAME}-3b", stray.value if stray is not None and stray.name != f"{NAME}-3b" else "="),
            (f"{NAME}-9", "A" * 256),
        ]
        chosen = [each for index, each in enumerate(made) if junk >> index & 1]
        return [*chosen, *pairs] if junk & 64 else [*pairs, *chosen]

    def step_begin(self, number: int, touch: bool) -> None:
        """It arrives at its process."""
        request = self.requests.get(number)
        if request is None or request.state != "sent":
            return
        request.environ = {"test.request": request, "wsgi.multiprocess": True}
        if request.pairs:
            request.environ["HTTP_COOKIE"] = "; ".join([f"{name}={value}" for name, value in request.pairs])
        self._pass(request)
        if touch and request.state == "begun":
            self.load(request, None)

    def _pass(self, request: Request) -> None:
        """One pass of the filter."""
        self.referee.present(request)
        self.counts["requests"] += 1
        request.visit, request.blurred, request.started, request.state = None, False, None, "begun"
        world = self.world
        world.calls, world.asked = [], 0
        now, infos = world.clock.wall, self.logs.infos

        def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
            request.started = headers

        request.steps = iter(request.process.filter(request.environ, start_response))
        next(request.steps, None)
        if request.started is not None:  # closed, and the store cannot be asked
            self.referee.check(not all(each.answered for each in world.calls), "8: refused without a reason")
            self.over(request)
        elif request.session.loaded:
            self.referee.loaded(request, now, infos)

    def over(self, request: Request) -> None:
        """It has failed, and whatever its response was, it carries nothing of ours."""
        request.state, request.answer = "done", []
        self.referee.failed(request)

    def perform(
        self, request: Request, job: Callable[[Any], Any], pause: Any = None, tag: str | None = None
    ) -> Exception | None:
        """Have the application do something. What it raised, of what it may raise.

        Args:
            tag: what is being revoked.
        """
        world = self.world
        saved = world.calls, world.asked, world.pause
        world.calls, world.asked, world.pause = [], 0, pause
        errors: list[Exception] = []

        def guarded() -> None:
            try:
                job(request.session)
            except (StoreUnavailable, SessionConflict, SessionTooLarge) as error:
                errors.append(error)
            except ValueError as error:  # it lacks a tag that it must have
                raise AssertionError(f"1: {error}") from error

        request.job, request.busy, request.start_event = guarded, True, self.model.event
        lives = self.referee.lives(request) if pause is not None else []
        if pause is not None and tag is not None:
            lives += [each.copy.life for each in self.world.cookies.values() if tag in each.copy.tags]
        for life in lives:
            life.pending += 1
        try:
            next(request.steps)
        finally:
            request.busy = False
            for life in lives:
                life.pending -= 1
            request.calls = world.calls
            world.calls, world.asked, world.pause = saved
        return errors[0] if errors else None

    def load(self, request: Request, pause: Any) -> bool:
        """It looks at its session. Whether it could."""
        if request.visit is not None:
            return True
        now, infos = self.world.clock.wall, self.logs.infos
        error = self.perform(request, lambda session: session.get("x"), pause)
        if error is not None:
            self.referee.check(
                isinstance(error, StoreUnavailable) and request.process.setup.outage == "closed",
                f"8: a load failed without a reason: {error!r}",
            )
            return False
        self.referee.loaded(request, now, infos, request.calls)
        return True

    # What the application does

    def step_op(self, number: int, name: str, argument: Any = None, pause: Any = None) -> None:
        request = self.requests.get(number)
        if request is None or request.busy or request.blurred or request.state not in ("begun", "answered"):
            return
        if request.state == "answered" and name not in ("logout", "check"):
            return
        if not self.load(request, pause if name == "read" else None) or name == "read":
            return
        visit = request.visit
        assert visit is not None
        self.counts["op " + name] += 1
        getattr(self.operations, "do_" + name)(request, visit, argument, pause)

    # The response

    def step_answer(self, number: int, kind: str = "ok", pause: Any = None) -> None:
        """Its response starts."""
        request = self.requests.get(number)
        if request is None or request.busy or request.state != "begun":
            return
        if request.blurred:
            self.close(request)
            self.over(request)
            return
        visit, model, world = request.visit, self.model, self.world
        start, now, infos = model.event, world.clock.wall, self.logs.infos
        headers = [("Cache-Control", "public, max-age=60")] if kind == "storable" else []
        if kind == "noroll":
            request.environ["wsgi_rollsession.roll"] = False
        request.extends = request.wanted = kind in ("ok", "nopage")
        request.started, request.committed_at = None, now
        act = "unread" if visit is None else visit.act()
        error = self.perform(request, lambda session: request.start("200 OK", headers), pause)
        request.state = "answered"
        if error is not None:
            self.after_commit_error(request, error, act)
            if kind == "nopage" or request.blurred:
                self.close(request)
                self.over(request)
                return
            error = self.perform(request, lambda session: request.start("500 Sorry", [], (None, None, None)))
            if error is not None:
                self.referee.check(
                    request.degraded and request.process.setup.outage == "closed", f"8: {error!r} of an error page"
                )
                self.close(request)
                self.over(request)
                return
            request.answer = cookies_of(request.started)
            request.extends = request.wanted = kind != "noroll"
            if request.visit is not None:
                self.acts.apply(request, request.visit.act(), model.event, world.clock.wall, request.answer)
            return
        request.answer = cookies_of(request.started)
        if act == "unread" and request.session.loaded:  # there were several to choose from
            self.referee.loaded(request, now, infos, request.calls[:1])
        if not request.blurred:
            self.acts.apply(request, act, start, now, request.answer)

    def after_commit_error(self, request: Request, error: Exception, act: str) -> None:
        visit = request.visit
        if visit is None:
            self.referee.check(
                isinstance(error, StoreUnavailable) and request.process.setup.outage == "closed",
                f"8: {error!r} without a reason",
            )
            request.visit = Visit(request.process.setup.identity, None)
            request.blurred = True
            self.referee.failed(request)
            return
        self.acts.after_error(request, error, act)
        self.acts.ambiguous(request)
        visit.revert()
        if not request.blurred:
            self.counts["met: an error page"] += 1

    def step_fail(self, number: int) -> None:
        """The application raises, before its response starts or after."""
        request = self.requests.get(number)
        if request is None or request.busy or request.state not in ("begun", "answered"):
            return

        def fail() -> None:
            raise Failure

        request.job = fail
        try:
            next(request.steps)
        except Failure:
            pass
        self.counts["met: the application failed"] += 1
        if request.state == "begun":
            self.over(request)
        else:
            request.state, request.answer = "done", []

    def step_again(self, number: int, touch: bool) -> None:
        """Something outside of the filter runs the request again, with the same environ."""
        request = self.requests.get(number)
        if request is None or request.busy or request.state not in ("begun", "answered") or request.session is None:
            return
        self.close(request)
        carried = exchange_of(request.session).settled
        ours = {each.name for each in carried}
        request.pairs = [pair for pair in request.pairs if pair[0] not in ours]
        request.pairs += [(each.name, each.value) for each in carried if each.value is not None]
        request.known = {each.value for each in carried if each.value is not None}
        self.counts["met: another pass of one environ"] += 1
        request.environ.pop("wsgi_rollsession.roll", None)
        self._pass(request)
        if touch and request.state == "begun":
            self.load(request, None)

    def close(self, request: Request) -> None:
        request.job = None
        next(request.steps, None)

    # The answer

    def step_arrive(self, number: int) -> None:
        """The answer reaches the browser."""
        request = self.requests.get(number)
        if request is None or request.busy or request.state != "answered":
            return
        self.close(request)
        request.state = "done"
        browser = request.browser
        if browser is None:
            return
        if not request.answer or request.junk:
            return
        before, turns = self.referee.living(browser), browser.turn - request.turn
        for life in request.begun:
            life.late = browser.turn
        for name, value, max_age in request.answer:
            if name == SLOT:
                late = browser.turn > request.turn and value != browser.jar.get(SLOT, (value, 0))[0]
                if late or request.is_untold:
                    browser.set_back = browser.turn
                    self.counts["met: a late answer sets the slot back"] += 1
            browser.put(name, value, max_age)
        browser.turn += request.turns
        for name in browser.jar:
            self.referee.check(name == SLOT or name.removesuffix("-lease") in NAMES, "5: a cookie of an unknown name")
        if before:
            self.referee.arrived(request, browser, before, turns)

    def step_lost(self, number: int) -> None:
        """The answer never arrives."""
        request = self.requests.get(number)
        if request is not None and not request.busy and request.state == "answered":
            self.close(request)
            request.state = "done"
            self.counts["met: an answer was lost"] += 1

    # The thief

    def step_look(self) -> None:
        self.referee.look()
