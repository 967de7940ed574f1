"""What an application does to its session, and what that means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsgi_rollsession.session import exchange_of

from .acts import Acts
from .model import EVERYTHING, VAGUE, Regeneration, Visit
from .referee import Referee
from .request import Request


class Operations:
    """What applications do to their session, by name: ``do_write``, ``do_login``, ...

    Args:
        perform: has the application do something; what it raised, of what it may raise.
    """

    def __init__(self, referee: Referee, acts: Acts, perform: Callable[..., Exception | None]) -> None:
        self.referee, self.acts, self.perform, self.check = referee, acts, perform, referee.check
        self.world, self.model, self.counts = referee.world, referee.model, referee.counts

    def same_data(self, request: Request) -> None:
        visit = request.visit
        assert visit is not None
        self.check(dict(request.session) == visit.data, "3: the session holds other data than the application stored")

    def do_write(self, request: Request, visit: Visit, key: str, pause: Any) -> None:
        value = self.acts.token(request, visit)
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
            self.acts.after_error(request, error)
            return False
        event, unasked = request.calls[-1].event, not all(each.answered for each in request.calls)
        base = visit.base if not visit.cleared and visit.standing != "lost" else None
        user = visit.identities[1]
        known = (*(base.copy.tags if base is not None else ()), *(tags or ()), *([f"user:{user}"] if user else ()))
        asked = dict.fromkeys((EVERYTHING, *known), self.model.event if unasked else event)
        if base is not None:
            verdict = self.referee.judge(request, base, at, event)
            is_login = base.copy.life.is_login
            if self.referee.was_overslept(request, base, at):
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
            self.acts.after_error(request, error)
            return
        event = next((each.event for each in reversed(request.calls) if each.raised), self.model.event)
        self.model.end(self.referee.lives(request), event)
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
            self.acts.after_error(request, error)
            self.acts.ambiguous(request, tag)
            request.blurred = request.blurred or any(each.raised for each in request.calls)
            return
        self.settled(request, "others", start, now, tag)

    def do_save(self, request: Request, visit: Visit, argument: Any, pause: Any) -> None:
        start, now, act = self.model.event, self.world.clock.wall, visit.act()
        error = self.perform(request, lambda session: session.save(), pause)
        if error is not None:
            self.acts.after_error(request, error, act)
            self.acts.ambiguous(request)
            return
        self.check(act not in ("drop", "conflict"), "8: save() did not say that the session is lost")
        self.settled(request, act, start, now)
        self.counts["met: save()"] += 1

    def settled(self, request: Request, act: str, start: int, now: int, tag: str | None = None) -> None:
        """Something was done at once."""
        sent = [tuple(each) for each in exchange_of(request.session).settled]
        self.acts.apply(request, act, start, now, sent, tag=tag, saved=True)
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
            self.acts.after_error(request, error)
            return
        base = visit.base
        if base is None or visit.cleared or visit.standing == "lost":
            self.check(found == [False], "1: check() says that a session is alive that is not there")
            return
        verdict = self.referee.judge(request, base, now, request.calls[-1].event if request.calls else self.model.event)
        self.counts["met: check()"] += 1
        if found == [True]:
            self.check(not isinstance(verdict, str), str(verdict))
        else:
            if verdict is None and self.referee.judge(request, base, self.world.clock.wall, self.model.event) is None:
                self.referee.lost(base)
            visit.standing = "lost"
