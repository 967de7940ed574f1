"""The race table over HTTP for Pyramid, and for an application that has left Beaker: as ``test_flask_http``.

Logins and logouts are ``remember()`` and ``forget()``; and a key of the session that is set and taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..http_client import Server, gunicorn
from .test_flask_http import ROWS, VARIANTS, WITHOUT_R1, Stage

SITES: dict[str, tuple[str, dict[str, Any]]] = {
    "pyramid": ("pyramid_site", {}),
    "pyramid, filter around": ("pyramid_site", {"around": True}),
    "beaker": ("beaker_site", {}),
}


@pytest.fixture(scope="module", params=[(site, store) for site in SITES for store in ("sqlite", "redis")], ids=str)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One gunicorn for all rows of one site and store, rolling on every response."""
    site, kind = request.param
    module, options = SITES[site]
    folder = tmp_path_factory.mktemp("site")
    store = f"sqlite:///{folder}/revocations.db"
    if kind == "redis":
        store = request.getfixturevalue("redis_server").url
    mounts = {
        name: {"revocations": store, "renew_after": 0, "versioned": name == "versioned", **options}
        for name in ("shop", "versioned")
    }
    application = (f"tests.frameworks.{module}:create()",)
    with gunicorn(folder, mounts, application=application, worker_class="gthread", threads=4) as running:
        yield running


@pytest.mark.parametrize(
    ("row", "variant"),
    [(row, variant) for row in ROWS for variant in VARIANTS if variant == "read" or not row.startswith(WITHOUT_R1)],
)
@pytest.mark.parametrize("mount", ["shop", "versioned"])
def test_row(server: Server, mount: str, row: str, variant: str) -> None:
    """Every row of the race table holds; of two writers, only with versions."""
    scenario, outcome = ROWS[row]
    if (mount, row, variant) == ("shop", "S5 stale overwrite", "write"):
        outcome = None  # the last write to arrive wins
    assert scenario(Stage(server, mount), VARIANTS[variant]) == outcome
