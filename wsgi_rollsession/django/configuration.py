"""Django's settings -> the one ``Sessions`` of the process."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.core.signals import setting_changed

from .. import ConfigurationError, Sessions

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

#: The setting that holds the options of ``Sessions``.
SETTING = "ROLLSESSION"
#: The module that tests, and nothing else, may name as SESSION_ENGINE.
TEST_ENGINE = "wsgi_rollsession.django.testing"

_lock = Lock()
_sessions: Sessions | None = None


def sessions() -> Sessions:
    """The ``Sessions`` of this process, made from the settings when it is first asked for.

    Raises:
        ConfigurationError: names the option, or the setting, what it requires and what it received.
    """
    global _sessions
    made = _sessions
    if made is None:
        with _lock:
            made = _sessions
            if made is None:
                made = _sessions = Sessions(**cast(Any, options()))
    return made


def options() -> dict[str, Any]:
    """The options that the settings mean: those of ROLLSESSION, and what Django says about the cookie.

    Raises:
        ConfigurationError: a setting cannot be honoured.
    """
    given = getattr(settings, SETTING, None)
    if not isinstance(given, dict):
        raise ConfigurationError(f"{SETTING}: requires a dict with keys and revocations, received {_kind(given)}")
    if not settings.SESSION_COOKIE_HTTPONLY:
        raise ConfigurationError("SESSION_COOKIE_HTTPONLY: requires True, received False; no script may read a session")
    return {**_of_django(), **given}


def _of_django() -> dict[str, Any]:
    options: dict[str, Any] = {
        "identity_key": SESSION_KEY,
        "cookie_path": settings.SESSION_COOKIE_PATH,
        "samesite": settings.SESSION_COOKIE_SAMESITE,
    }
    if settings.SESSION_COOKIE_DOMAIN:
        options["cookie_domain"] = settings.SESSION_COOKIE_DOMAIN.removeprefix(".")
    if settings.is_overridden("SESSION_COOKIE_NAME"):  # the prefix follows from the other options
        options["cookie_name"] = settings.SESSION_COOKIE_NAME.removeprefix("__Host-").removeprefix("__Secure-")
    return options


def _kind(given: object) -> str:
    return "none" if given is None else type(given).__name__  # and not its value: it may hold keys


def identity_tag(identity: object) -> str:
    """The tag that the core gives to the sessions of a user."""
    return f"user:{identity}"


def revoke_user(user: AbstractBaseUser) -> None:
    """Log *user* out everywhere: end every session of theirs that was created until now.

    Raises:
        StoreUnavailable: the store did not confirm it. The sessions may still be alive.
    """
    sessions().revoke(identity_tag(user._meta.pk.value_to_string(user)))


def _setting_changed(*, setting: str, **_: object) -> None:
    """A test overrides a setting: the next request has a ``Sessions`` of its own."""
    global _sessions
    if setting == SETTING or setting.startswith("SESSION_COOKIE_"):
        with _lock:
            made, _sessions = _sessions, None
        if made is not None:
            made.close()


setting_changed.connect(_setting_changed, dispatch_uid="wsgi_rollsession.django")


def is_testing() -> bool:
    """Whether Django's test environment is set up, as its test runner, pytest-django and nobody else do."""
    from django.test import utils

    return hasattr(utils._TestState, "saved_data")
