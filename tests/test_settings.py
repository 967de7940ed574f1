"""Every option: its default, its text form, and each way of getting it wrong."""

from __future__ import annotations

import dataclasses
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, RollSession, Sessions
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.settings import DEFAULTS, Options, Settings, seconds
from wsgi_rollsession.token import NEVER, UNLIMITED

from .browser import KEY, Browser, dispatch, login, settings, wrap

PASSWORD = "correct-horse-battery-staple"


def meaning(option: str, parsed: Settings) -> Any:
    """What settings hold of an option, in the option's own units: a time-out that does not apply is None."""
    match option:
        case "keys":
            return list(parsed.ring.by_id)
        case "idle_timeout":
            return None if parsed.idle_s == UNLIMITED else parsed.idle_s
        case "absolute_timeout":
            return None if parsed.absolute_ms == NEVER else parsed.absolute_ms // 1000
        case "rolling":
            return parsed.rolls
        case "renew_after":
            return parsed.renew_after_ms // 1000
        case "insecure_http":
            return not parsed.secure
        case "amnesia":
            return "accept" if parsed.accept_amnesia else "refuse"
        case _:
            return getattr(parsed, option)


def always(environ: dict[str, Any]) -> bool:
    """A ``roll_if`` to import."""
    return True


EXPECTED = {
    "identity_key": None,
    "idle_timeout": 3600,
    "absolute_timeout": 86400,
    "rolling": True,
    "renew_after": 60,
    "versioned": False,
    "cookie_name": "session",
    "cookie_domain": None,
    "cookie_path": "/",
    "samesite": "Lax",
    "partitioned": False,
    "insecure_http": False,
    "outage": "degrade",
    "amnesia": "refuse",
    "roll_if": None,
    "clock": time.time,
    "moving_in": (),
}


@pytest.mark.parametrize("option", EXPECTED)
def test_default(option: str) -> None:
    """Every option but the keys and the store has a default, and it is the secure one."""
    assert meaning(option, settings()) == EXPECTED[option]


def test_every_option_is_in_these_tables() -> None:
    """No option can be added without being tested here."""
    options = set(Options.__annotations__)
    assert options == {*EXPECTED, "keys", "revocations"} == {*DEFAULTS, "keys", "revocations"}
    assert options - {"clock"} <= {option for option, _, _ in TEXTS}, "a clock has no text"
    assert options <= {option for option, _, _ in REFUSED}


class OldCookie:
    """As ``moving.OldCookies``, as far as it is looked at here."""

    cookie_name = "old"
    lifetime_s = 7

    def read(self, value: str) -> None:
        """Not called."""


OLD = [OldCookie()]

TEXTS = [
    ("moving_in", f"{__name__}:OLD", tuple(OLD)),
    ("moving_in", OLD[0], tuple(OLD)),
    ("keys", KEY, [KEY]),
    ("revocations", "memory://", "memory://"),
    ("idle_timeout", "90", 90),
    ("idle_timeout", "90s", 90),
    ("idle_timeout", " 30 m ", 1800),
    ("idle_timeout", "24h", 86400),
    ("absolute_timeout", "7d", 604800),
    ("absolute_timeout", "none", None),
    ("absolute_timeout", timedelta(days=1), 86400),
    ("absolute_timeout", 86400, 86400),
    ("renew_after", "0", 0),
    ("renew_after", "5m", 300),
    ("rolling", "false", False),
    ("rolling", "On", True),
    ("versioned", "yes", True),
    ("versioned", "0", False),
    ("identity_key", "user_id", "user_id"),
    ("identity_key", "_auth_user_id", "_auth_user_id"),
    ("partitioned", "no", False),
    ("insecure_http", "off", False),
    ("cookie_name", "app.id_2", "app.id_2"),
    ("cookie_name", "_", "_"),
    ("cookie_domain", "example.org", "example.org"),
    ("cookie_domain", "a-b.xn--bcher-kva.example", "a-b.xn--bcher-kva.example"),
    ("cookie_path", "/app", "/app"),
    ("cookie_path", "/a%20b/~c", "/a%20b/~c"),
    ("samesite", "strict", "Strict"),
    ("samesite", " none ", "None"),
    ("outage", "closed", "closed"),
    ("outage", "Open", "open"),
    ("amnesia", "accept", "accept"),
    ("roll_if", "tests.test_settings:always", always),
]


