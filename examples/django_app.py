"""A Django project in one file: log in, count, log out; a copied cookie is worth nothing afterwards.

    pip install '.[django]'                     # in a checkout
    python examples/django_app.py 8000          # then http://localhost:8000/, as alice, password wonderland

or, with several processes: ``python examples/django_app.py --prepare``, then ``gunicorn -w 2 examples.django_app``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import gettempdir

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from wsgi_rollsession import generate_key

FOLDER = Path(os.environ.get("EXAMPLE_FOLDER", Path(gettempdir()) / "rollsession-django-example"))
FOLDER.mkdir(exist_ok=True)


def kept(name: str) -> str:
    """A secret of this example: made once, and kept in a file. Yours is where your other secrets are."""
    file = FOLDER / name
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(generate_key())
    return file.read_text()


HOME = """
<p>{{ user.username|default:"nobody" }}, visit {{ visits }}</p>
{% if user.is_authenticated %}
<form method="post" action="/logout/">{% csrf_token %}<button>Log out</button></form>
{% else %}<a href="/login/">Log in</a>{% endif %}
"""
LOGIN = '<form method="post">{% csrf_token %}{{ form.as_p }}<button>Log in</button></form>'

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "users.db"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "wsgi_rollsession.django"],
    LOGIN_REDIRECT_URL="/",
    LOGOUT_REDIRECT_URL="/",
    MIDDLEWARE=[
        "wsgi_rollsession.django.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    ROLLSESSION={
        "keys": kept("session-keys"),
        "revocations": f"sqlite:///{FOLDER / 'revocations.db'}",
        "idle_timeout": "30m",
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY=kept("secret-key"),
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": ["django.contrib.auth.context_processors.auth"],
                "loaders": [
                    ("django.template.loaders.locmem.Loader", {"home.html": HOME, "registration/login.html": LOGIN})
                ],
            },
        }
    ],
)
application = get_wsgi_application()  # sets Django up

from django.contrib.auth.models import User  # noqa: E402
from django.contrib.auth.views import LoginView, LogoutView  # noqa: E402


def home(request: HttpRequest) -> HttpResponse:
    """Who is there, and how often."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return render(request, "home.html", {"visits": request.session["visits"]})


urlpatterns = [path("", home), path("login/", LoginView.as_view()), path("logout/", LogoutView.as_view())]


def prepare() -> None:
    """The tables, and alice."""
    call_command("check", fail_level="WARNING")
    call_command("migrate", verbosity=0)
    if not User.objects.filter(username="alice").exists():
        User.objects.create_user("alice", password="wonderland")


if __name__ == "__main__":
    from wsgiref.simple_server import make_server

    prepare()
    if "--prepare" not in sys.argv:
        with make_server("localhost", int(sys.argv[1]) if len(sys.argv) > 1 else 8000, application) as server:
            print(f"Django {django.get_version()} on http://localhost:{server.server_port}/", flush=True)
            server.serve_forever()
