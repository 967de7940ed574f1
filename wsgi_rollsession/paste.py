"""Paste Deploy entry points: ``use = egg:wsgi_rollsession`` in a ``[filter:…]`` section, every option as text.

Instead of ``keys`` there may be ``keys_env``, the name of an environment variable that holds them: an ini file is no
place for keys, and a command line is none either.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .errors import ConfigurationError
from .middleware import RollSession


def filter_factory(global_conf: dict[str, str], **options: Any) -> Callable[[Any], RollSession]:
    """``paste.filter_factory``: options -> filter -> application."""
    return lambda application: RollSession(application, **with_keys(options))


def filter_app_factory(application: Any, global_conf: dict[str, str], **options: Any) -> RollSession:
    """``paste.filter_app_factory``: application and options -> application."""
    return RollSession(application, **with_keys(options))


def with_keys(options: dict[str, Any]) -> dict[str, Any]:
    """Options with ``keys`` for ``keys_env``. Raises ``ConfigurationError``."""
    name = options.get("keys_env")
    if name is None:
        return options
    if "keys" in options:
        raise ConfigurationError("keys_env: requires that keys is not given too")
    if name not in os.environ:
        raise ConfigurationError(f"keys_env: requires the name of a variable that is set, received {name!r}")
    return {**{key: value for key, value in options.items() if key != "keys_env"}, "keys": os.environ[name]}
