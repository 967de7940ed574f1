"""Histories: how one is made up, carried out, and held against the model; and how one that fails is made smaller."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from wsgi_rollsession import RollSession, SessionConflict, SessionTooLarge, StoreUnavailable
from wsgi_rollsession.middleware import SESSION
from wsgi_rollsession.session import exchange_of

from .model import (
    EVERYTHING,
    UNLIMITED,
    VAGUE,
    Copy,
    Held,
    Lease,
    Life,
    Regeneration,
    Setup,
    Vague,
    Verdict,
    Visit,
    held,
    user_of,
)
from .world import NAME, NAMES, SLOT, SLOTS, Browser, Call, Cookie, LeaseCookie, Process, World

#: A step: what happens, and to what. Requests that do not exist are passed over, so any step can be left out.
Step = tuple[Any, ...]
USERS = ("alice", "bob")
#: Acts that end no login.
QUIET = ("roll", "nothing", "send", "write", "begin", "drop")


class History(NamedTuple):
    """What happens."""

    setups: tuple[Setup, Setup]
    steps: list[Step]


class Failure(RuntimeError):
    """What the application raises."""


class Logs(logging.Handler):
    """Counts the lines about what requests present."""

    infos = 0

    def handle(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.INFO and " cookie " in record.getMessage():
            self.infos += 1
        return True


class Request:
    """One request, from its sending to the arrival of its answer."""

    def __init__(self, number: int, browser: Browser | None, process: Process, pairs: list[tuple[str, str]]) -> None:
        self.number, self.browser, self.process, self.pairs = number, browser, process, pairs
        self.turn = browser.turn if browser is not None else -1
        self.sent_at = 0  # the event
        self.state = "sent"
        self.junk = False
        self.environ: dict[str, Any] = {}
        self.session: Any = None
        self.start: Any = None
        self.steps: Iterator[bytes] = iter(())
        self.job: Callable[[], None] | None = None
        self.started: list[tuple[str, str]] | None = None
        self.visit: Visit | None = None
        #: What it presents that is authentic to its process, and by which names.
        self.presented: list[tuple[Cookie, Held]] = []
        self.others: list[tuple[Life, bool]] = []  # other logins that were alive at the load, and whether surely
        self.acts: set[str] = set()
        self.begun: list[Life] = []  # the logins that began in it
        self.turns = False  # it carries a login or a logout
        self.deletes = False  # something that has been done deletes cookies
        self.known: set[str] = set()  # the values that this response carries in any case
        self.busy = False
        self.blurred = False  # nobody can say where it stands
        self.committed_at = 0
        self.wanted = self.extends = True  # whether its response may extend the session, and did not fail to
        self.answer: list[tuple[str, str | None, int | None]] = []
        self.calls: list[Call] = []  # of the last thing that it did, and the event before it
        self.start_event = 0

    @property
    def began(self) -> int:
        """When what begins in it begins, if it was not answered: when it asked."""
        return next((each.event for each in self.calls if not each.answered), self.start_event)

    @property
    def is_untold(self) -> bool:
        """Whether the browser had forgotten the slot: its Max-Age was over."""
        return self.turn > 0 and all(name != SLOT for name, _ in self.pairs)

    @property
    def degraded(self) -> bool:
        """Whether it was not answered what it asked about itself, when it asked last."""
        return any(not each.answered and each.method != "fence" for each in self.calls)

    def body(self) -> Iterator[bytes]:
        """The application: does one thing after another, as it is told to."""
        while True:
            yield b""
            if self.job is None:
                return
            self.job()


def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """The wrapped application."""
    request = environ["test.request"]
    request.session, request.start = environ[SESSION], start_response
    return request.body()  # type: ignore[no-any-return]


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
        self.requests: dict[int, Request] = {}
        self.tokens: dict[str, tuple[str | None, int]] = {}  # for whom, and by which request
        self.setups = list(history.setups)

    def carry_out(self) -> None:
        """All of it, and the thief at the end."""
        self.run(self.history.steps)
        for wire in self.world.wires:
            wire.mend()
        self.look()
        for ms in (30_000, 60_000, 500_000):
            self.world.clock.advance(ms)
            self.world.purge()
            self.look()

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

    def check(self, condition: object, message: str) -> None:
        """An invariant."""
        self.counts["checks"] += 1
        if not condition:
            raise AssertionError(message)

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
            self.check(world.wires[where].is_down, "8: a revocation failed without a reason")
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
            self.check(world.wires[where].is_down, "8: a revocation failed without a reason")
            return
        self.model.end([cookie.copy.life], world.calls[-1].event)

    # What is presented

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

    # A request

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
        self.present(request)
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
            self.check(not all(each.answered for each in world.calls), "8: refused without a reason")
            self.over(request)
        elif request.session.loaded:
            self.loaded(request, now, infos)

    def over(self, request: Request) -> None:
        """It has failed, and whatever its response was, it carries nothing of ours."""
        request.state, request.answer = "done", []
        self.failed(request)

    def failed(self, request: Request) -> None:
        for _, each in request.presented:
            each.copy.life.failed = True

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
        lives = self.lives(request) if pause is not None else []
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

    def lives(self, request: Request) -> list[Life]:
        """Those that the request may end."""
        lives = [each.copy.life for _, each in request.presented]
        visit = request.visit
        if visit is not None and visit.base is not None:
            lives.append(visit.base.copy.life)
        return lives

    def load(self, request: Request, pause: Any) -> bool:
        """It looks at its session. Whether it could."""
        if request.visit is not None:
            return True
        now, infos = self.world.clock.wall, self.logs.infos
        error = self.perform(request, lambda session: session.get("x"), pause)
        if error is not None:
            self.check(
                isinstance(error, StoreUnavailable) and request.process.setup.outage == "closed",
                f"8: a load failed without a reason: {error!r}",
            )
            return False
        self.loaded(request, now, infos, request.calls)
        return True

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
        getattr(self, "do_" + name)(request, visit, argument, pause)

    def excused(self, request: Request, error: Exception) -> str | None:
        """What an error means for the session: it is lost, or nobody can say, or nothing. It needs a reason."""
        visit, model = request.visit, self.model
        assert visit is not None
        self.failed(request)
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
        logins = any(each.is_login for each in self.lives(request))
        fence = next((each.answered for each in request.calls if each.method == "fence"), not logins)
        if act not in ("", "login", "logout") and visit.leaves and fence:
            self._end_unseen(request)  # that was done first
            visit.leaves = False
            if visit.regeneration is not None and visit.regeneration.tags is None:
                visit.regeneration = None
        if self.excused(request, error) == "lost":
            visit.standing = "lost"

    def same_data(self, request: Request) -> None:
        visit = request.visit
        assert visit is not None
        self.check(dict(request.session) == visit.data, "3: the session holds other data than the application stored")

    def token(self, request: Request, visit: Visit) -> str:
        token = f"t{len(self.tokens)}"
        self.tokens[token] = visit.user(), request.number
        return token

    def do_write(self, request: Request, visit: Visit, key: str, pause: Any) -> None:
        value = self.token(request, visit)
        self.perform(request, lambda session: session.__setitem__(key, value))
        visit.assign(key, value)

    def do_big(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        self.perform(request, lambda session: session.__setitem__("big", "x" * 4000))
        visit.assign("big", "x" * 4000)

    def do_last(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        """Everything is popped, but who is logged in."""
        for key in [each for each in visit.data if not (visit.identity and each == "user")]:
            self.perform(request, lambda session, key=key: session.pop(key))
            visit.remove(key)

    def do_assign(self, request: Request, visit: Visit, user: str, pause: Any) -> None:
        """A login by the identity key; without one, by tags."""
        if not visit.identity:
            return self.do_login(request, visit, (user, None, None, None), pause)
        self.perform(request, lambda session: session.__setitem__("user", user))
        visit.assign("user", user)

    def do_login(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        user, idle_s, absolute_s, persistent = argument
        tags = frozenset(("tenant",) if visit.identity else (f"user:{user}", "tenant"))
        if self._regenerate(request, visit, tags, idle_s, absolute_s, persistent, pause):
            self.perform(request, lambda session: session.__setitem__("user", user))
            visit.assign("user", user)

    def do_renew(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        """A role changed; or the user was authenticated again."""
        again, idle_s, absolute_s, persistent = argument
        tags = None
        if again:
            tags = frozenset(("tenant", "role"))
            if visit.base is not None and visit.is_somebody:
                tags |= visit.base.copy.tags
        self._regenerate(request, visit, tags, idle_s, absolute_s, persistent, pause)

    def _regenerate(
        self, request: Request, visit: Visit, tags: frozenset[str] | None, idle_s: int | None, absolute_s: int | None,
        persistent: bool | None, pause: Any,
    ) -> bool:  # fmt: skip
        at = self.world.clock.wall
        given = None if tags is None else sorted(tags)
        error = self.perform(
            request,
            lambda session: session.regenerate(
                tags=given, idle_timeout=idle_s, absolute_timeout=absolute_s, persistent=persistent
            ),
            pause,
        )
        if error is not None:
            self.after_error(request, error)
            return False
        event, unasked = request.calls[-1].event, not all(each.answered for each in request.calls)
        base = visit.base if not visit.cleared and visit.standing != "lost" else None
        user = visit.identities[1]
        known = (*(base.copy.tags if base is not None else ()), *(tags or ()), *([f"user:{user}"] if user else ()))
        asked = dict.fromkeys((EVERYTHING, *known), self.model.event if unasked else event)
        if base is not None:
            verdict = self.judge(request, base, at, event)
            is_login = base.copy.life.is_login
            if self.was_overslept(request, base, at):
                verdict = VAGUE  # the response will notice
            if isinstance(verdict, str):
                self.check(not is_login, verdict)
                visit.standing = "lost"
            elif verdict is VAGUE and not is_login and dict(request.session) != visit.data:
                visit.standing = "lost"
        asked_now = Regeneration(tags, idle_s, absolute_s, persistent, at, asked, unasked)
        visit.regeneration = asked_now if visit.regeneration is None else visit.regeneration.then(asked_now)
        if visit.standing == "lost" or (not visit.identity and visit.is_somebody and not visit.is_renewed):
            visit.keep_assigned()
        self.same_data(request)
        return True

    def do_logout(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        error = self.perform(request, lambda session: session.invalidate(), pause)
        if error is not None:
            self.after_error(request, error)
            return
        event = next((each.event for each in reversed(request.calls) if each.raised), self.model.event)
        self.model.end(self.lives(request), event)
        self.gone(request, "logout")

    def gone(self, request: Request, act: str) -> None:
        visit = request.visit
        assert visit is not None
        visit.start_over()
        request.acts.add(act)
        if request.state == "begun":
            request.deletes = request.turns = True
        self.same_data(request)

    def do_forget(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        self.perform(request, lambda session: session.forget())
        self.gone(request, "forget")

    def do_clear(self, request: Request, visit: Visit, message: bool, pause: Any) -> None:
        self.perform(request, lambda session: session.clear())
        visit.clear()
        if message:
            self.do_write(request, visit, "message", None)

    def do_pop(self, request: Request, visit: Visit, how: str, pause: Any) -> None:
        """Out, as frameworks do it."""
        if not visit.identity:
            return self.do_clear(request, visit, False, pause)
        if how == "none":
            self.perform(request, lambda session: session.__setitem__("user", None))
            visit.assign("user", None)
        elif how == "default" or visit.data.get("user") is not None or "user" in visit.data:
            self.perform(request, lambda session: session.pop("user", None))
            visit.remove("user")

    def do_others(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        base = visit.base
        tag = (
            None if base is None else next((each for each in sorted(base.copy.tags) if each.startswith("user:")), None)
        )
        if tag is None or visit.cleared or base is None or visit.change() == "logout":
            return
        if visit.change() in ("login", "switch", "renew"):  # that is done before
            self.do_save(request, visit, None, pause)
            base = visit.base
            if request.blurred or visit.standing != "sealed" or base is None or tag not in base.copy.tags:
                return
        self.world.clock.advance(1000)
        start, now = self.model.event, self.world.clock.wall
        error = self.perform(request, lambda session: session.revoke_others(tag), pause, tag)
        if error is not None:
            self.after_error(request, error)
            self.ambiguous(request, tag)
            request.blurred = request.blurred or any(each.raised for each in request.calls)
            return
        self.settled(request, "others", start, now, tag)

    def do_save(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        start, now, act = self.model.event, self.world.clock.wall, visit.act()
        error = self.perform(request, lambda session: session.save(), pause)
        if error is not None:
            self.after_error(request, error, act)
            self.ambiguous(request)
            return
        self.check(act not in ("drop", "conflict"), "8: save() did not say that the session is lost")
        self.settled(request, act, start, now)
        self.counts["met: save()"] += 1

    def settled(self, request: Request, act: str, start: int, now: int, tag: str | None = None) -> None:
        """Something was done at once."""
        sent = [tuple(each) for each in exchange_of(request.session).settled]
        self.apply(request, act, start, now, sent, tag=tag, saved=True)
        self.same_data(request)

    def do_revert(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        self.perform(request, lambda session: session.revert())
        visit.revert()
        self.same_data(request)
        self.counts["met: revert()"] += 1

    def do_check(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        found: list[bool] = []
        now = self.world.clock.wall
        error = self.perform(request, lambda session: found.append(session.check()), pause)
        if error is not None:
            self.after_error(request, error)
            return
        base = visit.base
        if base is None or visit.cleared or visit.standing == "lost":
            self.check(found == [False], "1: check() says that a session is alive that is not there")
            return
        verdict = self.judge(request, base, now, request.calls[-1].event if request.calls else self.model.event)
        self.counts["met: check()"] += 1
        if found == [True]:
            self.check(not isinstance(verdict, str), str(verdict))
        else:
            if verdict is None and self.judge(request, base, self.world.clock.wall, self.model.event) is None:
                self.lost(base)
            visit.standing = "lost"

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
                self.check(
                    request.degraded and request.process.setup.outage == "closed", f"8: {error!r} of an error page"
                )
                self.close(request)
                self.over(request)
                return
            request.answer = cookies_of(request.started)
            request.extends = request.wanted = kind != "noroll"
            if request.visit is not None:
                self.apply(request, request.visit.act(), model.event, world.clock.wall, request.answer)
            return
        request.answer = cookies_of(request.started)
        if act == "unread" and request.session.loaded:  # there were several to choose from
            self.loaded(request, now, infos, request.calls[:1])
        if not request.blurred:
            self.apply(request, act, start, now, request.answer)

    def after_commit_error(self, request: Request, error: Exception, act: str) -> None:
        visit = request.visit
        if visit is None:
            self.check(
                isinstance(error, StoreUnavailable) and request.process.setup.outage == "closed",
                f"8: {error!r} without a reason",
            )
            request.visit = Visit(request.process.setup.identity, None)
            request.blurred = True
            self.failed(request)
            return
        self.after_error(request, error, act)
        self.ambiguous(request)
        visit.revert()
        if not request.blurred:
            self.counts["met: an error page"] += 1

    def ambiguous(self, request: Request, tag: str | None = None) -> None:
        """Something failed after the store had confirmed: the process slept for too long."""
        if any(each.raised and each.method == "compare_and_raise" for each in request.calls):
            tagged = [each.copy.life for each in self.world.cookies.values() if tag in each.copy.tags]
            for life in (*self.lives(request), *tagged):
                life.vague = True

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
        found = request_data(record.data)
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
            self.model.end([each for each in self.lives(request) if each is not life], raised[-1].event)
        elif not unasked:
            self.model.end(self.lives(request), self.model.event)
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
        lives = [each for each in self.lives(request) if each.is_login]
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
        before, turns = self.living(browser), browser.turn - request.turn
        for life in request.begun:
            life.late = browser.turn
        deletes_only = [name for name, value, _ in request.answer if value is None]
        for name, value, max_age in request.answer:
            if name == SLOT:
                late = browser.turn > request.turn and value != browser.jar.get(SLOT, (value, 0))[0]
                if late or request.is_untold:
                    browser.set_back = browser.turn
                    self.counts["met: a late answer sets the slot back"] += 1
            browser.put(name, value, max_age)
        browser.turn += request.turns
        for name in browser.jar:
            self.check(name == SLOT or name.removesuffix("-lease") in NAMES, "5: a cookie of an unknown name")
        if not before:
            return
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
            if "forget" in request.acts and deletes_only:
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

    def step_lost(self, number: int) -> None:
        """The answer never arrives."""
        request = self.requests.get(number)
        if request is not None and not request.busy and request.state == "answered":
            self.close(request)
            request.state = "done"
            self.counts["met: an answer was lost"] += 1

    # The thief

    def step_look(self) -> None:
        self.look()

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


def request_data(data: bytes) -> Any:
    from json import loads

    return loads(data)


def cookies_of(headers: Sequence[tuple[str, str]] | None) -> list[tuple[str, str | None, int | None]]:
    """The cookies of a response: name, value (None: it is deleted) and Max-Age."""
    found: list[tuple[str, str | None, int | None]] = []
    for header, text in headers or ():
        if header == "Set-Cookie":
            pair, _, attributes = text.partition("; ")
            name, _, value = pair.partition("=")
            age = int(attributes[8:].partition(";")[0]) if attributes.startswith("Max-Age=") else None
            found.append((name, None if age == 0 and not value else value, age))
    return found


__all__ = ["History", "Lease", "Machine", "RollSession", "Vague"]
