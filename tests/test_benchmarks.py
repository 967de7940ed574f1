"""The benchmark harness's own logic: it tells a session that holds from one that does not, and reckons right."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from http.cookies import SimpleCookie
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from benchmarks import capacity, cost, e2e, figures, race, scale, steps, targets
from benchmarks.browser import Browser, Flight, Response, WSGIServer, parse_set_cookie
from benchmarks.contenders import Contender, contenders
from benchmarks.tiny import BareVisit, Gates, Lab, act, plain_app

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a=1", ("a", "1", False)),
        ("a=1; Path=/; Max-Age=60", ("a", "1", False)),
        ("a=; Max-Age=0", ("a", "", True)),
        ("a=1; Max-Age=-1; Expires=Tue, 19 Jan 2038 03:14:07 GMT", ("a", "1", True)),
        ("a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", ("a", "1", False)),
        ("a=1; expires=Thu, 01-Jan-1970 00:00:00 GMT", ("a", "1", True)),
        ("a=1; Expires=Tue, 19 Jan 2038 03:14:07 GMT", ("a", "1", False)),
        ("__Host-a=b=c==; Secure", ("__Host-a", "b=c==", False)),
    ],
)
def test_set_cookie_is_read_as_browsers_read_it(header: str, expected: tuple[str, str, bool]) -> None:
    """Max-Age goes before Expires, and what is not in the future deletes."""
    assert parse_set_cookie(header, NOW) == expected


def test_the_browser_applies_cookies_in_order_of_arrival() -> None:
    """A later Set-Cookie wins over an earlier one, and a deletion removes the cookie."""
    browser = Browser(WSGIServer(plain_app(lambda environ: BareVisit(), Gates()), Gates()))
    browser.receive(Response(200, ("a=1", "b=2"), b""))
    browser.receive(Response(200, ("a=3", "b=; Max-Age=0"), b""))
    assert browser.jar == {"a": "3"}


def test_an_armed_gate_holds_exactly_one_request() -> None:
    """The first to come waits until it is released; everybody after it passes."""
    gates = Gates()
    gates.arm("handler")
    first = threading.Thread(target=gates.enter, args=("handler",))
    first.start()
    assert gates.entered("handler", 10)
    gates.enter("handler")  # does not wait
    assert first.is_alive()
    gates.release("handler")
    first.join(10)
    assert not first.is_alive()


def test_a_gate_that_nobody_reached_lets_everybody_pass_once_released() -> None:
    """A scenario whose request never writes leaves no trap behind."""
    gates = Gates()
    gates.arm("store")
    gates.release("store")
    gates.enter("store")


class NaiveVisit:
    """A session that is the cookie, sent again with every response: what the whole project is about."""

    def __init__(self, environ: dict[str, Any]) -> None:
        cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
        self.had, self.name = bool(cookies), next(iter(cookies), "s")
        self.session: dict[str, Any] = json.loads(bytes.fromhex(cookies[self.name].value)) if self.had else {}

    def renew(self, user: str) -> None:
        self.session.clear()

    def elevate(self) -> None:
        pass

    def end(self) -> None:
        self.session.clear()

    def leave(self) -> None:
        self.session.pop("user", None)

    def set_cookie(self) -> str:
        value = f"{json.dumps(self.session).encode().hex()}" if self.session else "; Max-Age=0"
        return f"{self.name}={value}"


class PilingVisit(NaiveVisit):
    """A cookie name of its own for each login."""

    def renew(self, user: str) -> None:
        self.name = f"s{token_hex(8)}"


class ForgetfulVisit(NaiveVisit):
    """A change of privileges that logs out."""

    def elevate(self) -> None:
        self.session.clear()


def naive(lab: Lab, kind: type[NaiveVisit] = NaiveVisit) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        visit = kind(environ)
        body = act(environ["PATH_INFO"], environ["QUERY_STRING"], visit, lab.gates)
        start_response("200 OK", [("Set-Cookie", visit.set_cookie())] if visit.session or visit.had else [])
        return [body]

    return application


def played(contender: Contender, monkeypatch: pytest.MonkeyPatch, runs: int = 2) -> dict[str, dict[str, int]]:
    monkeypatch.setattr(race, "AGE", 0)
    with contender.open(Lab(gated=True)) as server:
        return race.run(server, contender, runs)


def test_the_race_table_shows_what_a_re_sent_cookie_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row fails for a session that is its cookie, so the harness can fail."""
    table = played(Contender("naive", "naive", "", naive), monkeypatch)
    assert {name: list(outcomes) for name, outcomes in table.items()} == {
        "S1 resurrection, read": ["resurrected"],
        "S2 resurrection, write": ["resurrected"],
        "S3 replay": ["accepted"],
        "S4 lost login, read": ["old user"],
        "S4 lost login, write": ["old user"],
        "S5 stale overwrite, read": ["lost"],
        "S5 stale overwrite, write": ["lost"],
        "S6 store interleaving, read": ["-"],
        "S6 store interleaving, write": ["-"],
        "S7 late, read": ["old user"],
        "S7 late, write": ["old user"],
        "S8 queued, read": ["old user"],
        "S8 queued, write": ["old user"],
        "S9a elevation, held before it": ["resurrected"],
        "S9b elevation, held after it": ["resurrected"],
        "S9c elevation, answered": ["resurrected"],
        "S10 logins in parallel": ["answered"],
        "S11 documented logout, replay": ["accepted"],
    }
    assert all(sum(outcomes.values()) == 2 for outcomes in table.values())


