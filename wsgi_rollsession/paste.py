"""Paste Deploy entry points: ``use = egg:wsgi_rollsession`` in a ``[filter:…]`` section, every option as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .middleware import RollSession


def filter_factory(global_conf: dict[str, str], **options: Any) -> Callable[[Any], RollSession]:
    """``paste.filter_factory``: options -> filter -> application."""
    return lambda application: RollSession(application, **options)


def filter_app_factory(application: Any, global_conf: dict[str, str], **options: Any) -> RollSession:
    """``paste.filter_app_factory``: application and options -> application."""
    return RollSession(application, **options)
