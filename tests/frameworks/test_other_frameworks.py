"""docs/other-frameworks.md: every recipe works as it says, and what has logged out stays logged out."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from wsgi_rollsession import RollSession, generate_key

from ..browser import Answer, Browser, Clock
from ..test_docs import blocks

PAGE = Path(__file__).parents[2] / "docs" / "other-frameworks.md"
RECIPES = {next(name for name in ("bottle", "falcon", "cherrypy") if f"import {name}\n" in block): block
           for block in blocks(PAGE, "python")[1:]}  # fmt: skip


@pytest.fixture(params=RECIPES)
def application(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What a recipe makes, with a page more, which logs out and then fails."""
    pytest.importorskip(request.param)
    monkeypatch.setenv("ROLLSESSION_KEYS", generate_key())
    monkeypatch.setenv("ROLLSESSION_REVOCATIONS", f"sqlite:///{tmp_path}/revocations.db")
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(RECIPES[request.param], names)
    ADD_FAILING[request.param](names)
    application = names["application"]
    assert isinstance(application, RollSession)
    yield application
    application.close()


def _bottle(names: dict[str, Any]) -> None:
    @names["app"].post("/fail")  # type: ignore[untyped-decorator]
    def fail() -> None:
        names["session"]()["user_id"] = "mallory"
        raise ZeroDivisionError


def _falcon(names: dict[str, Any]) -> None:
    class Fail:
        def on_post(self, req: Any, resp: Any) -> None:
            req.context.session["user_id"] = "mallory"
            raise ZeroDivisionError

    names["app"].add_route("/fail", Fail())


def _cherrypy(names: dict[str, Any]) -> None:
    def fail(self: Any) -> None:
        names["session"]()["user_id"] = "mallory"
        raise ZeroDivisionError

    fail.exposed = True  # type: ignore[attr-defined]
    names["Root"].fail = fail
    names["cherrypy"].log.screen = False


ADD_FAILING = {"bottle": _bottle, "falcon": _falcon, "cherrypy": _cherrypy}


class Visitor(Browser):
    """A browser that goes by paths."""

    def __init__(self, application: Any) -> None:
        super().__init__(application, Clock(time.time()))

    def send(self, path: str = "/", **environ: Any) -> Answer:
        """A request, whose answer has not arrived."""
        given = {"HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "1", "PATH_INFO": path}
        return self.call(None, **given, **environ)  # type: ignore[arg-type]  # these have no handler of the test's

    def post(self, path: str, **form: str) -> str:
        """A form, and its answer: the status."""
        body = urlencode(form).encode()
        kind = "application/x-www-form-urlencoded"
        given: dict[str, Any] = {"CONTENT_TYPE": kind, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
        return self.receive(self.send(path, REQUEST_METHOD="POST", **given)).status

    def look(self) -> str:
        """What the page says."""
        return self.receive(self.send()).body.decode()


def test_recipe(application: Any) -> None:
    """A visitor is counted, logs in, and logs out; a copy of the cookies and a late answer are nobody's."""
    visitor, thief = Visitor(application), Visitor(application)
    assert [visitor.look(), visitor.look()] == ["nobody, visit 1", "nobody, visit 2"]
    assert visitor.post("/login", name="alice").startswith("303")
    assert visitor.look() == "alice, visit 3"
    thief.jar = dict(visitor.jar)
    late = visitor.send()
    assert visitor.post("/logout").startswith("303")
    assert visitor.look() == "nobody, visit 4"
    visitor.receive(late)
    assert visitor.look().startswith("nobody") and thief.look().startswith("nobody")


def test_errors(application: Any) -> None:
    """A request that fails after a login has logged nobody in, and gets an error page."""
    visitor = Visitor(application)
    visitor.post("/login", name="alice")
    assert visitor.post("/fail").startswith("500")
    assert visitor.look().startswith("alice")


def test_revoke(application: Any) -> None:
    """``application.revoke`` logs out everywhere."""
    visitor = Visitor(application)
    visitor.post("/login", name="alice")
    application.revoke("user:alice")
    assert visitor.look().startswith("nobody")
