"""``app.config`` -> the application's ``Sessions``, and what only this adapter has to know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import flask

from ..errors import ConfigurationError
from ..sessions import Sessions
from ..settings import seconds
from .login import USER_ID

log = logging.getLogger("wsgi_rollsession")
T = TypeVar("T")

PREFIX = "ROLLSESSION_"
#: Flask's own default for PERMANENT_SESSION_LIFETIME: nobody has asked for it.
FLASK_LIFETIME = timedelta(days=31)


class Configuration:
    """What an application's configuration says.

    Raises:
        ConfigurationError: names the key, what it requires and what it received.
    """

    def __init__(self, app: flask.Flask) -> None:
        config = app.config
        given = {key.removeprefix(PREFIX).lower(): config[key] for key in config if key.startswith(PREFIX)}
        #: The key of the configuration that an option is from.
        self._names: dict[str, str] = {}
        #: Whether Flask-Login's remember-me cookie is set and accepted.
        self.remember_cookie: bool = given.pop("remember_cookie", False)
        if not isinstance(self.remember_cookie, bool):
            raise ConfigurationError(
                f"ROLLSESSION_REMEMBER_COOKIE: requires True or False, received {self.remember_cookie!r}"
            )
        idle = given.pop("unremembered_idle_timeout", "1h")
        absolute = given.pop("unremembered_absolute_timeout", "24h")
        #: What ``regenerate()`` is told of a login that is neither permanent nor to be remembered.
        self.unremembered: Mapping[str, Any] = {
            "persistent": False,
            "idle_timeout": idle,
            "absolute_timeout": absolute,
        }
        self._parse(lambda: seconds("unremembered_idle_timeout", idle, smallest=1))
        self._parse(lambda: seconds("unremembered_absolute_timeout", absolute, smallest=1))
        given.setdefault("identity_key", USER_ID)
        options = {**self._of_flask(app, given), **given}
        self.sessions = self._parse(lambda: Sessions(**options))
        self.identity_key = self.sessions.settings.identity_key

    def _of_flask(self, app: flask.Flask, given: Mapping[str, Any]) -> dict[str, Any]:
        """What Flask's own keys mean."""
        config = app.config
        if not config["SESSION_COOKIE_HTTPONLY"]:
            raise ConfigurationError(
                "SESSION_COOKIE_HTTPONLY: requires True, received False; scripts never need a session's cookie"
            )
        if config["SESSION_COOKIE_SECURE"] and given.get("insecure_http"):
            raise ConfigurationError(
                "SESSION_COOKIE_SECURE: requires False with ROLLSESSION_INSECURE_HTTP, received True"
            )
        if not config["SESSION_REFRESH_EACH_REQUEST"]:
            log.warning(
                "SESSION_REFRESH_EACH_REQUEST has no effect: see ROLLSESSION_ROLLING and ROLLSESSION_RENEW_AFTER"
            )
        domain, path = config["SESSION_COOKIE_DOMAIN"], config["SESSION_COOKIE_PATH"]
        found = {
            "cookie_name": ("SESSION_COOKIE_NAME", config["SESSION_COOKIE_NAME"]),
            "cookie_domain": ("SESSION_COOKIE_DOMAIN", domain.removeprefix(".") if domain else None),
            "cookie_path": (
                "SESSION_COOKIE_PATH" if path else "APPLICATION_ROOT",
                path or config["APPLICATION_ROOT"] or "/",
            ),
            "samesite": ("SESSION_COOKIE_SAMESITE", config["SESSION_COOKIE_SAMESITE"]),
            "partitioned": ("SESSION_COOKIE_PARTITIONED", config.get("SESSION_COOKIE_PARTITIONED")),
        }
        lifetime = app.permanent_session_lifetime
        if lifetime != FLASK_LIFETIME and "idle_timeout" not in given:
            found["idle_timeout"] = "PERMANENT_SESSION_LIFETIME", lifetime
            if lifetime > timedelta(days=1):
                found["absolute_timeout"] = "PERMANENT_SESSION_LIFETIME", lifetime
        found = {option: pair for option, pair in found.items() if option not in given and pair[1] is not None}
        self._names = {option: name for option, (name, _) in found.items()}
        return {option: value for option, (_, value) in found.items()}

    def _parse(self, parse: Callable[[], T]) -> T:
        """The result of *parse*, whose errors name the option as the configuration does."""
        try:
            return parse()
        except ConfigurationError as error:
            option, colon, rest = str(error).partition(":")
            name = self._names.get(option, PREFIX + option.upper())
            raise ConfigurationError(f"{name}{colon}{rest}") from None