def test_cookies_that_pile_up_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logins in parallel that each take a name of their own make a header that servers do not take."""
    table = played(Contender("piling", "piling", "", lambda lab: naive(lab, PilingVisit)), monkeypatch, 1)
    assert table["S10 logins in parallel"] == {"too large": 1}
    assert not race.holds("S10 logins in parallel", "too large")


def test_a_contender_that_loses_its_user_by_itself_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in after its race, but not because a logout held."""
    with pytest.raises(RuntimeError, match="elevate"):
        played(Contender("forgetful", "forgetful", "", lambda lab: naive(lab, ForgetfulVisit)), monkeypatch, 1)


@pytest.mark.parametrize(("gate", "role"), [("before", None), ("after", "admin")])
def test_an_elevation_is_held_on_either_side_of_its_change(gate: str, role: str | None) -> None:
    """The two variants of S9 differ in whether the session has changed when the logout comes."""
    gates, visit = Gates(), BareVisit()
    gates.arm("handler")
    request = threading.Thread(target=act, args=("/elevate", f"gate={gate}", visit, gates))
    request.start()
    assert gates.entered("handler", 10)
    assert visit.session.get("role") == role
    gates.release("handler")
    request.join(10)
    assert visit.session == {"role": "admin"}


def test_tabs_are_sent_before_any_answer_arrives() -> None:
    """All tabs present the same cookies, on the way through a redirect too."""
    presented: list[str] = []

    def counting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        presented.append(environ.get("HTTP_COOKIE", ""))
        start_response("200 OK", [("Set-Cookie", f"n={len(presented)}")])
        return [b""]

    class Redirecting(WSGIServer):
        def request(self, path: str, cookies: dict[str, str]) -> Response:
            return replace(super().request(path, cookies), status=302, location="/there" if path == "/here" else None)

    browser = Browser(Redirecting(counting, Gates()))
    browser.get_at_once("/here", 2)
    assert presented == ["", "", "n=2", "n=2"]
    assert browser.jar == {"n": "4"}
    assert browser.header_bytes == len("Cookie: n=4\r\n")


def test_the_race_table_holds_for_this_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row that the report counts holds."""
    table = played(contenders()["rollsession-memory"], monkeypatch)
    for scenario, outcomes in table.items():
        assert targets.must_hold_everywhere("rollsession-memory", scenario, outcomes), (scenario, outcomes)


@pytest.mark.parametrize("name", targets.OWN)
def test_the_race_table_holds_through_each_adapter(name: str) -> None:
    """In a process of its own, as the report has it, for Django has one set of settings."""
    command = [sys.executable, "-m", "benchmarks.race", name, "1"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for scenario, outcomes in json.loads(done.stdout)["table"].items():
        assert targets.must_hold_everywhere(name, scenario, outcomes), (scenario, outcomes)


def test_an_adapter_is_held_against_the_cookie_session_that_it_replaces() -> None:
    """Each over the bare application of its own process, round by round, at each kind of request."""
    times: dict[str, dict[str, list[float]]] = {
        "rollsession-flask": {work.case: [6.0, 9.0, 8.0] for work in figures.WORK.values()},
        "flask": {work.case: [7.0, 7.0, 7.0] for work in figures.WORK.values()},
    }
    for name, bare in (("rollsession-flask", [1.0, 5.0, 1.0]), ("flask", [1.0, 2.0, 3.0])):
        times[name] |= {work.bare: bare for work in figures.WORK.values()}
    found = targets.adapter_targets({"cost": {"times": times}})
    assert [each.what.partition(",")[0] for each in found] == ["untouched", "read", "read + roll", "write"]
    assert all(each.reached for each in found)  # by -1, -1 and 3
    times["rollsession-flask"][figures.WORK["read"].case][1] = 12.0  # -1, 2 and 3
    assert not targets.adapter_targets({"cost": {"times": times}})[1].reached


def test_a_failing_request_in_flight_is_an_error_of_the_run() -> None:
    """What the application raises reaches whoever waits for the response, and is no outcome."""

    def broken(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Flight(Browser(WSGIServer(broken, Gates())), "/read").land()


def test_every_contender_has_a_name_of_its_own() -> None:
    """The registry imports none of the peers' packages, and loses no contender to a name used twice."""
    assert len(contenders()) >= 30
    assert {"rollsession-sqlite", "pyramid-nacl", "beaker-cookie", "nextjs-store-update"} <= contenders().keys()


