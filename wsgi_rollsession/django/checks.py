"""System checks: what ``manage.py check`` says about the settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string

from ..errors import ConfigurationError
from ..settings import Settings
from .configuration import SETTING, TEST_ENGINE, is_testing, options
from .middleware import NO_ASGI, SessionMiddleware

STOCK = "django.contrib.sessions.middleware.SessionMiddleware"
OURS = "wsgi_rollsession.django.SessionMiddleware"


def check_options(**_: Any) -> list[CheckMessage]:
    """E001: ROLLSESSION, or a setting of Django's that it takes over, cannot be honoured. The store is not opened."""
    try:
        Settings.parse(options())
    except ConfigurationError as error:
        return [Error(str(error), hint=f"See docs/django.md for {SETTING}.", id="rollsession.E001")]
    return []


def check_middleware(**_: Any) -> list[CheckMessage]:
    """E002: MIDDLEWARE has Django's middleware, or lacks ours."""
    found = list(settings.MIDDLEWARE)
    if STOCK in found:
        return [Error(f"MIDDLEWARE has {STOCK!r}.", hint=f"Put {OURS!r} in its place.", id="rollsession.E002")]
    if not any(_is_ours(path) for path in found):
        return [Error("MIDDLEWARE lacks the sessions.", hint=f"Add {OURS!r} to it.", id="rollsession.E002")]
    return []


def check_asgi(**_: Any) -> list[CheckMessage]:
    """E003: the project is set up for ASGI."""
    if getattr(settings, "ASGI_APPLICATION", None) or "daphne" in settings.INSTALLED_APPS:
        hint = "Remove ASGI_APPLICATION and daphne; or silence this check, if other requests only are served by ASGI."
        return [Error(NO_ASGI, hint=hint, id="rollsession.E003")]
    return []


def check_test_engine(**_: Any) -> list[CheckMessage]:
    """E004: SESSION_ENGINE is that of the tests, outside of tests."""
    if settings.SESSION_ENGINE == TEST_ENGINE and not is_testing():
        return [Error(f"SESSION_ENGINE is {TEST_ENGINE!r} outside of tests.", id="rollsession.E004")]
    return []


def check_lifetime(**_: Any) -> list[CheckMessage]:
    """W001: a setting of Django's is there that has no effect."""
    without_effect = ("SESSION_COOKIE_AGE", "SESSION_SAVE_EVERY_REQUEST", "SESSION_SERIALIZER")
    return [
        Warning(
            f"{name} has no effect on these sessions.",
            hint=f"{SETTING} has idle_timeout, absolute_timeout and rolling; values are JSON. Remove it.",
            id="rollsession.W001",
        )
        for name in without_effect
        if settings.is_overridden(name)
    ]


def _is_ours(path: str) -> bool:
    try:
        found = import_string(path)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, SessionMiddleware)
