"""Django's own tests, from its published sdist, with these sessions in place of Django's.

    make test-frameworks            python -m tests.frameworks.upstream_django [--parallel N] [LABEL …]

It is the version that is installed whose tests are run. In a copy of them, Django's middleware is replaced by the
adapter's, and its engine by the adapter's for tests. What is excluded has a reason here, and has to fail: an exclusion
that is not needed any more is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .upstream import CACHE, ROOT, source

#: What touches sessions.
LABELS = [
    "sessions_tests.test_rollsession",
    "messages_tests",
    "csrf_tests",
    "test_client",
    "auth_tests",
    "admin_views",
]
STOCK = "django.contrib.sessions.middleware.SessionMiddleware"
OURS = "wsgi_rollsession.django.SessionMiddleware"

#: Tests that are left out, by a pattern for their whole name, and why.
EXCLUDED: dict[str, str] = {
    r"test_client\.tests\.(AsyncClientTest\..*|ClientTest\.test_copy_response_async)"
    r"|auth_tests\.test_remote_user\.(\w+Test\.\w+_async"
    r"|CustomProcessRequestMiddlewareTest\.test_async_.*)": (
        "an AsyncClient's handler is ASGI's, under which the adapter refuses to work"
    ),
    r"test_client\.tests\.ClientTest\.(test_logout_cookie_sessions|test_sessions_app_is_not_installed"
    r"|test_view_with_login_when_sessions_app_is_not_installed)": "is about another engine, signed_cookies or file",
    r"auth_tests\.test_middleware\.TestLoginRequiredMiddleware\.test_protected_view_logged_in_performance"
    r"|admin_views\.tests\.(AdminCustomQuerysetTest\.test_changelist_view_count_queries"
    r"|AdminSearchTest\.(test_no_total_count|test_reset_link)"
    r"|(Group|User)AdminTest\.test_(group|user)_permission_performance)": (
        "counts the query by which Django's own engine loads a session: there is one less"
    ),
    r"auth_tests\.test_views\.LoginTest\.test_session_key_flushed_on_login_after_password_change": (
        "wants the session's key to stay when its user logs in again; here, earlier copies of the cookie stop working"
    ),
}

#: Django's contract for sessions, over the engine for tests.
CONTRACT = """
from django.test import SimpleTestCase
from wsgi_rollsession.django.testing import SessionStore

from .tests import SessionTestsMixin


class RollSessionTests(SessionTestsMixin, SimpleTestCase):
    backend = SessionStore
"""

SETTINGS = """
import unittest
from re import fullmatch

from django.test.runner import DiscoverRunner
from wsgi_rollsession import Sessions, generate_key

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3"},
    "other": {"ENGINE": "django.db.backends.sqlite3"},
}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = False
SESSION_ENGINE = "wsgi_rollsession.django.testing"
# With Django's default for SESSION_COOKIE_AGE, which its tests compare with.
ROLLSESSION = {
    "keys": generate_key(),
    "revocations": "memory://",
    "idle_timeout": "14d",
    "absolute_timeout": "60d",
}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
EXCLUDED = %r
TEST_RUNNER = "rollsession_settings.Runner"


class Runner(DiscoverRunner):
    def build_suite(self, *args, **kwargs):
        suite = super().build_suite(*args, **kwargs)
        self.excluded = {pattern: 0 for pattern in EXCLUDED}
        for test in _each(suite):
            for pattern in EXCLUDED:
                if fullmatch(pattern, test.id()):
                    self.excluded[pattern] += 1
                    test.__unittest_expecting_failure__ = True
        return suite

    def run_suite(self, suite, **kwargs):
        begun = []
        for name in ("begin", "begin_header"):
            method = getattr(Sessions, name)
            setattr(Sessions, name, lambda *args, method=method: begun.append(1) or method(*args))
        result = super().run_suite(suite, **kwargs)
        print(f"{result.testsRun} ran, {len(result.skipped)} of them skipped by Django; {len(begun)} sessions")
        for pattern, count in self.excluded.items():
            print(f"  {count:3} left out: {EXCLUDED[pattern]}")
        for test in result.unexpectedSuccesses:
            print("left out, and passes:", test.id())
        if self.complete:
            for pattern, count in self.excluded.items():
                assert count, f"names no test: {pattern}"
            assert len(begun) > 3000, "the adapter was not used"
        return result

    complete = %r


def _each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _each(test)
        elif not isinstance(test, unittest.loader._FailedTest):
            yield test
"""


def prepared(work: Path, cache: Path, *, complete: bool) -> Path:
    """The tests of the Django that is installed, copied into *work*, with the adapter in them."""
    tests = work / "tests"
    shutil.copytree(source("Django", cache) / "tests", tests)
    for path in (tests / "runtests.py", *tests.glob("auth_tests/**/*.py"), *tests.glob("admin_views/**/*.py")):
        text = path.read_text(encoding="utf-8")
        # On a line of its own, for the message of a check names it too.
        changed = re.sub(rf'^(\s*)"{STOCK}",$', rf'\1"{OURS}",', text, flags=re.MULTILINE)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
    (tests / "sessions_tests" / "test_rollsession.py").write_text(CONTRACT, encoding="utf-8")
    (tests / "rollsession_settings.py").write_text(SETTINGS % (EXCLUDED, complete), encoding="utf-8")
    return tests


def main() -> int:
    """Run them. The exit status is that of Django's runner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder that the distribution is kept in")
    parser.add_argument("--parallel", default="1")
    parser.add_argument("labels", nargs="*", default=LABELS)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        tests = prepared(work, given.cache.absolute(), complete=given.labels == LABELS)
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        command = [sys.executable, "runtests.py", "--settings", "rollsession_settings", "--parallel", given.parallel]
        return subprocess.run(
            [*command, *given.labels], cwd=tests, env={**os.environ, "PYTHONPATH": path}, check=False
        ).returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
