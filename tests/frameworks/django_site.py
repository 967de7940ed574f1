"""A Django project for the tests over HTTP, with ``django.contrib.auth``: as ``flask_site``, but one mount only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.contrib import auth
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from ..http_app import Site, arrive, described, finish, gated, told


def login(request: HttpRequest) -> None:
    auth.login(request, auth.get_user_model().objects.get(username=request.GET["user"]))
    request.session["pad"] = "x" * int(request.GET.get("size", 0))


def logout(request: HttpRequest) -> None:
    auth.logout(request)


def read(request: HttpRequest) -> Any:
    key = request.GET.get("key", "user")
    return request.session.get(key) if key != "user" else request.user.get_username() or None


def write(request: HttpRequest) -> None:
    request.session[request.GET["key"]] = request.GET["value"]


def elevate(request: HttpRequest) -> None:
    request.session.cycle_key()
    request.session["role"] = "admin"


def untouched(request: HttpRequest) -> None:
    pass


OPERATIONS: dict[str, Callable[[HttpRequest], Any]] = {
    **{each.__name__: each for each in (login, logout, read, write, elevate, untouched)},
    "leave": logout,
}


def view(request: HttpRequest, operation: str) -> HttpResponse:
    """The only view, behind the gates."""
    gates, _ = described()
    arrive(gates, request.GET, lambda: request.session.get(auth.SESSION_KEY))
    result = OPERATIONS[operation](request)
    finish(gates, request.GET)
    return answer(result)


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's hook for a session that has ended meanwhile, among other bad requests."""
    return answer(None, 409 if isinstance(exception, SessionInterrupted) else 400)


def answer(result: Any, status: int = 200) -> HttpResponse:
    """As the applications of tests/http_app.py answer."""
    return HttpResponse(told(result), content_type="application/json", status=status)


urlpatterns = [path("<operation>", view)]


def application(users: Path, **options: Any) -> Any:
    """The project, with a database of its own for *users*. *options* are those of ``Sessions``."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(users)}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "wsgi_rollsession.django"],
        MIDDLEWARE=[
            "wsgi_rollsession.django.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        MIGRATION_MODULES={"auth": None, "contenttypes": None},  # the tables at once
        ROLLSESSION=options,
        ROOT_URLCONF=__name__,
        SECRET_KEY="a secret of the tests",
        USE_TZ=True,
    )
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    for number, name in enumerate(("alice", "bob"), 1):  # the password's hash too must be the same in each process
        auth.get_user_model().objects.create(pk=number, username=name, password="!")
    from wsgi_rollsession.django import sessions

    gated(sessions())
    return get_wsgi_application()


def create() -> Site:
    """The site that the environment describes. Each process has a database, so that none waits for another's."""
    gates, mounts = described()
    [(name, options)] = mounts.items()
    return Site({name: application(gates / f"users-{os.getpid()}.db", **options)})
