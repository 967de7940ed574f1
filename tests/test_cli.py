"""The ``rollsession`` command, with real cookies and a real store."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest

from wsgi_rollsession import generate_key
from wsgi_rollsession.cli import _table, _with_unit, main
from wsgi_rollsession.keys import KeyRing

from .browser import Browser, Clock, Fragile, login, memory, open_browser, put, who, wrap

NAME = "__Host-session-1"


@pytest.fixture
def key(monkeypatch):
    """A key, where the command looks for it by default."""
    made = generate_key()
    monkeypatch.setenv("ROLLSESSION_KEYS", made)
    monkeypatch.delenv("ROLLSESSION_REVOCATIONS", raising=False)
    return made


@pytest.fixture
def url(tmp_path):
    """The URL of an SQLite store."""
    return f"sqlite:///{tmp_path}/revocations.db"


@pytest.fixture
def clock():
    """A clock that shows the real time, and can be moved."""
    return Clock(time.time())


@pytest.fixture
def application(key, url, clock):
    """The filter, with that key and that store."""
    wrapped = wrap(clock, keys=key, revocations=url)
    yield wrapped
    wrapped.close()


@pytest.fixture
def alice(application, clock):
    """A browser in which alice is logged in, at the real time."""
    browser = Browser(application, clock)
    browser.do(login("alice"))
    return browser


def run(capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    try:
        code = main(list(arguments))
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def inspect(capsys, *arguments):
    """Exit code and the list of results of ``inspect --json``, but for that of the slot cookie."""
    code, out, _ = run(capsys, "inspect", "--json", *arguments)
    return code, [result for result in json.loads(out) if "pair_used_last" not in result]


def test_keygen_prints_a_key_that_a_ring_accepts(capsys):
    """``keygen`` prints one new key, and a different one each time."""
    code, first, _ = run(capsys, "keygen")
    assert code == 0
    KeyRing(first)
    assert run(capsys, "keygen")[1] != first


def test_inspect_shows_the_record_of_a_live_session(capsys, alice):
    """``inspect`` of a Cookie header shows id, version, times and tags, exits with 0, and keeps the data to itself."""
    code, (result,) = inspect(capsys, alice.header())
    assert code == 0
    assert result["refused"] is None
    assert result["cookie"] == NAME
    assert result["id"] == alice.do(lambda session: session.id)
    assert (result["version"], result["epoch"], result["writes"]) == (1, 0, 1)
    assert (result["kind"], result["pair"], result["chosen"], result["flags"]) == ("login", 1, True, [])
    assert result["authenticated_at"] == result["created"] == result["issued"] == result["last_activity"]
    assert len(result["tag_hashes"]) == 1
    assert "data" not in result
    assert "alice" not in json.dumps(result)


def test_inspect_shows_epochs_and_times(capsys, alice):
    """A new epoch has another name in the pair and another version; one that authenticated again another login time."""
    alice.clock.advance(10)
    alice.do(lambda session: session.regenerate(tags=["user:alice"], persistent=False))
    alice.clock.advance(10)
    alice.do(put("a", 1))
    _, (result,) = inspect(capsys, alice.header())
    assert (result["cookie"], result["pair"]) == (f"{NAME}b", 1)
    assert (result["version"], result["epoch"], result["writes"]) == (1 << 16 | 2, 1, 2)
    assert result["created"] < result["authenticated_at"] < result["issued"]
    assert result["flags"] == ["transient"]


def test_inspect_shows_an_anonymous_session(capsys, application):
    """An anonymous session has no login time and no pair; a table leaves out what there is not."""
    browser = Browser(application, Clock(time.time()))
    browser.do(put("a", 1))
    _, (result,) = inspect(capsys, browser.header())
    assert (result["cookie"], result["kind"], result["pair"]) == ("__Host-session", "anonymous", None)
    assert result["authenticated_at"] is None
    _, out, _ = run(capsys, "inspect", browser.header())
    assert "authenticated" not in out
    assert "pair" not in out
    assert "None" not in out
    assert "null" not in out


@pytest.mark.parametrize(("value", "pair"), [("1", 1), ("4", 4), ("5", None), ("", None), ("x\x1b", None)])
def test_inspect_shows_the_slot_cookie(capsys, key, value, pair):
    """The slot cookie says which pair was used last, or nothing; it is no session."""
    code, out, _ = run(capsys, "inspect", "--json", f"__Host-session-slot={value}")
    assert code == 1
    assert json.loads(out) == [{"cookie": "__Host-session-slot", "pair_used_last": pair}]
    code, out, _ = run(capsys, "inspect", f"__Host-session-slot={value}")
    assert out.splitlines()[1].split() == ["pair", "used", "last", str(pair or "none")]


def test_inspect_says_which_session_counts(capsys, alice):
    """Of several that are alive, the login is chosen, as an application chooses."""
    other = Browser(alice.application, alice.clock)
    other.do(put("a", 1))
    code, results = inspect(capsys, f"{other.header()}; {alice.header()}")
    assert code == 0
    assert [(result["kind"], result["refused"], result["chosen"]) for result in results] == [
        ("anonymous", None, False),
        ("login", None, True),
    ]
    _, out, _ = run(capsys, "inspect", f"{other.header()}; {alice.header()}")
    assert re.findall(r"^verdict +(.*)$", out, re.MULTILINE) == ["alive, and another session comes before it", "alive"]


def test_inspect_shows_the_flags(capsys, key):
    """The flags of a record are shown by name."""
    clock = Clock(time.time())
    store = Fragile(memory(clock))
    browser = open_browser(clock, keys=key, outage="open", revocations=store)
    store.is_down = True
    browser.do(put("a", 1))
    _, (result,) = inspect(capsys, browser.header())
    assert result["flags"] == ["fail open", "unasked"]
    assert re.search(r"^flags +fail open, unasked$", run(capsys, "inspect", browser.header())[1], re.MULTILINE)


def test_inspect_shows_the_data_when_asked(capsys, alice):
    """``--data`` adds the session's data."""
    _, (result,) = inspect(capsys, alice.header(), "--data")
    assert result["data"] == {"user": "alice"}


