"""The entry of INSTALLED_APPS: it registers the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register


class RollSessionConfig(AppConfig):
    """Sessions that stay logged out. Has no models."""

    name = "wsgi_rollsession.django"
    label = "rollsession"
    verbose_name = "wsgi_rollsession"

    def ready(self) -> None:
        from .checks import check_asgi, check_lifetime, check_middleware, check_options, check_test_engine

        for check in (check_options, check_middleware, check_asgi, check_test_engine, check_lifetime):
            register(check, "security")
