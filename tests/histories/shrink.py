"""Making a history that fails smaller: leaving out what it also fails without."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from wsgi_rollsession.revocation import clock

from .machine import History, Machine, Step
from .request import Logs
from .world import Sleep


@contextmanager
def listening() -> Iterator[Logs]:
    """What the package logs is counted, and goes nowhere else; who waits lets time pass in the world."""
    logs, logger = Logs(), logging.getLogger("wsgi_rollsession")
    before = logger.level, logger.propagate
    logger.addHandler(logs)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with patch.object(clock, "time", Sleep()):
            yield logs
    finally:
        logger.removeHandler(logs)
        logger.level, logger.propagate = before


def failure(history: History, logs: Logs, counts: Counter[str] | None = None) -> str | None:
    """How a history fails, or None."""
    try:
        Machine(history, Counter() if counts is None else counts, logs).carry_out()
    except AssertionError as error:
        return str(error)
    return None


def kind_of(message: str) -> str:
    """A message without what differs from history to history."""
    return message[:3] + re.sub(r"\d+( of \w+)?|[{].*[}]|back by.*", "", message[3:])


def shrunk(history: History, message: str, logs: Logs, tries: int = 3000) -> tuple[History, str]:
    """A smaller history that breaks the same invariant, and how."""
    kind = kind_of(message)
    left = tries

    def fails(steps: Sequence[Step]) -> str | None:
        nonlocal left
        left -= 1
        found = failure(history._replace(steps=list(steps)), logs)
        return found if found is not None and kind_of(found) == kind else None

    steps = list(history.steps)
    size = max(len(steps) // 2, 1)
    while left > 0:
        start, smaller = 0, False
        while start < len(steps) and left > 0:
            found = fails(steps[:start] + steps[start + size :])
            if found is not None:
                del steps[start : start + size]
                message, smaller = found, True
            else:
                start += size
        for index, step in enumerate(steps):  # what happens during a pause, and the pause itself
            for simpler in _simpler(step):
                found = fails([*steps[:index], simpler, *steps[index + 1 :]])
                if found is not None:
                    steps[index], message, smaller = simpler, found, True
                    break
        if size > 1:
            size //= 2
        elif not smaller:
            break
    return history._replace(steps=steps), message


def _simpler(step: Step) -> Iterator[Step]:
    pause = step[-1]
    if isinstance(pause, tuple) and len(pause) == 3 and isinstance(pause[2], tuple):
        yield (*step[:-1], None)
        for index in range(len(pause[2])):
            yield (*step[:-1], (pause[0], pause[1], (*pause[2][:index], *pause[2][index + 1 :])))
    if step[0] == "send" and step[-1]:
        yield (*step[:-1], 0)
    if step[0] == "answer" and step[2] != "ok":
        yield ("answer", step[1], "ok", step[3])


def told(history: History, indent: str = "    ") -> str:
    """A history in lines."""
    lines = []
    same = history.setups[0] == history.setups[1]
    for where, setup in enumerate(history.setups[: 1 if same else 2]):
        lines.append(f"{'both processes' if same else f'process {where}'}: {setup}")
    for step in history.steps:
        pause = step[-1]
        if isinstance(pause, tuple) and len(pause) == 3 and isinstance(pause[2], tuple):
            lines.append(" ".join(map(str, step[:-1])) + f"; {pause[1]} call {pause[0]} of the store:")
            lines += ["    " + " ".join(map(str, each)) for each in pause[2]]
        else:
            lines.append(" ".join(map(str, step)))
    return "\n".join(indent + line for line in lines)
