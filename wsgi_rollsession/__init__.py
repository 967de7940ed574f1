"""Sessions that stay logged out: a WSGI middleware with rolling, cookie-only sessions and a revocation set."""

from .errors import (
    ConfigurationError,
    RollSessionError,
    SessionCommitted,
    SessionConflict,
    SessionTooLarge,
    SessionValueError,
    StoreUnavailable,
)
from .keys import generate_key
from .middleware import RollSession
from .policy import Ended
from .session import Session
from .sessions import Sessions

__all__ = [
    "ConfigurationError",
    "Ended",
    "RollSession",
    "RollSessionError",
    "Session",
    "SessionCommitted",
    "SessionConflict",
    "SessionTooLarge",
    "SessionValueError",
    "Sessions",
    "StoreUnavailable",
    "generate_key",
]