# The ids name no key: keys are made anew in every process that collects tests.
@pytest.mark.parametrize(
    ("option", "text", "value"), TEXTS, ids=[f"{option}-{n}" for n, (option, _, _) in enumerate(TEXTS)]
)
def test_text_form(option: str, text: Any, value: Any) -> None:
    """Every option can be given as text, as an ini file has it, and means the same as its value."""
    by_text, by_value = meaning(option, settings(**{option: text})), meaning(option, settings(**{option: value}))
    assert by_text == by_value
    assert by_value == value or option == "keys"


def test_partitioned_as_text() -> None:
    """``partitioned`` can be given as text too; it goes with ``samesite`` None only."""
    assert settings(partitioned="1", samesite="none").partitioned is True
    assert settings(partitioned="no").partitioned is False


REFUSED: list[tuple[str, Any, str]] = [
    ("keys", "", "received none"),
    ("keys", [], "received none"),
    ("keys", None, "received NoneType"),
    ("keys", "swordfish", "key 1 does not start"),
    ("revocations", None, "received 'NoneType'"),
    ("revocations", MemoryRevocations(StoreOptions(lifetime_ms=1)), "received 'MemoryRevocations'"),
    ("revocations", b"memory://", "received 'bytes'"),
    ("revocations", "nowhere", "received no scheme"),
    ("revocations", "ftp://host", "received 'ftp'"),
    ("idle_timeout", "1 hour", "received '1 hour'"),
    ("idle_timeout", 0, "received 0"),
    ("idle_timeout", -5, "received -5"),
    ("idle_timeout", True, "received True"),
    ("idle_timeout", 1.5, "received 1.5"),
    ("idle_timeout", timedelta(seconds=1.5), "received datetime.timedelta"),
    ("absolute_timeout", "1y", "received '1y'"),
    ("absolute_timeout", "99999d", "received '99999d'"),
    ("absolute_timeout", "30m", "received '1800 s'"),
    ("renew_after", "-1", "received '-1'"),
    ("renew_after", "1h", "received '3600 s'"),
    ("rolling", "maybe", "received 'maybe'"),
    ("rolling", None, "received None"),
    ("versioned", 1, "received 1"),
    ("identity_key", "", "received ''"),
    ("identity_key", 7, "received 7"),
    ("identity_key", ["user_id"], "received"),
    ("moving_in", object(), "received 'object'"),
    ("moving_in", [OLD, OLD[0]], "received 'list'"),
    ("moving_in", "no.such:thing", "received 'no.such:thing'"),
    ("clock", None, "received 'NoneType'"),
    ("clock", 1_800_000_000, "received 'int'"),
    ("clock", "time:time", "received 'str'"),
    ("partitioned", "", "received ''"),
    ("insecure_http", "http", "received 'http'"),
    ("cookie_name", "", "received ''"),
    ("cookie_name", "__Host-session", "received '__Host-session'"),
    ("cookie_name", "a b", "received 'a b'"),
    ("cookie_name", "sitzung\n", r"received 'sitzung\\n'"),
    ("cookie_name", "größe", "received 'größe'"),
    ("cookie_name", 7, "received 7"),
    ("cookie_name", "n" * 65, "received 'n"),
    ("cookie_name", "__Host", "received '__Host'"),
    ("cookie_name", ".", "received '.'"),
    ("cookie_name", ".hidden", "received '.hidden'"),
    ("cookie_name", "a-lease", "received 'a-lease'"),
    ("cookie_domain", "", "received ''"),
    ("cookie_domain", "a.example; Secure", "received 'a.example; Secure'"),
    ("cookie_domain", 7, "received 7"),
    ("cookie_domain", ".", "received '.'"),
    ("cookie_domain", "com", "received 'com'"),
    ("cookie_domain", ".example.org", "received '.example.org'"),
    ("cookie_domain", "example.org.", "received 'example.org.'"),
    ("cookie_domain", "-a.example", "received '-a.example'"),
    ("cookie_domain", "a-.example", "received 'a-.example'"),
    ("cookie_domain", "a..example", "received 'a..example'"),
    ("cookie_domain", "127.0.0.1", "received '127.0.0.1'"),
    ("cookie_domain", "example.org\n", "received 'example.org"),
    ("cookie_path", "app", "received 'app'"),
    ("cookie_path", "/a;b", "received '/a;b'"),
    ("cookie_path", "/a\r\nb", "received '/a"),
    ("cookie_path", None, "received None"),
    ("cookie_path", "", "received ''"),
    ("cookie_path", '/a"b', "received '/a\"b'"),
    ("cookie_path", "/a\\b", "received '/a"),
    ("cookie_path", "/a b", "received '/a b'"),
    ("cookie_path", "/größe", "received '/größe'"),
    ("cookie_path", "/a\n", "received '/a"),
    ("samesite", "laxer", "received 'laxer'"),
    ("samesite", None, "received None"),
    ("outage", "ignore", "received 'ignore'"),
    ("amnesia", "forget", "received 'forget'"),
    ("roll_if", "tests.no_such_module:f", "received 'tests.no_such_module:f'"),
    ("roll_if", "tests.test_settings:PASSWORD", "received 'tests.test_settings:PASSWORD'"),
    ("roll_if", "", "received ''"),
    ("roll_if", 5, "received 'int'"),
]


