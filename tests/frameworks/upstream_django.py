"""Django's own tests, from its published sdist, with these sessions in place of Django's.

    python -m tests.frameworks.upstream_django [--cache FOLDER] [--parallel N] [LABEL…]

The sdist of the installed release is fetched once, by pip, into the cache folder. In a copy of its tests,
Django's middleware is replaced by the adapter's wherever a test names it, and its engine by the adapter's for tests.
``EXCLUDED`` names each test that is left out, and why; one that is named there and does not exist is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parents[2]
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

ASGI = "an AsyncClient's handler is ASGI's, under which the adapter refuses to work"
QUERIES = "counts the query by which Django's own engine loads a session: there is one less"

#: Tests that are left out, by a pattern for their whole name, and why.
EXCLUDED: dict[str, str] = {
    r"test_client\.tests\.AsyncClientTest\..*": ASGI,
    r"test_client\.tests\.ClientTest\.test_copy_response_async": ASGI,
    r"auth_tests\.test_remote_user\..*_async": ASGI,
    r"test_client\.tests\.ClientTest\.(test_logout_cookie_sessions|test_sessions_app_is_not_installed"
    r"|test_view_with_login_when_sessions_app_is_not_installed)": "is about another engine, signed_cookies or file",
    r"auth_tests\.test_middleware\.TestLoginRequiredMiddleware\.test_protected_view_logged_in_performance": QUERIES,
    r"admin_views\.tests\.AdminCustomQuerysetTest\.test_changelist_view_count_queries": QUERIES,
    r"admin_views\.tests\.AdminSearchTest\.(test_no_total_count|test_reset_link)": QUERIES,
    r"admin_views\.tests\.(GroupAdminTest|UserAdminTest)\.test_(group|user)_permission_performance": QUERIES,
    r"auth_tests\.test_views\.LoginTest\.test_session_key_flushed_on_login_after_password_change": (
        "wants the session's key to stay when its user logs in again; here, earlier copies of the cookie stop working"
    ),
}

#: Django's contract for sessions, and the tests of its middleware that are about any engine.
CONTRACT = """
from django.test import SimpleTestCase
from wsgi_rollsession.django.testing import SessionStore

from .tests import SessionTestsMixin


class RollSessionTests(SessionTestsMixin, SimpleTestCase):
    backend = SessionStore
"""

SETTINGS = """
import unittest
from re import compile

from django.test.runner import DiscoverRunner
from wsgi_rollsession import generate_key

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
        patterns = {compile(pattern): why for pattern, why in EXCLUDED.items()}
        unused = set(patterns)
        for test in list(_each(suite)):
            for pattern, why in patterns.items():
                if pattern.fullmatch(test.id()):
                    unused.discard(pattern)
                    method = getattr(test, test._testMethodName)
                    setattr(test, test._testMethodName, unittest.skip("rollsession: " + why)(method))
        self.unused = unused
        return suite

    def run_suite(self, suite, **kwargs):
        result = super().run_suite(suite, **kwargs)
        left_out = [why for _, why in result.skipped if why.startswith("rollsession: ")]
        print(f"{result.testsRun} ran, {len(result.skipped)} skipped, of which {len(left_out)} by this project:")
        for why in sorted(set(left_out)):
            print(f"  {left_out.count(why):4} {why.removeprefix('rollsession: ')}")
        for pattern in self.unused:
            print("names no test:", pattern.pattern)
        return result


def _each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _each(test)
        elif not isinstance(test, unittest.loader._FailedTest):
            yield test
"""


def fetched(cache: Path) -> Path:
    """The sdist of the Django that is installed."""
    version = django.get_version()
    cache.mkdir(parents=True, exist_ok=True)
    if not (found := list(cache.glob(f"[dD]jango-{version}.tar.gz"))):
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "-d", str(cache), f"Django=={version}"],
            check=True,
        )
        found = list(cache.glob(f"[dD]jango-{version}.tar.gz"))
    return found[0]


def prepared(sdist: Path, work: Path) -> Path:
    """Its tests, unpacked into *work*, with the adapter in them."""
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    tests = next(work.glob("*/tests"))
    for path in (tests / "runtests.py", *tests.glob("auth_tests/**/*.py"), *tests.glob("admin_views/**/*.py")):
        text = path.read_text(encoding="utf-8")
        # A check's message names Django's.
        changed = re.sub(rf'^(\s*)"{STOCK}",$', rf'\1"{OURS}",', text, flags=re.MULTILINE)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
    (tests / "sessions_tests" / "test_rollsession.py").write_text(CONTRACT, encoding="utf-8")
    (tests / "rollsession_settings.py").write_text(SETTINGS % EXCLUDED, encoding="utf-8")
    return tests


def main() -> int:
    """Run them. The exit status is that of Django's runner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "sdists")
    parser.add_argument("--parallel", default="1")
    parser.add_argument("labels", nargs="*", default=LABELS)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        tests = prepared(fetched(given.cache), work)
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        command = [sys.executable, "runtests.py", "--settings", "rollsession_settings", "--parallel", given.parallel]
        return subprocess.run(
            [*command, *given.labels], cwd=tests, env={**os.environ, "PYTHONPATH": path}, check=False
        ).returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