def test_inspect_prints_a_table_for_people(capsys, alice):
    """Without ``--json``, one line for each fact, the verdict among them."""
    code, out, _ = run(capsys, "inspect", alice.header())
    assert code == 0
    assert any(line.split() == ["verdict", "alive"] for line in out.splitlines())


def test_inspect_takes_a_value_with_its_name_or_standard_input(capsys, alice):
    """A value alone needs the cookie's name, for it opens under that name only; ``-`` reads standard input."""
    name, value = NAME, alice.cookies[NAME]
    assert inspect(capsys, value, "--name", name)[0] == 0
    assert inspect(capsys, value, "--name", f"{name}b")[1][0]["refused"] == "not authentic"
    assert run(capsys, "inspect", value)[0] == 2
    command = [sys.executable, "-m", "wsgi_rollsession", "inspect", "-"]
    done = subprocess.run(command, input=f"Cookie: other=1; {name}={value}\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_inspect_counts_the_lease(capsys, alice):
    """The last activity is the lease's, if one is there; a damaged lease is named and ignored."""
    before = inspect(capsys, alice.header())[1][0]
    alice.clock.advance(61)
    alice.do(who)
    (lease,) = (name for name in alice.cookies if name.endswith("-lease"))
    # The clock of the command is the real one, and a minute ahead is tolerated.
    result = inspect(capsys, alice.header())[1][0]
    assert result["last_activity"] > before["last_activity"]
    value = alice.cookies[lease]
    damaged = alice.header().replace(value, value[:-1] + ("A" if value[-1] != "A" else "B"))
    result = inspect(capsys, damaged)[1][0]
    assert result["lease_refused"] == "not authentic"
    assert result["last_activity"] == before["last_activity"]
    both = f"{damaged}; {lease}={alice.cookies[lease]}; {lease}={'A' * 48}"
    result = inspect(capsys, both)[1][0]
    assert result["last_activity"] > before["last_activity"], "of several, the best authentic one"


def test_inspect_says_that_a_lease_alone_is_inert(capsys, alice):
    """A lease without its session is refused as such."""
    alice.clock.advance(61)
    alice.do(who)
    (name,) = (name for name in alice.cookies if name.endswith("-lease"))
    code, (result,) = inspect(capsys, f"{name}={alice.cookies[name]}")
    assert code == 1
    assert "inert" in result["refused"]


@pytest.mark.parametrize(
    ("cookie", "reason"),
    [
        (f"{NAME}=AAAA", "wrong length"),
        (f"{NAME}=\u00e9", "characters"),
        (f"{NAME}={'!' * 152}", "characters"),
        ("anything=", "characters"),
    ],
)
def test_inspect_names_why_garbage_is_refused(capsys, key, cookie, reason):
    """Whatever the value is, ``inspect`` exits with 1 and says why it is refused."""
    code, (result,) = inspect(capsys, cookie)
    assert code == 1
    assert reason in result["refused"]


@pytest.mark.parametrize("name", ["\x1b[31mx", "\x1b]0;title\x07x", "a\x9b1mb", "\u202etxt", "a\rb", "größe"])
@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_inspect_escapes_hostile_names(capsys, key, name, json_too):
    """A cookie's name, which nobody has authenticated, is shown without what a terminal would obey."""
    for cookie in (f"{name}=abc", f"{name}-lease={'A' * 48}"):
        code, out, error = run(capsys, "inspect", cookie, *json_too)
        assert code == 1
        assert "refused" in out
        assert all(character == "\n" or " " <= character <= "~" for character in out + error)


HOSTILE = "\x1b]0;title\x07 \x9b1m \x85 \x7f \r\n \u202etxt \u2066 \u2028 \ufeff \U000e0041 größe 日本"


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_inspect_escapes_hostile_data(capsys, application, json_too):
    """Data that a user chose is shown without what a terminal would obey, and is otherwise complete."""
    browser = Browser(application, Clock(time.time()))
    browser.do(put(f"key {HOSTILE}", [HOSTILE]))
    _, out, _ = run(capsys, "inspect", browser.header(), "--data", *json_too)
    assert all(character.isprintable() for line in out.split("\n") for character in line)
    (shown,) = json.loads(out) if json_too else [json.loads("{" + out.partition("{")[2])]
    assert (shown["data"] if json_too else shown) == {f"key {HOSTILE}": [HOSTILE]}
    assert json_too or "größe 日本" in out


def test_inspect_prints_what_the_terminal_can_show(application):
    """A character that the output's encoding lacks is escaped too, and does not make the command fail."""
    browser = Browser(application, Clock(time.time()))
    browser.do(put("a", "größe 日本"))
    command = [sys.executable, "-m", "wsgi_rollsession", "inspect", "--data", browser.header()]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert r"gr\xf6\xdfe \u65e5\u672c" in done.stdout


def test_inspect_names_an_unknown_key(capsys, alice, monkeypatch):
    """A cookie sealed with a key that the ring does not hold is refused as such."""
    monkeypatch.setenv("OTHER", generate_key())
    code, (result,) = inspect(capsys, alice.header(), "--keys-env", "OTHER")
    assert (code, result["refused"]) == (1, "unknown key")


def test_inspect_names_an_expired_session(capsys, key):
    """A session past its idle timeout is refused as such."""
    clock = Clock(time.time() - 30 * 86400)
    browser = open_browser(clock, keys=key)
    browser.do(put("a", 1))
    code, (result,) = inspect(capsys, browser.header())
    assert (code, result["refused"]) == (1, "absolute timeout")


def test_inspect_reads_keys_from_a_file(capsys, alice, key, tmp_path, monkeypatch):
    """``--keys-file`` names a file with the key ring."""
    monkeypatch.delenv("ROLLSESSION_KEYS")
    file = tmp_path / "keys"
    file.write_text(f"{generate_key()}\n{key}\n")
    assert inspect(capsys, alice.header(), "--keys-file", str(file))[0] == 0
    assert run(capsys, "inspect", alice.header(), "--keys-file", str(tmp_path / "none"))[0] == 1


def test_inspect_asks_the_store_if_it_is_named(capsys, alice, url):
    """With ``--store``, a session that was logged out is refused, and the reason says so."""
    header = alice.header()
    assert inspect(capsys, header, "--store", url)[0] == 0
    alice.do(lambda session: session.invalidate())
    assert inspect(capsys, header)[0] == 0
    code, (result,) = inspect(capsys, header, "--store", url)
    assert code == 1
    assert "logged out" in result["refused"]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda browser: browser.do(lambda session: session.invalidate()), "logged out"),
        (lambda browser: browser.do(lambda session: session.regenerate()), "superseded by a later version"),
        (lambda browser: browser.application.revoke("user:alice"), "revoked"),
        (lambda browser: browser.application.revoke_everything(), "revoked"),
        (lambda browser: browser.application.revoke_session(browser.do(lambda session: session.id)), "logged out"),
    ],
)
def test_inspect_says_how_a_session_ended(capsys, alice, url, end, reason):
    """With ``--store``, the reason is the application's: logged out, superseded or revoked."""
    header = alice.header()
    end(alice)
    code, (result,) = inspect(capsys, header, "--store", url)
    assert (code, result["refused"], result["chosen"]) == (1, reason, False)