@pytest.mark.parametrize(("option", "value", "received"), REFUSED)
def test_refusal(option: str, value: Any, received: str) -> None:
    """A wrong option is refused at construction, by an error that names it, what it requires and what it received."""
    with pytest.raises(ConfigurationError, match=rf"(?s)^{option}: requires .*{received}"):
        RollSession(dispatch, **{"keys": KEY, "revocations": "memory://", option: value})


TOGETHER: list[tuple[dict[str, Any], str]] = [
    ({"absolute_timeout": None, "idle_timeout": None}, "absolute_timeout"),
    ({"absolute_timeout": None, "rolling": False}, "absolute_timeout"),
    ({"absolute_timeout": None, "outage": "open"}, "absolute_timeout"),
    ({"absolute_timeout": "30m", "idle_timeout": "1h"}, "absolute_timeout"),
    ({"idle_timeout": 10, "renew_after": 10}, "renew_after"),
    ({"samesite": "None", "insecure_http": True}, "samesite"),
    ({"partitioned": True, "insecure_http": True}, "partitioned"),
    ({"partitioned": True, "insecure_http": True, "samesite": "Strict"}, "partitioned"),
    ({"partitioned": True}, "samesite"),
    ({"partitioned": True, "samesite": "Lax"}, "samesite"),
    ({"partitioned": True, "samesite": "Strict"}, "samesite"),
]


@pytest.mark.parametrize(("options", "named"), TOGETHER)
def test_combinations(options: dict[str, Any], named: str) -> None:
    """Options that contradict each other are refused, by the name of the one to change."""
    with pytest.raises(ConfigurationError, match=f"^{named}: requires .* received "):
        settings(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"absolute_timeout": "30m", "idle_timeout": "1h", "rolling": False},
        {"idle_timeout": None, "rolling": True},
        {"idle_timeout": None, "renew_after": "2h"},
        {"rolling": False, "renew_after": "2h"},
        {"absolute_timeout": "1h", "idle_timeout": "1h"},
    ],
)
def test_what_does_not_apply_is_not_compared(options: dict[str, Any]) -> None:
    """An idle timeout longer than the absolute one matters only where activity extends sessions."""
    settings(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revocations": "memory://"}, "^keys: requires .* received none$"),
        ({"keys": KEY}, "^revocations: requires .* received none$"),
        ({"keys": KEY, "revocations": "memory://", "xyz": 5}, "^xyz: requires one of .*, received 'xyz'$"),
    ],
)
@pytest.mark.parametrize("make", [Sessions, lambda **options: RollSession(dispatch, **options)])
def test_missing_and_unknown_options(make: Callable[..., object], options: dict[str, Any], message: str) -> None:
    """A missing or unknown option is a configuration error that names it."""
    with pytest.raises(ConfigurationError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("idle_timout", "idle_timeout"),
        ("idletimeout", "idle_timeout"),
        ("absolut_timeout", "absolute_timeout"),
        ("identitykey", "identity_key"),
        ("version", "versioned"),
        ("cookiename", "cookie_name"),
        ("same_site", "samesite"),
        ("key", "keys"),
        ("revocation", "revocations"),
        ("partition", "partitioned"),
        ("insecure", "insecure_http"),
        ("Rolling", "rolling"),
    ],
)
def test_a_misspelt_option(misspelt: str, meant: str) -> None:
    """A misspelt option is an error that says what was meant."""
    with pytest.raises(ConfigurationError, match=rf"^{misspelt}: .* received '{misspelt}'; did you mean {meant}\?$"):
        settings(**{misspelt: 1})


