"""``python -m wsgi_rollsession``: the same as the ``rollsession`` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
