"""A load of logins, reads, writes and logouts through the middleware, and a model of it outside the servers.

Several ``RollSession`` objects play the worker processes: each has connections, a breaker and a local set of its own.
The model knows one thing of every session: whether, and when, a logout of it was *confirmed* (``invalidate()`` or
``revoke()`` returned). From then on no request that begins may be accepted, whatever copy of its cookies it carries
and whichever worker gets it; a worker that follows may be ``max_staleness`` late with loads, but never re-issues.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.browser import KEY, Answer, call
from tests.servers import wait_until
from wsgi_rollsession import RollSession, Session
from wsgi_rollsession.errors import SessionConflict, StoreUnavailable
from wsgi_rollsession.revocation.redis.address import CALL_TIMEOUT, RedisAddress, parse

#: What a busy machine may add to a bound that is measured, in seconds.
SLACK = 0.5
#: Seconds that a busy machine may add to a request; and that a request may take if a server answers at times: a load, a
#: roll and a logout, each a call.
BUSY = 2.0
BOUND = 3 * CALL_TIMEOUT + BUSY
#: Seconds to wait for what must happen in the end. A Sentinel that was kept waiting for 2 s does nothing for 30 s.
PATIENCE = 90.0


class Login:
    """One session, as the model knows it."""

    def __init__(self, user: str, jar: dict[str, str]) -> None:
        self.user = user
        self.jar = jar
        self.copies: list[str] = []
        self.ended_at: float | None = None  # when a logout was confirmed
        self.doubtful = False  # a logout was tried, and not confirmed

    def header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in list(self.jar.items()))

    def receive(self, answer: Answer) -> None:
        """Like a browser; and like a thief, who keeps what it had."""
        for name, value in answer.sent().items():
            if value:
                self.jar[name] = value
                self.copies = [*self.copies[-3:], self.header()]
            else:
                self.jar.pop(name, None)


def new_worker(url: str, **options: Any) -> RollSession:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        holder = environ["test.holder"]
        holder["result"] = environ["test.handler"](environ["wsgi_rollsession.session"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    settings = {"keys": KEY, "outage": "closed", "renew_after": 0, "idle_timeout": "1h", **options}
    return RollSession(application, revocations=url, **settings)


class Load:
    """``with Load(url) as load:`` runs until the end of the block, and then checks everything once more.

    Args:
        workers: how many worker processes are played. Every second one follows, if the URL is Redis's.
    """

    def __init__(self, url: str, *, workers: int = 4, threads: int = 4, **options: Any) -> None:
        self.url = url
        self._options = options
        self.workers: list[tuple[RollSession, float]] = []  # and how late its loads may be
        for number in range(workers):
            follows = number % 2 and url.startswith(("redis", "unix"))
            address = url + ("&" if "?" in url else "?") + "follow=1" if follows else url
            staleness = _address(address).max_staleness + SLACK if follows else 0.0
            self.workers.append((new_worker(address, **options), staleness))
        self.logins: list[Login] = []
        self.bystanders: list[Login] = []  # are never logged out: what becomes of them is the price of a fault
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        #: Until when a promise says that violations are not noticed yet; they are counted, and shown in the report.
        self.blind_until = 0.0
        self.blind_because = "before it was noticed"
        #: Seconds for which a promise says that a primary that was replaced may still be believed.
        self.late = 0.0
        self.longest = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self._errors: list[BaseException] = []

    def __enter__(self) -> Load:
        self.bystanders = [login for worker, _ in self.workers * 5 if (login := self._login(worker)) is not None]
        for thread in self._threads:
            thread.start()
        self.await_(lambda: self.counts["logouts"] >= 20, "the load runs")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)
            try:
                if kind is None:
                    assert not self._errors, self._errors[:3]
                    self._check_all()
            finally:
                for worker, _ in self.workers:
                    worker.close()
        assert not self.violations, self.violations[:10]

    def await_(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; {self._errors[:2]}"
            time.sleep(0.01)

    def settle(self) -> None:
        """Wait until every worker serves again, without a restart, and the load gets through."""
        for worker, _ in self.workers:
            self.await_(lambda w=worker: self._login(w) is not None, "a worker that recovers by itself")
        logouts = self.counts["logouts"]
        self.await_(lambda: self.counts["logouts"] >= logouts + 20, "logouts are confirmed again")

    # The load

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        try:
            while not self._stop.is_set():
                worker, lateness = chance.choice(self.workers)
                live = [login for login in self.logins[len(self.bystanders) :][-60:] if login.ended_at is None]
                ended = [login for login in self.logins[-60:] if login.ended_at is not None]
                what = chance.random()
                if what > 0.9:
                    self._use(worker, chance.choice(self.bystanders), write=False)
                elif what < 0.15 or len(live) < 4:
                    self._login(worker)
                elif what < 0.30:
                    self._logout(worker, chance.choice(live), everywhere=chance.random() < 0.2)
                elif what < 0.50 and ended:
                    self._replay(worker, chance.choice(ended), lateness, chance)
                else:
                    self._use(worker, chance.choice(live), write=what > 0.75)
                time.sleep(0.001)
        except BaseException as error:
            self._errors.append(error)
            raise

    def _call(self, worker: RollSession, handler: Callable[[Session], Any], header: str) -> Answer | None:
        """A request; None if the store could not be asked."""
        begun = time.monotonic()
        try:
            answer = call(worker, handler, header)
        except StoreUnavailable:
            answer = None
        except SessionConflict:
            self.counts["conflicts"] += 1
            return None
        finally:
            self.longest = max(self.longest, time.monotonic() - begun)
        self.counts["requests"] += 1
        if answer is None or answer.status.startswith("503"):
            self.counts["failed"] += 1
            return None
        return answer

    def _login(self, worker: RollSession) -> Login | None:
        user = f"user:{len(self.logins)}:{random.random()}"

        def handler(session: Session) -> None:
            session.regenerate(tags=[user])
            session["user"] = user

        answer = self._call(worker, handler, "")
        if answer is None:
            return None
        login = Login(user, {})
        login.receive(answer)
        if not login.jar:  # everything was revoked while it was under way
            return None
        self.logins.append(login)
        self.counts["logins"] += 1
        return login

    def _use(self, worker: RollSession, login: Login, *, write: bool) -> None:
        def handler(session: Session) -> Any:
            if write and "user" in session:
                session["n"] = session.get("n", 0) + 1
            return session.get("user")

        answer = self._call(worker, handler, login.header())
        if answer is not None and answer.result == login.user:
            login.receive(answer)

    def _logout(self, worker: RollSession, login: Login, *, everywhere: bool) -> None:
        if everywhere:
            try:
                worker.revoke(login.user)
            except StoreUnavailable:
                login.doubtful = True
                self.counts["unconfirmed"] += 1
                return
        else:
            answer = self._call(worker, _invalidate, login.header())
            if answer is None or answer.result != login.user:
                login.doubtful = True
                self.counts["unconfirmed"] += 1
                return
        login.ended_at = login.ended_at or time.monotonic()
        self.counts["logouts"] += 1

    def _replay(self, worker: RollSession, login: Login, lateness: float, chance: random.Random) -> None:
        header = chance.choice(login.copies)
        ended_at = login.ended_at
        assert ended_at is not None
        begun = time.monotonic()
        answer = self._call(worker, lambda session: session.get("user"), header)
        if answer is None:
            return
        self.counts["replays"] += 1
        if answer.result == login.user and begun < self.blind_until:
            self.counts["unnoticed"] += 1
            return
        if answer.result == login.user and begun > ended_at + self.late + lateness:
            self.violations.append(f"{login.user} accepted {begun - ended_at:.3f} s after its logout")
        if answer.result == login.user and begun > ended_at + self.late and any(answer.sent().values()):
            self.violations.append(f"{login.user} re-issued {begun - ended_at:.3f} s after its logout")

    # The end

    def _check_all(self) -> None:
        """Every copy of every ended session, shown to every worker and to a new one, which knows only the servers."""
        time.sleep(self.late + max(lateness for _, lateness in self.workers))
        newcomer = new_worker(self.url, **self._options)
        workers = [newcomer, *(worker for worker, _ in self.workers)]
        with contextlib.closing(newcomer):
            for login in [login for login in self.logins if login.ended_at is not None]:
                for header in login.copies:
                    for worker in workers:
                        user = _user(worker, header)
                        self.counts["replays"] += 1
                        if user == login.user:
                            who = "a new process" if worker is newcomer else "a worker"
                            self.violations.append(f"{login.user} accepted at the end by {who}")
            for login in self.bystanders:
                user = _user(newcomer, login.header())
                self.counts["kept" if user == login.user else "refused"] += 1

    def observed(self) -> str:
        """One line for the table in docs/faults.md."""
        c = self.counts
        unnoticed = f" (and {c['unnoticed']} {self.blind_because})" if self.blind_until else ""
        return (
            f"{c['logouts']} logouts confirmed, then {c['replays']} replays of their cookies: "
            f"{len(self.violations)} accepted{unnoticed}. {c['unconfirmed']} logouts not confirmed, {c['failed']} of "
            f"{c['requests']} requests failed, the longest took {self.longest:.1f} s. "
            f"Of {len(self.bystanders)} sessions that were only looked at, {c['refused']} were refused at the end."
        )


def _user(worker: RollSession, header: str) -> Any:
    """Whom *worker* takes the sender for, or None. That the store did not answer in time says neither: ask again."""

    def ask() -> list[Any]:
        try:
            answer = call(worker, lambda session: session.get("user"), header)
        except StoreUnavailable:
            return []
        return [] if answer.status.startswith("503") else [answer.result]

    (user,) = wait_until(ask, PATIENCE, "an answer at the end")
    return user


def _invalidate(session: Session) -> Any:
    user = session.get("user")
    session.invalidate()
    return user


def _address(url: str) -> RedisAddress:
    return parse(url)


def kept(load: Load) -> None:
    """Nobody was refused who is logged in, and nobody waited for longer than is promised."""
    assert load.counts["refused"] == 0, load.counts
    assert load.longest < BOUND, load.longest
