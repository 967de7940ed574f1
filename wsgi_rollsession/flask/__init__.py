"""``flask.session`` that stays logged out: ``RollSessions(app)``. docs/flask.md begins with an example.

Flask -> extension, configuration -> interface (opens and saves, one request) -> mapping (``flask.session``)
        -> tagged (values that JSON does not carry), login (Flask-Login) -> the core
"""

from typing import cast

import flask

from .extension import RollSessions
from .interface import FlaskSessionInterface
from .mapping import FlaskSession

__all__ = ["FlaskSession", "FlaskSessionInterface", "RollSessions", "session"]

#: ``flask.session``, for type checkers, which know nothing of ``regenerate()`` and the others there.
session = cast(FlaskSession, flask.session)