def test_inspect_names_a_store_that_lost_its_data(capsys, key, application, clock, url):
    """A store that has begun anew refuses the sessions from before as one that lost its data."""
    browser = open_browser(clock, keys=key)
    browser.do(login("alice"))
    application.sessions.revocations.status()
    code, (result,) = inspect(capsys, browser.header(), "--store", url)
    assert (code, result["refused"]) == (1, "the revocation store lost its data")


def test_a_missing_or_malformed_key_is_a_usage_error_that_does_not_show_it(capsys, monkeypatch):
    """Exit code 2, a message that names the option or the problem, and never the key."""
    monkeypatch.delenv("ROLLSESSION_KEYS", raising=False)
    code, _, error = run(capsys, "inspect", "a=b")
    assert code == 2
    assert "--keys-env" in error
    secret = generate_key()[:-1]
    monkeypatch.setenv("ROLLSESSION_KEYS", secret)
    code, out, error = run(capsys, "inspect", "a=b")
    assert code == 2
    assert secret[20:] not in out + error
    for option in ("--keys-env", "--keys-file"):
        code, out, error = run(capsys, "inspect", option, secret, "a=b")
        assert code in (1, 2)
        assert error.startswith("rollsession: ") and secret[20:] not in out + error


@pytest.mark.parametrize("how", ["tag", "session", "everything"])
def test_revoke_ends_sessions_in_running_applications(capsys, application, alice, url, how):
    """``revoke`` by tag, by session id or of everything ends the session in an application that is running."""
    session_id = alice.do(lambda session: session.id)
    what = {"tag": ["--tag", "user:alice"], "session": ["--session", session_id], "everything": ["--everything"]}[how]
    code, out, _ = run(capsys, "revoke", *what, "--store", url)
    assert code == 0
    assert "ended" in out
    assert how == "session" or re.search(r" created until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC are ended$", out.strip())
    assert alice.do(who) is None


