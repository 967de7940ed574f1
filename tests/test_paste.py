"""Paste Deploy: every option as text in an ini file, in pipelines, with either kind of entry point."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from paste.deploy import loadapp, loadfilter

from wsgi_rollsession import ConfigurationError, RollSession, generate_key
from wsgi_rollsession.settings import DEFAULTS

from .browser import Browser, dispatch, get, login, logout, put, untouched, who
from .test_settings import OLD

KEY = generate_key()


def application_factory(global_conf: dict[str, str]) -> Any:
    """``paste.app_factory``: the application whose handler each test brings."""
    return dispatch


def never(environ: dict[str, Any]) -> bool:
    """``roll_if = tests.test_paste:never``."""
    return False


APP = """
[app:app]
paste.app_factory = tests.test_paste:application_factory
"""


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Writes an ini file and loads its main application."""

    def load_text(text: str, **global_conf: str) -> Any:
        path = tmp_path / "site.ini"
        path.write_text(text + APP)
        return loadapp(f"config:{path}", global_conf=global_conf)

    return load_text


def pipeline(options: str) -> str:
    """An ini file with one filter."""
    return f"[pipeline:main]\npipeline = session app\n\n[filter:session]\nuse = egg:wsgi_rollsession\n{options}"


MINIMUM = f"keys = {KEY}\nrevocations = memory://\n"

#: Every option as text, and what the settings then hold, and where.
OPTIONS: dict[str, tuple[str, str, Any]] = {
    "keys": (f"{KEY}\n    {generate_key()}", "ring", None),
    "revocations": ("memory://", "revocations", "memory://"),
    "identity_key": ("user_id", "identity_key", "user_id"),
    "idle_timeout": ("20m", "idle_s", 1200),
    "absolute_timeout": ("2d", "absolute_ms", 172_800_000),
    "rolling": ("false", "rolls", False),
    "renew_after": ("0", "renew_after_ms", 0),
    "versioned": ("yes", "versioned", True),
    "cookie_name": ("sid", "cookie_name", "sid"),
    "cookie_domain": ("example.com", "cookie_domain", "example.com"),
    "cookie_path": ("/app", "cookie_path", "/app"),
    "samesite": ("none", "samesite", "None"),
    "partitioned": ("off", "partitioned", False),
    "insecure_http": ("1", "secure", False),
    "outage": ("closed", "outage", "closed"),
    "amnesia": ("accept", "accept_amnesia", True),
    "roll_if": ("tests.test_paste:never", "roll_if", never),
    "moving_in": ("tests.test_settings:OLD", "moving_in", tuple(OLD)),
}


def test_no_option_is_left_out() -> None:
    """The table of this file has every option there is."""
    assert set(OPTIONS) == {"keys", "revocations", *DEFAULTS} - {"clock"}, "a clock has no text"


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_as_text(load: Any, option: str) -> None:
    """Each option can be given as text in an ini file, and means what it means in Python."""
    text, field, value = OPTIONS[option]
    given = {"keys": KEY, "revocations": "memory://", "identity_key": "user_id", option: text}
    application = load(pipeline("".join(f"{name} = {given[name]}\n" for name in given)))
    assert isinstance(application, RollSession)
    if option == "keys":
        assert len(application.sessions.settings.ring.by_id) == 2
    else:
        assert getattr(application.sessions.settings, field) == value


def test_all_options_at_once(load: Any) -> None:
    """They can stand together, except those that contradict each other."""
    together = {name: text for name, (text, _, _) in OPTIONS.items() if name not in ("insecure_http", "rolling")}
    together["partitioned"] = "on"
    application = load(pipeline("".join(f"{name} = {text}\n" for name, text in together.items())))
    for name, (_, field, value) in OPTIONS.items():
        if name in together and name not in ("keys", "partitioned"):
            assert getattr(application.sessions.settings, field) == value
    assert application.sessions.settings.partitioned


def test_the_text_of_an_option_takes_effect(load: Any) -> None:
    """A session works behind an ini file: its name, who is logged in, and that nothing rolls, are those of the file."""
    application = load(
        pipeline(MINIMUM + "cookie_name = sid\nidentity_key = user\nrolling = no\nrenew_after = 0\namnesia = accept\n")
    )
    browser = Browser(application, time.time)
    browser.do(put("user", "alice"))
    assert set(browser.jar) == {"__Host-sid-1", "__Host-sid-slot"}
    assert browser.receive(browser.call(who)).set_cookies == []
    browser.do(logout)
    assert browser.do(who) is None


@pytest.mark.parametrize(
    "text",
    [
        # A filter that names its application, by either kind of entry point.
        f"[filter-app:main]\nuse = egg:wsgi_rollsession\nnext = app\n{MINIMUM}",
        "[filter-app:main]\npaste.filter_app_factory = wsgi_rollsession.paste:filter_app_factory\n"
        f"next = app\n{MINIMUM}",
        f"[filter-app:main]\nuse = egg:wsgi_rollsession#filter_app\nnext = app\n{MINIMUM}",
        # An application that names its filter.
        "[app:main]\npaste.app_factory = tests.test_paste:application_factory\nfilter-with = session\n\n"
        f"[filter:session]\nuse = egg:wsgi_rollsession#filter\n{MINIMUM}",
        f"[pipeline:main]\npipeline = session app\n\n[filter:session]\nuse = egg:wsgi_rollsession#main\n{MINIMUM}",
        "[pipeline:main]\npipeline = session app\n\n"
        f"[filter:session]\npaste.filter_factory = wsgi_rollsession.paste:filter_factory\n{MINIMUM}",
    ],
    ids=["filter-app", "filter_app_factory", "egg#filter_app", "filter-with", "egg#main", "filter_factory"],
)
def test_every_way_to_mount_it(load: Any, text: str) -> None:
    """The filter can be mounted in every way that Paste Deploy has."""
    application = load(text)
    assert isinstance(application, RollSession)
    assert application._application is dispatch


