"""Sessions that stay logged out: a WSGI middleware with rolling, cookie-only sessions and a revocation set."""
