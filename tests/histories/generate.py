"""Making up histories. Everything that is random is here: a history is carried out the same way every time."""

from __future__ import annotations

from random import Random
from typing import Any

from .machine import USERS, History, Step
from .model import EVERYTHING, Setup

IDLE = (100, 600)
ABSOLUTE = (900, 3600)
#: In ms. Some are close to what the timeouts, the fences' lifetimes and the margins for clocks are.
TIMES = (125, 1000, 3000, 5000, 20_000, 31_000, 65_000, 90_000, 110_000, 180_000, 400_000, 610_000, 700_000)
TIME_WEIGHTS = (6, 6, 6, 6, 6, 6, 4, 4, 3, 3, 2, 1, 1)


FOCUS = ("several", "several", "lag", "slow", "slow", "cut", "again", "epochs", "others")


class Generator:
    """Makes up one history."""

    def __init__(self, seed: object) -> None:
        self.random = random = Random(str(seed))
        self.number = 0
        self.open: list[tuple[int, str]] = []  # requests in flight, and whether they were begun or answered
        shared = Setup(
            versioned=random.random() < 0.3,
            outage=random.choice(("degrade", "degrade", "degrade", "closed", "open")),
            identity=random.random() < 0.7,
        )
        setups = [self._timeouts(shared) for _ in range(2)]
        if random.random() < 0.5:
            setups[1] = setups[0]
        self.setups = setups[0], setups[1]
        self.who = 0.8 if random.random() < 0.5 else 0.5  # one browser has more to do than the other
        self.only: int | None = None  # the one browser that sends, in a scene
        self.quiet = random.random() < 0.4  # nothing happens to clocks, wires and processes
        # Of rare situations, one is sought in a third of the histories.
        self.focus = random.choice(FOCUS) if random.random() < 0.35 else ""
        self.pauses = 4 if self.focus in ("slow", "cut") else 1
        self.again = 0.15 if self.focus == "again" else 0.04

    def _timeouts(self, setup: Setup) -> Setup:
        random = self.random
        return setup._replace(
            idle_s=random.choice(IDLE),
            absolute_s=random.choice(ABSOLUTE),
            renew_after_s=random.choice((0, 0, 30)),
            rolling=random.random() < 0.92,
        )

    def history(self) -> History:
        random, steps = self.random, []
        steps += self.trip("login" if random.random() < 0.7 else None)
        scene = {"several": self.several, "epochs": self.epochs, "again": self.passes}.get(self.focus)
        if scene is not None:
            self.only = 0
            steps += scene()
            self.only = None
        if self.focus == "lag":
            steps += [("lag", 0), ("lag", 1)]
        if self.focus == "others":
            steps += self.others()
        for _ in range(random.randint(3, 9)):
            steps += self.move()
        for number, state in self.open:
            if state == "begun":
                steps.append(self.answer(number, 0.1))
            steps.append(("arrive", number))
        return History(self.setups, steps)

    def move(self) -> list[Step]:
        random = self.random
        dice = random.random()
        if dice < 0.30:
            return self.trip()
        if dice < 0.50:
            return self.race()
        if dice < 0.60:
            return self.start()
        if dice < 0.72 and self.open:
            return self.go_on()
        if dice < 0.84:
            return [self.tick()] if random.random() < 0.7 else [self.tick(), ("purge",)]
        if dice < 0.87:
            return self.thief()
        if dice < 0.90:
            return [self.revoke()]
        return self.operator()

    def several(self) -> list[Step]:
        """A login is answered so late that its user has logged out and in again: the browser holds two."""
        number, send = self.send(touch=False)
        late: list[Step] = [*self.operation(number, "login"), ("answer", number, "ok", None)]
        between = [*self.trip("out"), *self.trip("login")]
        steps = [send, *late, *between] if self.random.random() < 0.5 else [send, *between, *late]
        steps.append(("arrive", number))
        random = self.random
        if random.random() < 0.6:
            number, send = self.send(touch=True)
            pause: Any = None
            if random.random() < 0.5:
                kind, meanwhile = "write", [("revoke_session", random.randrange(2), random.randrange(3))]
            else:
                kind, meanwhile = "renew", []
                pause = random.choice((0, 1)), "before", (("cut", 0), ("cut", 1))
            steps += [send, *meanwhile, *self.operation(number, kind), ("answer", number, "ok", pause)]
            steps += [("arrive", number), ("mend", 0), ("mend", 1), *self.trip("read")]
        return steps

    def epochs(self) -> list[Step]:
        """A login goes on in epoch after epoch, while the clock is set."""
        random = self.random
        steps = [*self.trip("login"), self.tick(), *self.trip("read")]
        steps.append(("step", random.choice((-59_000, -30_000))))
        for _ in range(random.randint(1, 2)):
            steps += self.trip("renew")
        return [*steps, ("tick", random.choice((90_000, 110_000, 610_000))), ("look",)]

    def passes(self) -> list[Step]:
        """Requests whose passes log out and in, while a response is on its way."""
        late, send = self.send(touch=True)
        steps = [*self.trip("login"), send, *self.operation(late, "write"), ("answer", late, "ok", None)]
        for _ in range(self.random.randint(1, 3)):
            number, send = self.send()
            steps += [send, *self.operation(number, "out"), ("answer", number, "ok", None), ("again", number, True)]
            steps += [*self.operation(number, "login"), ("answer", number, "ok", None), ("arrive", number)]
        return [*steps, ("arrive", late)]

    def others(self) -> list[Step]:
        """Somebody logs in while others of the same user are being logged out, slowly."""
        random = self.random
        number, send = self.send(touch=True)
        meanwhile = (("tick", random.choice((1000, 3000, 20_000))), *self.trip("login", deep=False))
        pause = random.randrange(2), random.choice(("before", "after")), meanwhile
        return [
            *self.trip("login"),
            send,
            ("op", number, "others", None, pause),
            ("answer", number, "ok", None),
            ("look",),
        ]

    def tick(self) -> Step:
        return "tick", self.random.choices(TIMES, TIME_WEIGHTS)[0]

    def revoke(self) -> Step:
        random = self.random
        where = random.randrange(2)
        if random.random() < 0.25:
            return "revoke_session", where, random.randrange(100)
        return "revoke", where, random.choice(("user:alice", "user:alice", "user:bob", "tenant", "role", EVERYTHING))

    def operator(self) -> list[Step]:
        random = self.random
        where, dice = random.randrange(2), random.random()
        if self.quiet:
            return [self.tick()]
        if dice < 0.2:
            return [("step", random.choice((-59_000, -30_000, -5_000, 30_000, 300_000)))]
        if dice < 0.45:
            return [("cut", where)]
        if dice < 0.65:
            return [("mend", where)]
        if dice < 0.78:
            return [("lag", where)]
        if dice < 0.90:
            setup = self._timeouts(Setup())
            return [("restart", where, setup.idle_s, setup.absolute_s, setup.renew_after_s, setup.rolling)]
        if dice < 0.96:
            return [("rotate",)]
        return [("lose",)]

    # Requests

    def send(self, begin: bool = True, touch: bool | None = None) -> tuple[int, Step]:
        random = self.random
        self.number += 1
        who = self.only if self.only is not None else 0 if random.random() < self.who else 1
        junk = random.randrange(1, 128) if random.random() < 0.03 else 0
        touch = random.random() < 0.6 if touch is None else touch
        return self.number, ("send", self.number, who, random.randrange(2), begin, touch, junk)

    def operation(self, number: int, kind: str | None = None, deep: bool = True) -> list[Step]:
        """What the application does."""
        random = self.random
        pause = self.pause(0.08) if deep else None
        if kind is None:
            kind = random.choices(
                (
                    "read",
                    "write",
                    "login",
                    "renew",
                    "out",
                    "others",
                    "save",
                    "revert",
                    "check",
                    "forget",
                    "big",
                    "last",
                ),
                (10, 16, 16, 10, 20, 3, 5, 2, 2, 1, 2, 4),
            )[0]
        if kind == "write":
            return [("op", number, "write", random.choice("abc"))]
        if kind == "login":
            user = "alice" if random.random() < 0.7 else "bob"
            if random.random() < 0.5:
                return [("op", number, "assign", user, pause)]
            return [("op", number, "login", (user, *self.shorter()), pause)]
        if kind == "renew":
            return [("op", number, "renew", (random.random() < 0.3, *self.shorter()), pause)]
        if kind == "out":
            how = random.randrange(6)
            if how < 2:
                return [("op", number, "logout", None, pause)]
            if how < 4:
                return [("op", number, "clear", how == 3)]
            return [("op", number, "pop", random.choice(("pop", "default", "none")))]
        return [("op", number, kind, None, pause)]

    def shorter(self) -> tuple[int | None, int | None, bool | None]:
        random = self.random
        if random.random() < 0.8:
            return None, None, None
        return random.choice((None, 60)), random.choice((None, 300)), random.choice((None, False))

    def operations(self, number: int, deep: bool = True) -> list[Step]:
        random = self.random
        steps: list[Step] = []
        while random.random() < 0.62 and len(steps) < 4:
            steps += self.operation(number, None, deep)
        return steps

    def answer(self, number: int, pause: float) -> Step:
        random = self.random
        kind = "ok" if random.random() < 0.88 else random.choice(("storable", "noroll", "nopage"))
        return "answer", number, kind, self.pause(pause)

    def pause(self, chance: float) -> Any:
        """The process is suspended at a call of the store, and others run."""
        random = self.random
        if random.random() >= chance * self.pauses:
            return None
        steps: list[Step] = []
        for _ in range(random.randint(1, 3)):
            dice = random.random()
            if self.focus == "slow" and dice < 0.5:
                steps += [("tick", random.choice(TIMES[6:])), ("purge",)]
            elif self.focus == "cut" and dice < 0.4:
                steps += [("cut", 0), ("cut", 1)]
            elif dice < 0.45:
                steps += self.trip(None, deep=False)
            elif dice < 0.7:
                steps += [self.tick(), ("purge",)]
            elif dice < 0.82:
                steps.append(self.revoke())
            elif dice < 0.92:
                steps.append(("cut", random.randrange(2)))
            else:
                steps.append(("arrive", random.randint(1, self.number)))
        return random.choice((0, 0, 1, 2)), random.choice(("before", "after")), tuple(steps)

    def trip(self, kind: str | None = None, deep: bool = True) -> list[Step]:
        """A request, and the arrival of its answer."""
        random = self.random
        number, send = self.send()
        steps = [send]
        steps += self.operation(number, kind, deep) if kind or random.random() < 0.3 else self.operations(number, deep)
        if random.random() < 0.04:
            steps.append(("fail", number))
            if random.random() < 0.5:
                return steps
        if random.random() < self.again:
            steps += [("again", number, True), *self.operations(number, deep)]
        steps.append(self.answer(number, 0.06 if deep else 0))
        if random.random() < self.again * 0.75:
            steps += [("again", number, True), *self.operations(number, deep), self.answer(number, 0)]
        if random.random() < 0.03:
            steps.append(("op", number, random.choice(("logout", "check"))))
        steps.append(("lost" if random.random() < 0.06 else "arrive", number))
        return steps

    def race(self) -> list[Step]:
        """What happens before a request's answer, and before its arrival."""
        random = self.random
        number, send = self.send(begin=random.random() < 0.8)
        steps = [send]
        for _ in range(random.randint(0, 2)):
            steps += self.between()
        steps += [("begin", number, random.random() < 0.5), *self.operations(number)]
        for _ in range(random.randint(0, 1)):
            steps += self.between()
        steps.append(self.answer(number, 0.15))
        for _ in range(random.randint(0, 3)):
            steps += self.between()
        steps.append(("lost" if random.random() < 0.06 else "arrive", number))
        return steps

    def between(self) -> list[Step]:
        dice = self.random.random()
        if dice < 0.15:
            return self.trip("renew")
        if dice < 0.75:
            return self.trip()
        if dice < 0.9:
            return [self.tick()]
        return [self.revoke()]

    def start(self) -> list[Step]:
        """A request, whose answer nobody knows when."""
        number, send = self.send(begin=self.random.random() < 0.7)
        self.open.append((number, "begun"))
        return [send]

    def go_on(self) -> list[Step]:
        random = self.random
        index = random.randrange(len(self.open))
        number, state = self.open[index]
        if state == "answered":
            del self.open[index]
            return [("lost" if random.random() < 0.1 else "arrive", number)]
        steps: list[Step] = [("begin", number, random.random() < 0.5), *self.operations(number)]
        if random.random() < 0.6:
            steps.append(self.answer(number, 0.1))
            self.open[index] = number, "answered"
        return steps

    def thief(self) -> list[Step]:
        random = self.random
        if random.random() < 0.3:
            return [("look",)]
        self.number += 1
        number = self.number
        picks = tuple(random.randrange(1000) for _ in range(random.randint(1, 4)))
        steps: list[Step] = [("thief", number, random.randrange(2), random.random() < 0.6, picks)]
        steps += [*self.operations(number), self.answer(number, 0.05), ("arrive", number)]
        return steps


__all__ = ["USERS", "Generator"]
