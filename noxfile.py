"""The suite on every supported Python that this machine has: `nox`, or `nox -s tests-3.12`. Optional: see Makefile."""

import nox

nox.options.error_on_missing_interpreters = False  # named as skipped in nox's summary
nox.options.default_venv_backend = "venv"

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
PYTEST = ["python", "-m", "pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Everything but the tests marked slow."""
    session.install("-q", ".[test]")
    run(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The same, with the oldest dependencies that setup.py allows."""
    session.install("-q", "-c", "requirements/lowest.txt", ".[test]")
    run(session)


def run(session: nox.Session) -> None:
    session.run("python", "tests/fetch_redis.py", session.bin, silent=True)
    session.run("python", ".ci/twice.py", *PYTEST, *session.posargs)
