"""``sqlite:///path``: the revocation set of all processes on one host, in a SQLite database.

store (the protocol, locks, breakers) -> files (what is open) -> database (tables, transactions)
                                                              -> generation (the stamp file)
      -> continuity (pure: is this still the same data?)
"""

from .store import SQLiteRevocations

__all__ = ["SQLiteRevocations"]
