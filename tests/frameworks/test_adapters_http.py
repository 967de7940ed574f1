"""The race table over HTTP for each adapter: gunicorn, two processes of four threads, SQLite and Redis.

The scenarios are those of tests/test_race_http.py. Logins and logouts are the framework's own: Flask-Login's
``login_user()`` and ``logout_user()``, ``login()`` and ``logout()`` of ``django.contrib.auth``, Pyramid's
``remember()`` and ``forget()``; for who has left Beaker, a key of the session that is set and taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..http_client import Server, gunicorn
from ..test_race import expected
from ..test_race_http import PLAYED, Stage, play

SITES: dict[str, tuple[str, dict[str, Any]]] = {
    "flask": ("flask_site", {}),
    "django": ("django_site", {}),
    "pyramid": ("pyramid_site", {}),
    "pyramid, filter around": ("pyramid_site", {"around": True}),
    "beaker": ("beaker_site", {}),
}
KINDS: dict[str, dict[str, Any]] = {"plain": {}, "versioned": {"versioned": True}}
S11 = "S11 documented logout"
PLAYS = [*(each for each in PLAYED if each[0] != S11), (S11, "own")]


@pytest.fixture(
    scope="module",
    params=[(site, store, kind) for site in SITES for store in ("sqlite", "redis") for kind in KINDS],
    ids=", ".join,
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One gunicorn with one mount for all rows, rolling on every response. (Django has one set of settings.)"""
    site, store, kind = request.param
    module, options = SITES[site]
    folder = tmp_path_factory.mktemp("site")
    url = f"sqlite:///{folder}/revocations.db" if store == "sqlite" else request.getfixturevalue("redis_server").url
    mounts = {kind: {"revocations": url, "renew_after": 0, **KINDS[kind], **options}}
    application = (f"tests.frameworks.{module}:create()",)
    with gunicorn(folder, mounts, application=application, worker_class="gthread", threads=4) as running:
        running.name = kind
        yield running


@pytest.mark.parametrize(("row", "variant"), PLAYS)
def test_row(server: Server, row: str, variant: str) -> None:
    """Every row of the race table holds; of two writers, only with versions."""
    outcome = expected(row, variant, KINDS[server.name])
    assert play(Stage(server, server.name), row, variant) == outcome