def test_wrk_reports_are_read_whatever_their_units() -> None:
    """Rates and latencies come out in requests per second and milliseconds."""
    text = (
        "  Latency Distribution\n     50%  612.00us\n     75%    1.10ms\n     90%    1.20ms\n     99%    1.50s\n"
        "  5000 requests in 2.00s, 1MB read\nRequests/sec:   2500.50\n"
    )
    assert e2e.parsed(text) == {"rate": 2500.5, "requests": 5000.0, "p50": pytest.approx(0.612), "p99": 1500.0}


def test_a_wrk_run_with_error_answers_is_void() -> None:
    """Errors are fast, and must not count as throughput."""
    with pytest.raises(RuntimeError):
        e2e.parsed("Requests/sec: 9999.0\n  Non-2xx or 3xx responses: 12\n")


@pytest.mark.parametrize(("values", "expected"), [([5, 5, 5], 0.0), ([1, 10, 100], 1.0), ([1, 100, 10_000], 2.0)])
def test_the_slope_is_the_exponent_of_growth(values: list[float], expected: float) -> None:
    """0 for what stays flat, 1 for what grows in proportion."""
    assert scale.slope([10, 100, 1000], values) == pytest.approx(expected)


def test_ratios_are_taken_within_a_round() -> None:
    """A round on a busy machine weighs no more than another one."""
    found = figures.ratio(figures.Spread((1.0, 10.0)), figures.Spread((2.0, 20.0)))
    assert found.values == (0.5, 0.5)
    assert found.text() == "0.50"
    assert figures.Spread((1.0, 3.0, 2.0)).text(".0f") == "2 (1 to 3)"


def test_who_does_not_write_is_held_against_opening_alone() -> None:
    """The halves of the floor are units of their own, in microseconds as in instructions."""
    for what, unit, expected in (("read", "opening", 3.0), ("write", "opening and sealing", 2.0)):
        work = figures.WORK[what]
        measured = {work.case: 10, work.bare: 4}
        floor = {"open": 2, "seal": 1, "both": 3}
        data = {
            "cost": {"times": {name: listed(each) for name, each in (("ours", measured), (cost.FLOOR, floor))}},
            "instructions": {"contenders": {"ours": measured, cost.FLOOR: floor}},
        }
        assert figures.units(data, "ours", work).values == (expected,)
        assert figures.instruction_units(data, "ours", work) == expected
        target = targets.unit_target(data, "ours", what, 2.5)
        assert target.what.endswith(f"in units of {unit}")
        assert target.reached is (expected <= 2.5)


def listed(values: dict[str, int]) -> dict[str, list[float]]:
    return {name: [float(value)] for name, value in values.items()}


def test_the_model_is_linear_and_names_what_breaks_first() -> None:
    """Ten times the requests are ten times the commands; the fullest resource is named."""
    assert sum(capacity.Visitors().mix().values()) == pytest.approx(1)
    costs = {"commands": 2.0, "bytes": 100.0, "cpu": 1e-5, "out": 0.0, "memory": 0.0}
    facts = {
        "operations": dict.fromkeys(capacity.OPERATIONS, costs),
        "session_memory": 400.0,
        "fence_memory": 0.0,
        "stores_sessions": True,
    }
    small, large = capacity.model(facts, 1_000), capacity.model(facts, 10_000)
    assert small["commands"] == pytest.approx(2_000)
    assert large["commands"] == pytest.approx(10 * small["commands"])
    assert large["memory"] == pytest.approx(10 * small["memory"])
    assert "core" in small["first"]
    assert small["strain"] == pytest.approx(0.01)


def test_the_steps_of_a_request_can_be_timed() -> None:
    """Every step that the benchmark times by itself exists in the package, and runs."""
    for step in steps.functions().values():
        step()
