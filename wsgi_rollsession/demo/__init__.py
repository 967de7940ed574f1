"""``rollsession demo``: the logout race, lost by a plain re-sent cookie and not by this project, in one application."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
from collections.abc import Callable

from . import server
from .story import KINDS, Change, Phase, Round, Step, play

ROUNDS = {
    "application": "/update is slow in the application: it is answered after the logout",
    "network": "/update is slow on the network: it is answered before the logout, and arrives after it",
}
_WIDTHS = (28, 28, 28)
_ESCAPE = re.compile("\x1b\\[[0-9;]*m")


def run(*, once: bool, port: int | None, insecure_http: bool = False) -> int:
    """Play the race, print how it came out, then serve the page until Ctrl-C. Returns the exit code.

    Args:
        once: do not serve the page. Implied where standard output or input is no terminal.
        port: to listen on; None for the first free one from 8000.
        insecure_http: without Secure and ``__Host-``, for a browser that wants https even on localhost.

    Raises:
        server.DemoError: it cannot run here.
    """
    once = once or not (sys.stdin.isatty() and sys.stdout.isatty())
    signal.signal(signal.SIGTERM, _interrupt)
    with server.running(port, insecure_http) as actual:
        print(f"gunicorn serves on http://localhost:{actual} with 2 worker processes; revocations are in SQLite.")
        try:
            good, verdict = judge([_show(number, slow, actual) for number, slow in enumerate(ROUNDS, 1)])
        except (OSError, http.client.HTTPException) as error:
            once, good, verdict = True, False, _red(f"verdict: FAILED: {error}")
        if not once:
            try:
                address = _bold(f"http://localhost:{actual}/")
                print(f"\n{verdict}\n\nClick through it yourself:  {address}  (Ctrl-C stops)", flush=True)
                signal.pause()
            except KeyboardInterrupt:
                print()
    if once:
        print(f"\n{verdict}", flush=True)
    return 0 if good else 1


def judge(rounds: list[Round]) -> tuple[bool, str]:
    """Whether the rounds show what the demo claims, and the verdict in one line. Both halves are observations."""
    count = len(rounds)
    if not all(each.took_place for each in rounds):
        return False, _red("verdict: FAILED: the race did not take place: a login or a logout did not work by itself")
    held, came_back = sum(each.held for each in rounds), sum(each.plain_came_back for each in rounds)
    good = held == came_back == count
    text = (
        f"wsgi_rollsession stayed logged out in {held} of {count} races;"
        f" the plain re-sent cookie logged alice in again in {came_back} of {count}"
    )
    return good, _green(f"verdict: held: {text}") if good else _red(f"verdict: FAILED: {text}")


def _show(number: int, slow: str, port: int) -> Round:
    """Play one race, and print its steps as they happen."""
    print(f"\n{_bold(f'Race {number} of {len(ROUNDS)}')}: {ROUNDS[slow]}\n")
    _line(_bold, "", "wsgi_rollsession", "plain cookie, re-sent")
    workers: dict[int, str] = {}
    logged_out = False
    for count, event in enumerate(play(port, slow), 1):
        if isinstance(event, Round):
            return event
        logged_out = logged_out or event.title == "POST /logout"
        worker = workers.setdefault(event.worker, f"worker {'ABCDEFGH'[len(workers) % 8]}")
        _line(_plain, f"{count}  {event.title}", *(_user(event, kind, logged_out) for kind in KINDS))
        effects = [_effects(event.changes, kind) if event.users else "" for kind in KINDS]
        _line(_dim, f"   {worker}", *effects)
    raise AssertionError("a story ends with its outcome")


def _user(step: Step, kind: str, logged_out: bool) -> str:
    """Who the application says this is."""
    if step.phase is Phase.IN_FLIGHT:
        return "in flight ..."
    user = step.users[kind]
    if step.phase is Phase.LATE:  # what the application thought when it was asked; what counts is the next answer
        return f"(was {user or 'nobody'})"
    if logged_out and user is not None:
        return _red(f"{user}   <- logged in again")
    return _green(user or "nobody")


def _effects(changes: tuple[Change, ...], kind: str) -> str:
    """What an answer does to the cookies of one kind, in a few words."""
    words: dict[str, list[str]] = {"sets": [], "deletes": []}
    for change in changes:
        if change.kind == kind and not change.name.endswith("-slot"):  # which says what name the next login gets
            what = "lease" if change.name.endswith("-lease") else "session cookie"
            words["deletes" if change.deletes else "sets"].append(what)
    return ", ".join(f"{verb} the {' and '.join(what)}" for verb, what in words.items() if what) or "sets nothing"


def _line(style: Callable[[str], str], *cells: str) -> None:
    padded = (cell + " " * (width - len(_ESCAPE.sub("", cell))) for cell, width in zip(cells, _WIDTHS))
    print("  " + style("  ".join(padded).rstrip()))


def _interrupt(*unused: object) -> None:
    raise KeyboardInterrupt


def _styled(code: str) -> Callable[[str], str]:
    def style(text: str) -> str:
        coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        return f"\x1b[{code}m{text}\x1b[0m" if coloured else text

    return style


def _plain(text: str) -> str:
    return text


_bold, _dim, _red, _green = _styled("1"), _styled("2"), _styled("31"), _styled("32")
