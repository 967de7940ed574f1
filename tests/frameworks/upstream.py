"""Runs the test suites of frameworks, from their published source distributions, with this package's sessions.

    make test-frameworks            python -m tests.frameworks.upstream [NAME …]

It is the version that is installed whose tests are run. What is excluded has a reason here, and has to fail: an
exclusion that is not needed any more is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".venv-frameworks" / "sdists"


@dataclass(frozen=True)
class Suite:
    """One run of a distribution's tests.

    Args:
        distribution: its name on the package index.
        plugin: the pytest plugin that gives its applications the adapter.
        at_least: in how many tests the adapter has to have opened a session: or the run would show nothing.
        configuration: for the plugin.
        exclusions: {test: reason}.
    """

    distribution: str
    plugin: str
    at_least: int
    configuration: dict[str, Any] = field(default_factory=dict)
    exclusions: dict[str, str] = field(default_factory=dict)
    tests: str = "tests"


_FLASK = "tests.frameworks.flask_upstream"
_NO_REMEMBER_COOKIE = "the remember-me cookie, which by default is neither set nor accepted"

SUITES: dict[str, Suite] = {
    "flask": Suite(
        "flask",
        _FLASK,
        at_least=220,
        exclusions={
            "tests/test_basic.py::test_session_using_session_settings": "SESSION_COOKIE_HTTPONLY=False is refused",
            "tests/test_basic.py::test_session_using_samesite_attribute": "SameSite=Lax is sent where Flask sends none",
            "tests/test_basic.py::test_session_expiration": "Max-Age is sent, and no Expires; permanent is for logins",
            "tests/test_basic.py::test_session_cookie_setting": (
                "a session is extended when that is due, whether it is permanent or not"
            ),
            "tests/test_basic.py::test_session_refresh_vary": (
                "a request that does not look at the session extends it when that is due, not each time"
            ),
            "tests/test_reqctx.py::test_bad_environ_raises_bad_request": (
                "fails without this package, too, with Werkzeug 3.1.9"
            ),
        },
    ),
    "flask-login": Suite(
        "flask-login",
        _FLASK,
        at_least=95,
        exclusions={
            f"tests/test_login.py::{test}": _NO_REMEMBER_COOKIE
            for test in (
                "LoginTestCase::test_confirm_login",
                "LoginTestCase::test_fresh_login_required_decorator",
                "LoginTestCase::test_remember_me",
                "LoginTestCase::test_remember_me_accepts_duration_as_int",
                "LoginTestCase::test_remember_me_custom_duration",
                "LoginTestCase::test_remember_me_custom_duration_uses_custom_cookie",
                "LoginTestCase::test_remember_me_is_unfresh",
                "LoginTestCase::test_remember_me_no_refresh_every_request",
                "LoginTestCase::test_remember_me_refresh_each_request",
                "LoginTestCase::test_remember_me_uses_custom_cookie_parameters",
                "LoginTestCase::test_remember_me_with_invalid_duration_returns_500_response",
                "LoginTestCase::test_user_loaded_from_cookie_fired",
                "UnicodeCookieUserIDTestCase::test_remember_me_user_id",
                "UnicodeCookieUserIDTestCase::test_remember_me_username",
            )
        },
    ),
    "flask-login, with its cookie": Suite(
        "flask-login", _FLASK, at_least=95, configuration={"ROLLSESSION_REMEMBER_COOKIE": True}
    ),
    "flask-wtf": Suite("flask-wtf", _FLASK, at_least=80),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the suites that are named, or all. 0: every one of them is as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(map(repr, SUITES))}")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder that the distributions are kept in")
    given = parser.parse_args(arguments)
    failed = [name for name in given.names or SUITES if not run(SUITES[name], name, given.cache.absolute())]
    print(f"upstream: FAILED: {', '.join(failed)}" if failed else "upstream: all suites are as they have to be")
    return 1 if failed else 0


def run(suite: Suite, name: str, cache: Path) -> bool:
    """Run one suite, and say whether all of its tests are as they have to be."""
    folder = source(suite.distribution, cache)
    print(f"\n==== {name}: {folder.name}, {len(suite.exclusions)} excluded", flush=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "ROLLSESSION_UPSTREAM": json.dumps(
            {
                "at_least": suite.at_least,
                "configuration": suite.configuration,
                "exclusions": suite.exclusions,
            }
        ),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rfEx", "-p", "no:cacheprovider", "-p", suite.plugin]
    # Flask-Login 0.6 uses it, and its suite makes errors of warnings: from Python 3.12 on it fails without us, too.
    command += ["-W", "ignore:datetime.datetime.utcnow:DeprecationWarning", suite.tests]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode == 0


def source(distribution: str, cache: Path) -> Path:
    """The folder with the source distribution of the installed version, fetched if it is not there yet."""
    exact = version(distribution)
    found = _unpacked(distribution, exact, cache)
    if found is None:
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", distribution]
        subprocess.run([*command, "-d", str(cache), f"{distribution}=={exact}"], check=True)
        for archive in cache.glob("*.tar.gz"):
            with tarfile.open(archive) as tar:
                tar.extractall(cache, filter="data")
            archive.unlink()
        found = _unpacked(distribution, exact, cache)
    assert found is not None, f"no folder of {distribution} {exact} in {cache}"
    return found


def _unpacked(distribution: str, exact: str, cache: Path) -> Path | None:
    """File names of source distributions are spelled in many ways."""
    wanted = f"{distribution}-{exact}".lower().replace("_", "-")
    for each in cache.glob("*/"):
        if each.name.lower().replace("_", "-") == wanted:
            return each
    return None


if __name__ == "__main__":
    sys.exit(main())
