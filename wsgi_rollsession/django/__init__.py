"""Django: ``request.session`` that stays logged out. In settings.py:

    MIDDLEWARE = […, "wsgi_rollsession.django.SessionMiddleware", …]   # in place of Django's
    INSTALLED_APPS = […, "wsgi_rollsession.django"]                    # for the system checks
    ROLLSESSION = {
        "keys": os.environ["ROLLSESSION_KEYS"],
        "revocations": "sqlite:////var/lib/shop/revocations.db",
    }

Django's ``login()`` and ``logout()`` are a login and a logout. docs/django.md says what else holds.
"""

from .configuration import revoke_user, sessions
from .middleware import SessionMiddleware
from .store import SessionStore

__all__ = ["SessionMiddleware", "SessionStore", "revoke_user", "sessions"]
