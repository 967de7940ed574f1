"""README.md and docs: links lead somewhere, names are those of the code, and what is there to be copied works."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from paste.deploy import loadapp
from webob import Request

from wsgi_rollsession import RollSession, generate_key
from wsgi_rollsession.cli import main
from wsgi_rollsession.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
OPTIONS = {field.name for field in fields(Settings)}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """What headings can be linked to, as code hosts derive it from their texts."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page):
    """The command lines of a page that begin with ``rollsession``, in blocks and in code spans."""
    text = page.read_text("utf-8")
    spans = [span for span in re.findall(r"`([^`\n]+)`", prose(page)) if span.startswith("rollsession ")]
    return [*spans, *re.findall(r"\brollsession (?:keygen|inspect|revoke|status|demo)\b[^`\n)]*", text)]


@each_page
def test_links(page):
    """Every relative link leads to a file, and to a heading of it if it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_page
def test_files_and_targets(page):
    """Files of the repository, modules to run and targets of make that a page names are there."""
    text = page.read_text("utf-8")
    for name in re.findall(r"\b(?:tests|docs|benchmarks|wsgi_rollsession)/[\w/-]+\.\w+", text):
        assert (ROOT / name).exists() or (page.parent / name).exists(), name
    for name in re.findall(r"python -m ((?:benchmarks|wsgi_rollsession)[\w.]*)", text):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name
    makefiles = (ROOT / "Makefile").read_text() + (ROOT / "benchmarks" / "bench.mk").read_text()
    for name in re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{name}:", makefiles, re.MULTILINE), name


@each_page
def test_options_of_the_command(page, capsys):
    """Every ``rollsession`` command that a page shows exists, with the options that it shows."""
    for line in commands(page):
        name, *words = line.split()[1:]
        if name.startswith("-"):
            continue
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        known = capsys.readouterr().out
        assert stopped.value.code == 0, line
        for option in re.findall(r"--[a-z-]+", " ".join(words)):
            assert option in known, line


@each_page
def test_python_compiles(page):
    """Every snippet is Python."""
    for source in blocks(page, "python"):
        compile(source, str(page), "exec")


@each_page
def test_option_names(page):
    """The options that snippets give to the filter are those of the settings, and no other text misspells one."""
    for source in [*blocks(page, "python"), *blocks(page, "ini")]:
        for call in re.findall(r"RollSession\((.*?)^\)|^\[filter:\w+\]\nuse = .*?\n(.*?)\n\n", source, re.M | re.S):
            names = re.findall(r"^ *(\w+) ?= ?", "".join(call), re.MULTILINE)
            assert set(names) <= OPTIONS | {"keys_env"}, names
    for name in re.findall(r"`([a-z_]+)=[^`]*`", prose(page)):  # a store's URL has other options
        assert name in OPTIONS or not get_close_matches(name, OPTIONS, cutoff=0.8), name


def test_every_option_has_its_section():
    """docs/configuration.md has one section for each option, in the order of the settings, and no other."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [field.name for field in fields(Settings)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, importable, and a key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ROLLSESSION_KEYS", generate_key())
    return tmp_path


def visit(application, jar, path):
    """What a browser with these cookies shows, redirections followed."""
    response = Request.blank(path, cookies=jar).get_response(application)
    for header in response.headers.getall("Set-Cookie"):
        name, _, value = header.partition(";")[0].partition("=")
        jar[name] = value
        if not value:
            del jar[name]
    return visit(application, jar, response.location) if response.location else response.text


def test_quickstart(folder):
    """The application of the quickstart answers as the page says, and logs out everywhere."""
    page = ROOT / "docs" / "quickstart.md"
    (folder / "hello.py").write_text(blocks(page, "python")[0])
    application, jar = run_path("hello.py")["wrapped"], {}
    try:
        shown = "".join(visit(application, jar, path) for path in ("/", "/login", "/logout"))
        assert [shown] == blocks(page, "text")
        assert visit(application, jar, "/login") == "42, visit 2\n"
        assert visit(application, jar, "/logout-everywhere") == "nobody, visit 1\n"
    finally:
        application.close()


def test_readme(folder):
    """The filter of README.md wraps an application."""
    source = blocks(ROOT / "README.md", "python")[0]
    names = {"application": lambda environ, start_response: []}
    exec(source, names)
    assert isinstance(names["application"], RollSession)
    names["application"].close()


def test_paste_deploy(folder):
    """The ini file and the application of docs/deploying.md work together."""
    page = ROOT / "docs" / "deploying.md"
    (folder / "production.ini").write_text(blocks(page, "ini")[0])
    (folder / "myapp.py").write_text(blocks(page, "python")[0])
    try:
        application, jar = loadapp(f"config:{folder}/production.ini"), {}
    finally:
        sys.modules.pop("myapp", None)
    assert visit(application, jar, "/") + visit(application, jar, "/") == "visit 1\nvisit 2\n"
    assert (folder / "revocations.db").exists()
    application.close()


TESTING = ROOT / "docs" / "testing.md"
TESTS_SHOWN = re.findall(r"^def (test_\w+)", "".join(blocks(TESTING, "python")), re.MULTILINE)


@pytest.mark.parametrize("name", TESTS_SHOWN)
def test_testing(folder, name):
    """Each test that docs/testing.md shows passes, of the application that it shows."""
    shop, *shown = blocks(TESTING, "python")
    (folder / "shop.py").write_text(shop)
    names: dict[str, Any] = {}
    try:
        exec("".join(shown), names)
    finally:
        sys.modules.pop("shop", None)
    names[name]()
