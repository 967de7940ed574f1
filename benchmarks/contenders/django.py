"""Django's session engines, saved on every request, and this project's adapter."""

from __future__ import annotations

from typing import Any

from ..tiny import BareVisit, Lab, act
from . import Contender
from .rollsession import adapter, finished, session_options

LAB = Lab()  # Django's settings belong to the process; so does the laboratory that they point to.


class DjangoVisit:
    def __init__(self, session: Any) -> None:
        self.session = session

    def renew(self, user: str) -> None:
        # django.contrib.auth.login() does these two.
        if self.session.get("user") not in (None, user):
            self.session.flush()
        else:
            self.session.cycle_key()

    def elevate(self) -> None:
        # https://docs.djangoproject.com/en/5.2/topics/http/sessions/: cycle_key() creates a new session key while
        # retaining the current session data.
        self.session.cycle_key()

    def end(self) -> None:
        self.session.flush()  # django.contrib.auth.logout()

    #: https://docs.djangoproject.com/en/5.2/topics/auth/default/#how-to-log-a-user-out: logout(request)
    leave = end


def visit(request: Any) -> Any:
    from django.http import HttpResponse

    visit = BareVisit() if LAB.bare else DjangoVisit(request.session)
    body = act(request.path_info, request.META["QUERY_STRING"], visit, LAB.gates)
    return HttpResponse(body, content_type="application/json")


urlpatterns: list[Any] = []


def build(lab: Lab, engine: str) -> Any:
    import django
    from django.conf import settings
    from django.urls import re_path

    chosen: dict[str, Any] = {
        "MIDDLEWARE": [] if lab.bare else ["django.contrib.sessions.middleware.SessionMiddleware"],
        "SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}",
        "SESSION_SAVE_EVERY_REQUEST": lab.rolls,
    }
    options: dict[str, Any] = {}
    if engine == "rollsession" and not lab.bare:
        options = session_options(lab)
        chosen = {"MIDDLEWARE": ["wsgi_rollsession.django.SessionMiddleware"], "ROLLSESSION": options}
    if settings.configured:
        for name, value in chosen.items():
            setattr(settings, name, value)
        return switched(lab, options)
    cache = f"{__name__}_cache.GatedRedisCache" if lab.gated else "django.core.cache.backends.redis.RedisCache"
    settings.configure(
        SECRET_KEY="s" * 50,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["django.contrib.sessions"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(lab.directory / "django.db")}},
        CACHES={"default": {"BACKEND": cache, "LOCATION": lab.redis_url}},
        SESSION_COOKIE_AGE=3600,
        SESSION_COOKIE_SECURE=True,
        **chosen,
    )
    django.setup()
    urlpatterns.append(re_path("", visit))
    if engine in ("db", "cached_db") and not (lab.directory / "django.db").exists():
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
    if lab.gated and engine == "db":
        from django.contrib.sessions.models import Session
        from django.db.models.signals import pre_save

        pre_save.connect(lambda **kwargs: lab.gates.enter("store"), sender=Session, weak=False)
    return switched(lab, options)


def switched(lab: Lab, options: dict[str, Any]) -> Any:
    """Several modes may live in one process: the settings that a request looks up are those of its application.

    *options*: those of this project, whose ``Sessions`` is made anew when another application is used.
    """
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.signals import setting_changed

    def switch() -> None:
        global LAB
        settings.SESSION_SAVE_EVERY_REQUEST, LAB = lab.rolls, lab
        if options:
            settings.ROLLSESSION = options
            setting_changed.send(switch, setting="ROLLSESSION", value=options, enter=True)

    switch()
    handler = WSGIHandler()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if LAB is not lab:
            switch()
        return handler(environ, start_response)

    if options:
        from wsgi_rollsession.django import sessions

        finished(application, sessions(), options, lab)
    return application


def contender(engine: str, configuration: str, **traits: Any) -> Contender:
    return Contender(
        f"django-{engine}",
        "Django",
        f"{configuration}, SESSION_SAVE_EVERY_REQUEST",
        lambda lab: build(lab, engine),
        **traits,
    )


CONTENDERS = [
    contender("signed_cookies", "signed_cookies"),
    adapter("django", lambda lab: build(lab, "rollsession")),
    contender("db", "db (SQLite)", stored=True),
    contender("cache", "cache (Redis)", stored=True, redis=True),
    contender("cached_db", "cached_db (SQLite and Redis)", stored=True, redis=True),
]