@pytest.mark.parametrize("gone", ["strict", "cookie_layout"])
def test_options_that_are_gone(gone: str) -> None:
    """``strict`` is ``versioned`` now, and the layout of cookies is no option: both are unknown."""
    with pytest.raises(ConfigurationError, match=f"^{gone}: requires one of "):
        settings(**{gone: True})


TYPED = """
from wsgi_rollsession import RollSession, Sessions


def application(environ: dict[str, object], start_response: object) -> list[bytes]:
    return []


RollSession(application, keys="", revocations="")
Sessions(keys=[""], revocations="", idle_timeout="30m", absolute_timeout=None, rolling="no", identity_key="user_id")
Sessions(keys="", revocations="", idle_timout=3)
RollSession(application, keys="", revocations="", idle_timout=3)
Sessions(keys="")
Sessions(keys="", revocations="", versioned=3.5)
"""


def test_a_misspelt_option_is_an_error_for_type_checkers(tmp_path: Path) -> None:
    """mypy accepts the options that there are, and names a line where one is misspelt, missing or of no such type."""
    pytest.importorskip("mypy", reason="mypy is not installed: see requirements/lint.txt")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", str(snippet)]
    checked = subprocess.run(
        [*command, f"--cache-dir={tmp_path / 'cache'}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    lines = TYPED.splitlines()
    found = re.findall(r"^\S*snippet\.py:(\d+): error: (.*)$", checked.stdout, re.MULTILINE)
    wrong = {lines[int(number) - 1] for number, _ in found}
    assert wrong == {line for line in lines if "idle_timout" in line or line in (lines[-1], lines[-2])}, checked.stdout
    assert checked.stdout.count('did you mean "idle_timeout"?') == 2


@pytest.mark.parametrize(
    ("options", "renew_after"),
    [({}, 60), ({"idle_timeout": "5m"}, 30), ({"idle_timeout": 9}, 0), ({"idle_timeout": None}, 60)],
)
def test_renew_after_follows_the_idle_timeout(options: dict[str, Any], renew_after: int) -> None:
    """Unless set, sessions are renewed after a tenth of the idle timeout, and at the latest after a minute."""
    assert settings(**options).renew_after_ms == renew_after * 1000


@pytest.mark.parametrize(
    ("options", "lifetime_s"),
    [
        ({}, 3600),
        ({"idle_timeout": "5m"}, 300),
        ({"absolute_timeout": None}, 3600),
        ({"rolling": False}, 86400),
        ({"idle_timeout": None}, 86400),
        ({"outage": "open"}, 86400),
        ({"outage": "closed"}, 3600),
    ],
)
def test_fence_lifetime(options: dict[str, Any], lifetime_s: int) -> None:
    """A fence is kept for the idle timeout, or for the absolute one where that bounds what it refuses, and a margin."""
    assert settings(**options).fence_lifetime_ms == lifetime_s * 1000 + 10_000


@pytest.mark.parametrize(
    ("options", "rolls", "idle_s", "absolute_ms"),
    [
        ({}, True, 3600, 86_400_000),
        ({"absolute_timeout": None}, True, 3600, NEVER),
        ({"rolling": False}, False, UNLIMITED, 86_400_000),
        ({"idle_timeout": None}, False, UNLIMITED, 86_400_000),
    ],
)
def test_derived(options: dict[str, Any], rolls: bool, idle_s: int, absolute_ms: int) -> None:
    """Without rolling, or without an idle timeout, sessions have a fixed end."""
    derived = settings(**options)
    assert (derived.rolls, derived.idle_s, derived.absolute_ms) == (rolls, idle_s, absolute_ms)


def test_settings_are_frozen() -> None:
    """Settings cannot be changed after they were validated."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().versioned = True  # type: ignore[misc]


def test_insecure_http_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Plain http is announced in the log."""
    wrap(insecure_http=True)
    assert ["insecure_http" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(("outage", "lines"), [("degrade", 0), ("closed", 0), ("open", 1)])
def test_serving_unchecked_logs_a_warning(caplog: pytest.LogCaptureFixture, outage: str, lines: int) -> None:
    """That sessions may be accepted and extended unchecked is announced in the log."""
    wrap(outage=outage)
    assert ["outage=open" in record.message for record in caplog.records] == [True] * lines


@pytest.mark.parametrize(("amnesia", "lines"), [("refuse", 0), ("accept", 1)])
def test_accepting_amnesia_logs_a_warning(caplog: pytest.LogCaptureFixture, amnesia: str, lines: int) -> None:
    """That a loss of the store's data would revive sessions is announced in the log."""
    wrap(amnesia=amnesia)
    assert ["amnesia=accept" in record.message for record in caplog.records] == [True] * lines


def test_representations_carry_no_secret() -> None:
    """A settings value can be printed: neither the keys nor the store's URL is in it."""
    shown = repr(settings(revocations=f"redis://user:{PASSWORD}@127.0.0.1:1/0"))
    assert PASSWORD not in shown
    assert KEY not in shown
    assert "idle_s=3600" in shown


@pytest.mark.parametrize(
    "options",
    [
        {"keys": KEY[:-1] + "!"},
        {"keys": KEY + "A"},
        {"keys": [KEY, KEY]},
        {"keys": KEY.removeprefix("rollsession_")},
        {"keys": {KEY: 1}, "idle_timeout": "never"},
        {"keys": KEY, "nonsense": 1},
        *({"keys": KEY, option: KEY} for option in ("samesite", "outage", "idle_timeout", "cookie_path", "roll_if")),
        {"keys": KEY, KEY: 1},
        {"keys": KEY, "revocations": KEY},
    ],
)
def test_keys_are_in_no_error(options: dict[str, Any]) -> None:
    """Whatever is wrong, with the keys or beside them, no part of a key appears in the error."""
    with pytest.raises(ConfigurationError) as caught:
        RollSession(dispatch, **{"revocations": "memory://", **options})
    error: BaseException | None = caught.value
    while error is not None:
        for start in range(len("rollsession_v1_"), len(KEY) - 8):
            assert KEY[start : start + 8] not in f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{PASSWORD}@host:port/0",
        f"redis://user:{PASSWORD}@host/zero",
        f"redis://user:{PASSWORD}@host/0?no_such_option=1",
        f"redis://user:{PASSWORD}@host/0?follow=perhaps",
        f"redis://user:{PASSWORD}@host/0#fragment",
        f"redis://user:{PASSWORD}/more@host/0",
        f"redis+sentinel://user:{PASSWORD}@host",
        f"redis+cluster://user:{PASSWORD}@",
        f"unknown://user:{PASSWORD}@host",
        f"unix:?password={PASSWORD}",
    ],
)
def test_store_passwords_are_in_no_error(url: str) -> None:
    """A store's URL that is refused is not repeated with its password."""
    with pytest.raises(ConfigurationError) as caught:
        RollSession(dispatch, keys=KEY, revocations=url)
    assert PASSWORD not in f"{caught.value} {caught.value!r}"


def test_a_failing_store_logs_no_password(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A store that does not answer is named in the log and in errors without its password."""
    caplog.set_level(logging.DEBUG)
    browser = Browser(wrap())
    browser.application = application = wrap(browser.clock, revocations=f"unix://user:{PASSWORD}@{tmp_path}/no.sock")
    browser.do(login("alice"))
    browser.receive(browser.call(lambda session: repr(session)))
    with pytest.raises(Exception) as caught:
        application.revoke("user:alice")
    assert "unavailable" in caplog.text
    for text in (
        caplog.text,
        str(caught.value),
        repr(caught.value),
        repr(application),
        repr(application.sessions.revocations),
    ):
        assert PASSWORD not in text
        assert KEY not in text
    application.close()


def test_the_longest_duration() -> None:
    """Ten years are one, and a second more is not."""
    longest = 10 * 365 * 86_400
    assert seconds("absolute_timeout", longest, smallest=1) == longest
    with pytest.raises(ConfigurationError, match="to ten years"):
        seconds("absolute_timeout", longest + 1, smallest=1)