def test_revoke_of_another_tag_ends_nothing(capsys, alice, url):
    """``revoke --tag`` leaves sessions without that tag alone."""
    assert run(capsys, "revoke", "--tag", "user:bob", "--store", url)[0] == 0
    assert alice.do(who) == "alice"


def test_the_store_can_be_named_by_a_variable(capsys, alice, url, monkeypatch):
    """A URL with a password need not be an argument: ``ROLLSESSION_REVOCATIONS``."""
    monkeypatch.setenv("ROLLSESSION_REVOCATIONS", url)
    assert run(capsys, "revoke", "--tag", "user:alice")[0] == 0
    assert alice.do(who) is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["revoke"],
        ["revoke", "--tag", "a"],
        ["revoke", "--tag", "a", "--everything", "--store", "sqlite:///x"],
        ["revoke", "--session", "xyz", "--store", "sqlite:///x"],
        ["revoke", "--everything", "--store", "memory://"],
        ["revoke", "--everything", "--store", "gopher://x"],
        ["status"],
        ["inspect"],
    ],
)
def test_wrong_usage_exits_with_2(capsys, key, arguments):
    """What the command cannot understand exits with 2 and a message on standard error."""
    code, out, error = run(capsys, *arguments)
    assert code == 2
    assert not out
    assert error