def test_a_variable_of_the_whole_file(load: Any) -> None:
    """Keys need not be in the file: Paste Deploy fills in %(name)s from its global configuration."""
    application = load(pipeline("keys = %(session_keys)s\nrevocations = memory://\n"), session_keys=KEY)
    assert isinstance(application, RollSession)


def test_a_percent_sign(load: Any) -> None:
    """A percent sign, as of a password in a store's URL, is doubled in an ini file; that is Paste Deploy's rule."""
    application = load(pipeline(f"keys = {KEY}\nrevocations = redis://:p%%40ss@127.0.0.1:1/0\n"))
    assert application.sessions.settings.revocations == "redis://:p%40ss@127.0.0.1:1/0"
    application.close()


def test_global_configuration_is_not_taken_for_options(load: Any) -> None:
    """What stands in [DEFAULT] is for the whole file: it does not reach the filter as an unknown option."""
    assert isinstance(load("[DEFAULT]\ndebug = true\nversioned = yes\n\n" + pipeline(MINIMUM)), RollSession)
    assert load("[DEFAULT]\nversioned = yes\n\n" + pipeline(MINIMUM)).sessions.settings.versioned is False


def test_two_in_one_pipeline(load: Any) -> None:
    """Mounted twice, the outer filter's session serves both: one cookie, and no fight over it."""
    second = f"\n[filter:other]\nuse = egg:wsgi_rollsession\ncookie_name = other\n{MINIMUM}"
    text = pipeline(MINIMUM + "amnesia = accept\n").replace("session app", "session other app") + second
    application = load(text)
    browser = Browser(application, time.time)
    browser.do(put("seen", 1))
    assert len(browser.jar) == 1
    assert browser.do(get("seen")) == 1
    browser.do(untouched)


def test_a_filter_for_several_applications(tmp_path: Path) -> None:
    """A filter that is loaded on its own makes a RollSession for each application that it is given."""
    path = tmp_path / "site.ini"
    path.write_text(f"[filter:main]\nuse = egg:wsgi_rollsession\n{MINIMUM}")
    make = loadfilter(f"config:{path}")
    first, second = make(dispatch), make(dispatch)
    assert isinstance(first, RollSession)
    assert first is not second


WRONG = {
    "an unknown option": ("idle_timout = 1h\n", r"received 'idle_timout'; did you mean idle_timeout\?"),
    "a duration": ("idle_timeout = soon\n", "idle_timeout: requires a duration .* received 'soon'"),
    "a boolean": ("versioned = maybe\n", "versioned: requires true or false, received 'maybe'"),
    "a choice": ("outage = shrug\n", "outage: requires degrade or closed or open, received 'shrug'"),
    "a callable that is not there": ("roll_if = tests.test_paste:nothing\n", "roll_if: requires module:name"),
    "a callable that is none": ("roll_if = tests.test_paste:KEY\n", "roll_if: requires module:name"),
    "a scheme": ("revocations = ftp://host\n", "revocations: requires a scheme"),
    "a key": ("keys = correct horse battery staple\n", "keys: requires"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_bad_option_is_named_at_load(load: Any, wrong: str) -> None:
    """A bad option fails when the file is loaded, naming option, requirement and value; not at the first request."""
    text, message = WRONG[wrong]
    name = text.partition(" ")[0]
    minimum = "".join(line for line in MINIMUM.splitlines(keepends=True) if not line.startswith(f"{name} ="))
    with pytest.raises(ConfigurationError, match=message):
        load(pipeline(minimum + text))


@pytest.mark.parametrize("missing", ["keys", "revocations"])
def test_a_missing_option_is_named_at_load(load: Any, missing: str) -> None:
    """Without keys or a store, loading fails and says what is missing."""
    minimum = "".join(line for line in MINIMUM.splitlines(keepends=True) if not line.startswith(missing))
    with pytest.raises(ConfigurationError, match=missing):
        load(pipeline(minimum))


def test_a_bad_key_is_not_repeated(load: Any) -> None:
    """The error about a bad key does not contain it."""
    with pytest.raises(ConfigurationError) as raised:
        load(pipeline(f"keys = {KEY[:-1]}\nrevocations = memory://\n"))
    assert KEY[20:40] not in str(raised.value)


def test_keys_from_the_environment(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``keys_env`` names the variable that holds the keys, so that they stand in no file and on no command line."""
    monkeypatch.setenv("SITE_KEYS", f"{KEY} {generate_key()}")
    application = load(pipeline("keys_env = SITE_KEYS\nrevocations = memory://\n"))
    browser = Browser(application, time.time)
    browser.do(login("alice"))
    assert browser.do(who) == "alice"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (f"keys_env = {KEY}\n", "keys_env: requires the name of a variable that is set, received 'rollsession_v1_…'"),
        ("keys_env = NOT_SET_ANYWHERE\n", "keys_env: requires the name of a variable that is set, received 'NOT_SET"),
        (f"keys_env = PATH\nkeys = {KEY}\n", "keys_env: requires that keys is not given too"),
    ],
)
def test_a_wrong_keys_env(load: Any, options: str, message: str) -> None:
    """A ``keys_env`` that names nothing, or stands beside ``keys``, is an error at load that shows no key."""
    with pytest.raises(ConfigurationError, match=f"^{message}") as caught:
        load(pipeline(f"{options}revocations = memory://\n"))
    assert KEY not in str(caught.value)
