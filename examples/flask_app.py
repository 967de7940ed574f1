"""A cart, with Flask and Flask-Login. Whoever logs out is out: also a copy of the cookie, and a request in flight.

    pip install '.[flask]' Flask-Login          # in a checkout
    flask --app examples/flask_app.py run

alice's password is "wonderland", bob's is "builder".
"""

from __future__ import annotations

import os
import secrets
from typing import Any

from flask import Flask, flash, redirect, render_template_string, request, url_for
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user

from wsgi_rollsession import StoreUnavailable, generate_key
from wsgi_rollsession.flask import RollSessions, session

PASSWORDS = {"alice": "wonderland", "bob": "builder"}
PAGE = """<!doctype html><title>Cart</title>
{% for message in get_flashed_messages() %}<p><strong>{{ message }}</strong></p>{% endfor %}
<p>{{ current_user.id or "Nobody" }} has {{ session.cart | join(", ") or "nothing" }}.</p>
<form method="post" action="{{ url_for('add') }}"><input name="item" value="tea"> <button>Add</button></form>
{% if current_user.is_authenticated %}
<form method="post" action="{{ url_for('logout') }}"><button>Log out</button></form>
<form method="post" action="{{ url_for('logout_everywhere') }}"><button>Log out everywhere</button></form>
{% else %}
<form method="post" action="{{ url_for('login') }}">
<input name="name" placeholder="alice"> <input name="password" type="password">
<label><input type="checkbox" name="remember"> remember me</label> <button>Log in</button>
</form>
{% endif %}
"""

app = Flask(__name__)
app.config.update(
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
    # Of a site, both are in its configuration: another key at each start logs everybody out.
    ROLLSESSION_KEYS=os.environ.get("ROLLSESSION_KEYS") or generate_key(),
    ROLLSESSION_REVOCATIONS=os.environ.get("ROLLSESSION_REVOCATIONS") or "memory://",
    ROLLSESSION_IDLE_TIMEOUT="14d",  # of who wants to be remembered; of others it is an hour
    ROLLSESSION_ABSOLUTE_TIMEOUT="90d",
    ROLLSESSION_INSECURE_HTTP=True,  # `flask run` has no TLS; a site leaves this out
)
rollsessions = RollSessions(app)
login_manager = LoginManager(app)
login_manager.login_view = "index"


class User(UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    """Somebody with a password."""

    def __init__(self, name: str) -> None:
        self.id = name


@login_manager.user_loader  # type: ignore[untyped-decorator]
def load_user(name: str) -> User | None:
    """For Flask-Login."""
    return User(name) if name in PASSWORDS else None


@app.get("/")
def index() -> str:
    """The cart, and the forms."""
    return render_template_string(PAGE)


@app.post("/add")
def add() -> Any:
    """Put something into the cart. No ``session.modified = True`` is needed."""
    session.setdefault("cart", []).append(request.form["item"])
    return redirect(url_for("index"))


@app.post("/login")
def login() -> Any:
    """As Flask-Login's documentation has it."""
    name = request.form["name"]
    if not secrets.compare_digest(PASSWORDS.get(name, "").encode(), request.form["password"].encode()) or not name:
        flash("Wrong name or password.")
    else:
        login_user(User(name), remember="remember" in request.form)
        flash("Welcome.")
    return redirect(url_for("index"))


@app.post("/logout")
@login_required  # type: ignore[untyped-decorator]
def logout() -> Any:
    """As Flask-Login's documentation has it."""
    logout_user()
    flash("Goodbye.")
    return redirect(url_for("index"))


@app.post("/logout-everywhere")
@login_required  # type: ignore[untyped-decorator]
def logout_everywhere() -> Any:
    """On every device."""
    rollsessions.revoke(f"user:{current_user.id}")
    session.invalidate()  # this session has ended with the others, and takes no message any more: begin another
    flash("Goodbye, everywhere.")
    return redirect(url_for("index"))


@app.errorhandler(StoreUnavailable)
def unconfirmed(error: Exception) -> Any:
    """A logout that was not confirmed is none: say so, and let this browser forget."""
    session.forget()
    return "Logging out could not be confirmed. Close your browser, and try again later.\n", 503
