"""What the installed distribution promises to pip, Paste Deploy, type checkers and users of the command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, entry_points
from importlib.resources import files
from pathlib import Path

import pytest
from paste.deploy import loadapp, loadfilter

import wsgi_rollsession
from wsgi_rollsession import RollSession, generate_key

ROOT = Path(__file__).parent.parent
PIPELINE = """
[pipeline:main]
pipeline = session application

[filter:session]
use = egg:wsgi_rollsession{name}
keys = {key}
revocations = memory://
idle_timeout = 30m
versioned = true

[app:application]
paste.app_factory = {module}:application_factory
"""


def application_factory(global_conf, **options):
    """An application for the pipeline."""

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    return application


def test_requirements_are_few_and_the_python_is_3_10_or_newer():
    """A plain install brings cryptography, redis and WebOb, and refuses Python before 3.10."""
    metadata = distribution("wsgi_rollsession").metadata
    plain = [each for each in metadata.get_all("Requires-Dist") if "extra ==" not in each]
    names = sorted(each.partition(">=")[0].strip().lower() for each in plain)
    assert names == ["cryptography", "redis", "webob"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License"] == "MIT" or metadata["License-Expression"] == "MIT"


def test_the_package_is_marked_as_typed_and_carries_its_data():
    """Type checkers find py.typed, and the demo finds its page."""
    assert files(wsgi_rollsession).joinpath("py.typed").is_file()
    assert files("wsgi_rollsession.demo").joinpath("page.html").is_file()


@pytest.mark.parametrize("name", ["", "#main", "#filter", "#filter_app"])
def test_paste_deploy_finds_the_filter(tmp_path, name):
    """``use = egg:wsgi_rollsession`` in an ini, with or without an entry point's name, wraps the application."""
    ini = tmp_path / "paste.ini"
    ini.write_text(PIPELINE.format(name=name, key=generate_key(), module=__name__))
    application = loadapp(f"config:{ini}")
    assert isinstance(application, RollSession)
    assert application.sessions.settings.idle_s == 1800
    assert application.sessions.settings.versioned is True


def test_paste_deploy_loads_the_filter_alone(tmp_path):
    """The filter can be loaded by itself, for an application that is made elsewhere."""
    ini = tmp_path / "paste.ini"
    ini.write_text(PIPELINE.format(name="", key=generate_key(), module=__name__))
    make = loadfilter(f"config:{ini}", name="session")
    assert isinstance(make(application_factory({})), RollSession)


def test_the_command_is_installed_and_is_the_same_as_the_module():
    """``rollsession`` and ``python -m wsgi_rollsession`` print the distribution's version."""
    (command,) = entry_points(group="console_scripts", name="rollsession")
    script = Path(sys.executable).with_name(command.name)
    for start in ([str(script)], [sys.executable, "-m", "wsgi_rollsession"]):
        printed = subprocess.run([*start, "--version"], check=True, capture_output=True, text=True).stdout
        assert printed.strip() == distribution("wsgi_rollsession").version


def test_public_names_are_sorted_and_exist():
    """``__all__`` is sorted, and everything in it can be imported."""
    assert wsgi_rollsession.__all__ == sorted(wsgi_rollsession.__all__)
    assert all(hasattr(wsgi_rollsession, name) for name in wsgi_rollsession.__all__)


def test_importing_the_package_does_not_import_the_stores_or_the_demo():
    """A store's client library is loaded only by those who name that store's scheme."""
    program = "import sys, wsgi_rollsession; print({'redis', 'sqlite3', 'gunicorn', 'flask'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert printed.stdout.strip() == "set()"


def attributes(module: Path) -> Iterator[tuple[str, str]]:
    """What is taken from other objects in a module: whose, and what."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node.value), node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), each.name) for each in node.names)


#: Adapters to frameworks aside.
CORE = ["arrival", "document", "exchange", "logins", "middleware", "policy", "presented", "response", "session"]


@pytest.mark.parametrize("name", CORE)
def test_the_core_takes_no_private_name_of_another_module(name):
    """What a module of the core uses of others is public; of its own class, another object's may be private."""
    own = {"self", "cls", *({"other"} if name == "document" else {"session"} if name == "session" else ())}
    named_tuples = {"_replace"}
    module = ROOT / "wsgi_rollsession" / f"{name}.py"
    private = {(whose, what) for whose, what in attributes(module) if what.startswith("_") and not what.endswith("__")}
    assert not {what for whose, what in private if whose not in own and what not in named_tuples}


def test_the_filter_alone_knows_wsgi():
    """Outside of the filter, and of Beaker's, nobody starts a response; and what decides knows no environ."""
    texts = {module.stem: module.read_text("utf-8") for module in (ROOT / "wsgi_rollsession").glob("*.py")}
    assert {name for name, text in texts.items() if "start_response" in text} == {"middleware", "beaker"}
    assert {name for name in CORE if "environ" in texts[name]} == {"middleware"}
