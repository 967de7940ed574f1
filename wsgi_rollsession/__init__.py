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
from .session import Session

__all__ = [
    "ConfigurationError",
    "RollSession",
    "RollSessionError",
    "Session",
    "SessionCommitted",
    "SessionConflict",
    "SessionTooLarge",
    "SessionValueError",
    "StoreUnavailable",
    "generate_key",
]
