"""What is compared: published packages in their usual rolling configuration, and this project.

Each module offers ``CONTENDERS``. A contender builds the application of ``benchmarks.tiny`` in one of its modes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from ..browser import Browser, Server, WSGIServer
from ..tiny import Lab

MODULES = ("rollsession", "beaker", "flask", "pyramid", "django", "starlette", "node")


@dataclass(frozen=True)
class Contender:
    """One configuration of one package.

    ``build(lab)`` gives a WSGI application; for ``serves="http"`` it gives a context manager of a running server.
    """

    name: str
    package: str
    configuration: str
    build: Callable[[Lab], Any]
    #: The session is a record on the server; a copied cookie is worth no more than the record.
    stored: bool = False
    redis: bool = False
    encrypts: bool = False
    serves: str = "wsgi"
    #: How a browser logs in (by the path given) and gets to where most of its requests come from.
    settle: Callable[[Any, Browser, str], Any] = lambda application, browser, path: browser.get(path)
    #: Part of the cost and end-to-end comparisons too.
    timed: bool = True

    @property
    def ours(self) -> bool:
        return self.package == "wsgi-rollsession"

    @property
    def title(self) -> str:
        return f"{self.package} {self.version}, {self.configuration}"

    @property
    def version(self) -> str:
        if self.serves == "http":
            from .node import package_version

            return package_version(self.package)
        return version(self.package)

    @contextmanager
    def open(self, lab: Lab) -> Iterator[Server]:
        """The contender, ready for requests."""
        if self.serves == "http":
            with self.build(lab) as server:
                yield server
        else:
            yield WSGIServer(self.build(lab), lab.gates)


def contenders() -> dict[str, Contender]:
    """All contenders by name, in the order of the tables. None of their packages is imported yet."""
    found = [c for module in MODULES for c in import_module(f"{__name__}.{module}").CONTENDERS]
    return {contender.name: contender for contender in found}
