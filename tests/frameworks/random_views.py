"""Random views: what a view sees at its end is what the next request finds, and a logout ends every copy from before.

Adapters hold data of their own (Flask's have other types than JSON has), and follow the framework's logins and logouts:
here they do so in any order, with ``save()``, ``revert()`` and an error in between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from ..browser import Browser

#: What ends the copies of a login, even if the same user is logged in afterwards.
ENDS = frozenset({"clear", "invalidate", "regenerate"})
VALUES: tuple[Callable[[], Any], ...] = (lambda: 1, lambda: "", lambda: None, lambda: [1], lambda: {"x": [2]})
KEYS = ("a", "b")


class Failure(Exception):
    """Raised by a view."""


@dataclass(frozen=True)
class Framework:
    """How an application does it.

    Args:
        identity: the key that says who is logged in.
        login: and ``logout``: receive what views do. So do ``acts``, by name.
        session: the mapping, from what views receive.
        at_once: the acts that an error does not take back.
    """

    identity: str
    login: Callable[[Any, str], Any]
    logout: Callable[[Any], Any]
    acts: Mapping[str, Callable[[Any], Any]]
    session: Callable[[Any], Any] = lambda given: given
    values: tuple[Callable[[], Any], ...] = VALUES
    at_once: frozenset[str] = frozenset({"save", "invalidate"})


class View:
    """One that does a few things at random."""

    def __init__(self, random: Random, framework: Framework) -> None:
        self._random = random
        self._framework = framework
        #: What it has done, and the data that it saw at its end.
        self.log: list[str] = []
        self.end: dict[str, Any] = {}
        self.fails = random.random() < 0.1

    def __call__(self, given: Any) -> None:
        for _ in range(self._random.randrange(6)):
            self._act(given)
        self.end = self.look(given)
        if self.fails:
            raise Failure

    def look(self, given: Any) -> dict[str, Any]:
        """The data, apart from the session."""
        data = dict(self._framework.session(given).items())
        data.pop("_rollsession", None)  # what is in a session that Django has saved without data
        return copy.deepcopy(data)

    def _act(self, given: Any) -> None:
        framework, choose = self._framework, self._random.choice
        session, key = framework.session(given), choose(KEYS)
        act = choose(("set", "set", "set", "nested", "nested", "pop", "login", "login", "logout", *framework.acts))
        self.log.append(act)
        if act == "set":
            session[key] = choose(framework.values)()
        elif act == "nested":
            value = session.get(key)
            if isinstance(value, list):
                value.append(3)
            elif isinstance(value, dict):
                value.pop("x", None) if choose((True, False)) else value.setdefault("x", []).append(4)
        elif act == "pop":
            session.pop(key, None)
        elif act == "login":
            framework.login(given, choose(("alice", "bob")))
        elif act == "logout":
            framework.logout(given)
        else:
            framework.acts[act](given)


def play(seed: int, browser: Browser, framework: Framework) -> None:
    """Some requests of one browser, each followed by a look at what it has done."""
    random = Random(seed)
    thieves: list[Browser] = []
    told: list[Any] = [seed]
    look = View(random, framework).look
    for _ in range(random.randrange(1, 6)):
        before, copied = browser.do(look), browser.copied()
        view = View(random, framework)
        try:
            browser.do(view)
        except Failure:
            pass
        after, done = browser.do(look), set(view.log)
        told += [view.log, "failed" if view.fails else "", before, view.end, after]
        user, end = before.get(framework.identity), view.end.get(framework.identity)
        if view.fails:
            assert after == before or done & framework.at_once, told
            continue
        if end is not None and (user not in (None, end) or "save" in done):  # nothing is left of somebody else's data
            assert after[framework.identity] == end, told
            assert all(key in view.end and view.end[key] == value for key, value in after.items()), told
        else:
            assert after == view.end, told
        if user is not None and (user != end or (done & ENDS and "revert" not in done)):
            thieves.append(copied)
        for thief in thieves:
            assert framework.identity not in thief.copied().do(look), told
