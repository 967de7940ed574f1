"""The demo, as a user starts it: real gunicorn, two worker processes, SQLite, HTTP."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from urllib.request import urlopen

import pytest
from webob import Request

from wsgi_rollsession import generate_key
from wsgi_rollsession.demo import judge, server
from wsgi_rollsession.demo.app import create
from wsgi_rollsession.demo.story import Round

COMMAND = [sys.executable, "-m", "wsgi_rollsession", "demo"]
BOTH, NOBODY = {"rollsession": "alice", "plain": "alice"}, {"rollsession": None, "plain": None}
RESURRECTED = {"rollsession": None, "plain": "alice"}


def test_once_plays_both_races_and_ends_with_the_verdict():
    """``demo --once`` shows a timeline without escape codes, ends with the verdict, and exits with 0."""
    done = subprocess.run([*COMMAND, "--once"], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("verdict: held: wsgi_rollsession stayed logged out in 2 of 2 races")
    assert sum("GET /whoami" in line and "alice   <- logged in again" in line for line in lines) == 2
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_the_logout_and_the_late_update_are_in_different_processes():
    """The race is between two worker processes, so what one of them knows must reach the other."""
    done = subprocess.run([*COMMAND, "--once"], capture_output=True, text=True, timeout=90)
    lines = [line.strip() for line in done.stdout.splitlines()]
    workers = {}
    for line, following in pairwise(lines):
        for title in ("POST /logout", "POST /update arrives late"):
            if title in line:
                workers.setdefault(title, []).append(" ".join(following.split()[:2]))
    first, second = workers.values()
    assert len(first) == len(second) == 2
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_without_a_terminal_the_demo_does_not_wait():
    """Where there is no terminal, ``demo`` plays once and exits, for nobody is there to stop it."""
    done = subprocess.run(COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("verdict: held")


def test_the_verdict_is_an_observation(tmp_path):
    """With a filter whose fences refuse nothing, the same demo says that it failed, and exits with 1."""
    (tmp_path / "sitecustomize.py").write_text(
        "from wsgi_rollsession import policy\npolicy.refused = lambda *unused: None\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*COMMAND, "--once"], capture_output=True, text=True, timeout=90, env=environment)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("verdict: FAILED: wsgi_rollsession stayed logged out in 0 of 2")


@pytest.mark.parametrize(
    ("end", "logout", "good"),
    [
        (RESURRECTED, NOBODY, True),
        (BOTH, NOBODY, False),
        (NOBODY, NOBODY, False),
        (RESURRECTED, BOTH, False),
    ],
)
def test_the_verdict_needs_both_halves_and_a_race_that_took_place(end, logout, good):
    """It holds only if this project stayed out, the plain cookie came back, and the logout itself had worked."""
    outcome = Round(BOTH, logout, end, frozenset((1, 2)))
    assert judge([outcome, outcome])[0] is good
    assert judge([Round(BOTH, NOBODY, RESURRECTED, frozenset()), outcome])[0] is good


def test_in_a_terminal_it_serves_the_page_until_it_is_interrupted():
    """With a terminal, the page is served after the verdict; Ctrl-C stops everything, and the exit code is 0."""
    ours, theirs = pty.openpty()
    # A shell starts what runs in the background with Ctrl-C ignored, and a child inherits that.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        environment = os.environ | {"TERM": "xterm"}
        process = subprocess.Popen(COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    finally:
        signal.signal(signal.SIGINT, ignored)
    os.close(theirs)
    shown = b""
    try:
        while b"Ctrl-C" not in shown:
            shown += os.read(ours, 65536)
        assert b"\x1b[32m" in shown
        address = re.search(r"yourself:.*?(http://localhost:\d+)", shown.decode())[1]
        with urlopen(address, timeout=30) as page:
            assert "The logout race" in page.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        with pytest.raises(OSError, match="refused"):
            urlopen(address, timeout=5)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_busy_port_is_named():
    """An explicit port that is taken is an error that names it."""
    with server.listen(None) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([*COMMAND, "--once", "--port", str(port)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "free port" in done.stderr


@pytest.mark.parametrize("port", ["0x", "-1", "70000"])
def test_an_impossible_port_is_an_error(port):
    """A port that cannot exist is refused with a message, not a traceback."""
    done = subprocess.run([*COMMAND, "--once", f"--port={port}"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_explicit_port_a_busy_one_is_passed_over():
    """Two demos at once use two ports."""
    with server.listen(None) as first, server.listen(None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]


def test_it_stops_when_it_is_terminated():
    """SIGTERM stops gunicorn too, so no server is left behind."""
    process = subprocess.Popen([*COMMAND, "--once"], stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"localhost:(\d+)", process.stdout.readline())
        process.terminate()
        process.communicate(timeout=30)
        deadline = time.monotonic() + 20
        while True:
            try:
                urlopen(f"http://127.0.0.1:{address[1]}/cookies", timeout=5).close()
            except OSError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def application(tmp_path):
    """The demo's application, in this process."""
    made = create(str(tmp_path), generate_key(), "secret" * 12)
    yield made
    made.close()


def test_every_answer_reports_what_it_received_and_sets(application):
    """A page cannot read HttpOnly cookies, so an answer lists those it was sent and those that it sets."""
    login = Request.blank("/login", method="POST").get_response(application).json_body
    assert login["rollsession"] == login["plain"] == "alice"
    assert login["received"] == {}
    names = sorted(header.partition("=")[0] for header in login["set"])
    assert names == ["__Host-plain", "__Host-session-1", "__Host-session-slot"]
    assert all("HttpOnly" in header and "secure" in header.lower() for header in login["set"])
    cookies = [header.partition(";")[0] for header in login["set"]]
    seen = Request.blank("/cookies", headers={"Cookie": "; ".join(cookies)}).get_response(application).json_body
    assert seen["received"] == dict(each.split("=", 1) for each in sorted(cookies))
    assert seen["set"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nowhere", 404), ("/gate?gate=../x", 400), ("/gate", 400), ("/update?slow=application&gate=..", 400)],
)
def test_wrong_requests_are_refused(application, path, status):
    """An unknown path is 404, and a gate's name cannot lead out of the folder."""
    assert Request.blank(path).get_response(application).status_code == status


def test_an_application_that_fails_is_a_verdict_too(tmp_path):
    """Where the story cannot be played to its end, the last line says so, and the exit code is 1."""
    (tmp_path / "sitecustomize.py").write_text("from wsgi_rollsession import policy\npolicy.limits = None\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*COMMAND, "--once"], capture_output=True, text=True, timeout=90, env=environment)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "verdict: FAILED: the demo answered 500 Internal Server Error"
