"""Pyramid's session contract, CSRF and session authentication tests, from its published sdist, with these sessions.

    make test-frameworks            python -m tests.frameworks.upstream_pyramid [--cache FOLDER]

As ``upstream``; in a module of its own, for Pyramid's tests are a package ``tests``, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from .upstream import CACHE, ROOT, source

TESTS = [
    "tests/test_session.py::TestSignedCookieSession",
    "tests/test_csrf.py",
    "tests/test_authentication.py::TestSessionAuthenticationPolicy",
    "tests/test_authentication.py::TestSessionAuthenticationHelper",
    "tests/test_viewderivers.py",
]
#: In how many tests the adapter has to have made a session: or the run would show nothing.
AT_LEAST = 105
_INTERNALS = "looks into Pyramid's own session, at _dirty or _set_cookie()"
_LASTING = "a cookie for ever, or from the future, is not accepted when its session moves in"

EXCLUSIONS: dict[str, str] = {
    f"tests/test_session.py::TestSignedCookieSession::{test}": reason
    for test, reason in {
        "test__set_cookie_cookieval_too_long": _INTERNALS,
        "test__set_cookie_on_exception": _INTERNALS,
        "test__set_cookie_on_exception_no_request_exception": _INTERNALS,
        "test__set_cookie_options": _INTERNALS,
        "test__set_cookie_real_webob_response": _INTERNALS,
        "test_changed": _INTERNALS,
        "test_reissue_not_triggered": _INTERNALS,
        "test_reissue_str_triggered": _INTERNALS,
        "test_reissue_triggered": _INTERNALS,
        "test_reissue_never": _LASTING,
        "test_timeout_never": _LASTING,
        "test_cookie_max_age_invalid": "max_age is no option: cookies live as long as their sessions",
        "test_custom_serializer": "sessions of Pyramid's JSON move in, and of no other serializer",
    }.items()
}


def main(arguments: list[str] | None = None) -> int:
    """Run them. 0: all are as they have to be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder that the distributions are kept in")
    cache = parser.parse_args(arguments).cache.absolute()
    folder = source("pyramid", cache)
    wanted = {"at_least": AT_LEAST, "exclusions": EXCLUSIONS}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)]),
        "ROLLSESSION_UPSTREAM": json.dumps(wanted),
    }
    print(f"\n==== {folder.name}, {len(EXCLUSIONS)} excluded", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-rfEx", "-p", "no:cacheprovider", "-p", "pyramid_upstream"]
    return subprocess.run([*command, *TESTS], cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