def test_a_store_that_does_not_exist_is_not_created(capsys, tmp_path):
    """A mistyped SQLite path fails, for a new store would seem to have confirmed the revocation."""
    path = tmp_path / "mistyped.db"
    code, _, error = run(capsys, "revoke", "--everything", "--store", f"sqlite:///{path}")
    assert code == 1
    assert str(path) in error
    assert not path.exists()


def test_an_unreachable_store_exits_with_1(capsys):
    """A revocation that was not confirmed is a failure, said without the store's password."""
    code, out, error = run(capsys, "revoke", "--everything", "--store", "redis://:secret-word@127.0.0.1:1/0")
    assert code == 1
    assert not out
    assert error
    assert "secret-word" not in error


def test_status_shows_the_state_of_the_store(capsys, alice, url):
    """``status`` shows times in UTC and quantities with their units; ``--json`` has seconds and bytes as numbers."""
    alice.do(lambda session: session.invalidate())
    code, out, _ = run(capsys, "status", "--store", url)
    assert code == 0
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    status = json.loads(run(capsys, "status", "--store", url, "--json")[1])
    assert status["fences"] >= 1
    assert shown.keys() == status.keys()
    assert shown["fences"] == str(status["fences"])
    assert shown["genesis"] == time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(status["genesis"]))
    assert status["lifetime"] > 3600
    assert shown["lifetime"].startswith("1 h ")
    assert shown["database_bytes"] == f"{status['database_bytes']} bytes"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("genesis", 0, "1970-01-01 00:00:00 UTC"),
        ("genesis", 10**18, f"{10**21} ms"),
        ("lifetime", 0, "0 s"),
        ("lifetime", 90061, "1 d 1 h 1 min 1 s"),
        ("maxmemory", 0, "no limit"),
        ("maxmemory", 7, "7 bytes"),
        ("used_memory", 7, "7 bytes"),
        ("clock_ahead_ms", -3, "-3 ms"),
        ("evicted_keys", 7, "7"),
        ("role", None, "null"),
        ("server", "\x1b[1mRedis", r"\u001b[1mRedis"),
        ("replicas", [{"ip": "\x9b"}], r'[{"ip": "\u009b"}]'),
        ("followers", {}, "{}"),
        ("followers", {"host:1": {"delay_ms": 1}, "host:2": {}}, 'host:1  {"delay_ms": 1}\n           host:2  {}'),
    ],
)
def test_status_as_people_read_it(name, value, text):
    """Every kind of value that a store reports has a unit, and what others wrote cannot drive the terminal."""
    assert _table({name: _with_unit(name, value)}) == f"{name}  {text}"


def test_everything_works_on_redis(capsys, key, redis_url):
    """``revoke`` and ``status`` reach a Redis store that a running application uses."""
    application = wrap(keys=key, revocations=redis_url)
    browser = Browser(application, Clock(time.time()))
    browser.do(login("alice"))
    try:
        assert browser.do(who) == "alice"
        assert run(capsys, "revoke", "--tag", "user:alice", "--store", redis_url)[0] == 0
        assert browser.do(who) is None
        assert run(capsys, "status", "--store", redis_url)[0] == 0
    finally:
        application.close()
