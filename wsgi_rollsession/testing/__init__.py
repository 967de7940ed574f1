"""For tests: of applications that use the sessions, and of revocation stores (``testing.stores``)."""
