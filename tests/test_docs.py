"""README.md and docs: links lead somewhere, names are those of the code, and what is there to be copied works."""

from __future__ import annotations

import ast
import re
import sys
import time
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from paste.deploy import loadapp
from webob import Request

from wsgi_rollsession import RollSession, Session, StoreUnavailable, generate_key
from wsgi_rollsession.cli import main
from wsgi_rollsession.cookies import PAIRS
from wsgi_rollsession.document import encode
from wsgi_rollsession.settings import DEFAULTS, Options, Settings
from wsgi_rollsession.standing import WITHOUT, Outage, Without

from .browser import Browser, Clock, untouched, wrap

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
OPTIONS = list(Options.__annotations__)
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


@pytest.mark.parametrize("name", ["beaker", "django", "flask", "moving", "other-frameworks", "pyramid"])
def test_the_first_snippet_imports_what_it_uses(name: str) -> None:
    """What one types first, at the top of a framework's page, needs nothing but the application that is there."""
    tree = ast.parse(blocks(ROOT / "docs" / f"{name}.md", "python")[0])
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    imported = {alias.asname or alias.name for node in ast.walk(tree) for alias in getattr(node, "names", [])}
    assigned = {each.id for each in names if isinstance(each.ctx, ast.Store)}
    used = {each.id for each in names if isinstance(each.ctx, ast.Load)}
    assert used - imported - assigned <= {"app", "SecurityPolicy"}


@each_page
def test_option_names(page):
    """The options that snippets give to the filter are those of the settings, and no other text misspells one."""
    for source in [*blocks(page, "python"), *blocks(page, "ini")]:
        for call in re.findall(r"RollSession\((.*?)^\)|^\[filter:\w+\]\nuse = .*?\n(.*?)\n\n", source, re.M | re.S):
            names = re.findall(r"^ *(\w+) ?= ?", "".join(call), re.MULTILINE)
            assert set(names) <= {*OPTIONS, "keys_env"}, names
    for name in re.findall(r"`([a-z_]+)=[^`]*`", prose(page)):  # a store's URL has other options
        assert name in OPTIONS or not get_close_matches(name, OPTIONS, cutoff=0.8), name


def test_every_option_has_its_section():
    """docs/configuration.md has one section for each option, in the order of the code, and no other."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == OPTIONS


def test_every_section_states_the_default() -> None:
    """docs/configuration.md begins each section with the default that the code has."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    stated = dict(re.findall(r"^## (\w+)\n(?:Default:? |)(`[^`]+`|\w+)", text, re.MULTILINE))
    for option, default in DEFAULTS.items():
        shown = {True: "`true`", False: "`false`", None: "none", (): "none", time.time: "`time.time`"}
        assert stated[option] == ("a" if option == "renew_after" else shown.get(default, f"`{default}`")), option
    assert set(stated) - set(DEFAULTS) == {"keys", "revocations"}
    assert (stated["keys"], stated["revocations"]) == ("Required", "Required")
    for idle_timeout, renew_after in (("1h", 60), ("5m", 30), (None, 60)):  # a tenth, at most 60 s
        parsed = Settings.parse({"keys": generate_key(), "revocations": "memory://", "idle_timeout": idle_timeout})
        assert parsed.renew_after_ms == renew_after * 1000


def test_the_outage_table_is_that_of_the_code():
    """docs/configuration.md says for every question and policy what ``standing.WITHOUT`` says."""
    words = {
        Without.FAIL: "error",
        Without.SKIP: "not done",
        Without.LAST_KNOWN: "as far as known",
        Without.EXTEND: "extended",
    }
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    header, _, *rows = [
        line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", text.split("## outage")[1], re.M)
    ]
    policies = [Outage(name.strip("`")) for name in header]
    assert set(policies) == set(Outage)
    found = {row[0].partition(":")[0].strip("*"): dict(zip(policies, row[1:], strict=True)) for row in rows}
    assert found == {
        ask.name.lower(): {policy: words[without] for policy, without in row.items()} for ask, row in WITHOUT.items()
    }


def test_header_sizes() -> None:
    """docs/deploying.md says how long a Cookie header is, by the size of the sessions and their number."""
    clock = Clock()
    application = wrap(clock, identity_key="u")

    def presented(data: dict[str, object], size: int) -> dict[str, str]:
        """What a browser holds after a session of *size* bytes of JSON was begun, and rolled."""
        browser = Browser(application, clock)
        data["k"] = "x" * (size - len(encode({**data, "k": ""})))
        browser.do(lambda session: session.update(data))
        clock.advance(120)
        browser.do(untouched)
        return browser.cookies

    text = (ROOT / "docs" / "deploying.md").read_text("utf-8")
    rows = [
        [int(cell) for cell in row.strip("| ").split(" | ")] for row in re.findall(r"^\| \d.*$", text, re.MULTILINE)
    ]
    assert rows
    for size, *stated in rows:
        login = presented({"u": 42}, size)
        slot, session, lease = login.values()
        all_names = [f"__Host-session-{pair}{half}" for pair in "1234" for half in ("", "b")]
        assert [*login] == ["__Host-session-slot", all_names[0], f"{all_names[0]}-lease"]
        sizes = []
        for names in (all_names[:1], [all_names[0], all_names[2]], all_names):
            jar = {"__Host-session-slot": slot} | (presented({}, size) if len(names) == 8 else {})
            jar |= dict.fromkeys(names, session) | {f"{name}-lease": lease for name in names}
            sizes.append(len("; ".join(f"{name}={value}" for name, value in jar.items())))
        assert sizes == stated, size


def test_cookie_names() -> None:
    """docs/deploying.md lists all names that a cookie of ours can have, and no other."""
    cookies = wrap().sessions._site.cookies
    (listed,) = blocks(ROOT / "docs" / "deploying.md", "text")
    sessions = [cookies.anonymous]
    for pair in range(1, PAIRS + 1):
        name = cookies.in_pair(pair)
        sessions += [name, cookies.other_half(name)]
    names = {*sessions, *map(cookies.lease_name, sessions), cookies.slot}
    assert set(re.findall(r"__Host-\S+", listed)) == names


@pytest.mark.parametrize(
    "code", blocks(ROOT / "docs/session.md", "python"), ids=lambda code: code.strip().splitlines()[-1][:40]
)
def test_the_session_piece_by_piece(code: str) -> None:
    """Every example is run as the body of a request in which somebody is logged in."""
    application = wrap(identity_key="user_id", revocations="memory://", amnesia="accept")
    browser = Browser(application, Clock(time.time()))

    def log_in(session: Session) -> None:
        session.regenerate(tags=["user:42", "tenant:7"])
        session["user_id"] = 42

    browser.do(log_in)
    ran = []

    def view(session: Session) -> None:
        exec(code, {"session": session, "application": application})
        ran.append(code)

    browser.do(view)
    assert ran


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, importable, and a key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ROLLSESSION_KEYS", generate_key())
    return tmp_path


def visit(application: Any, jar: dict[str, str], path: str, method: str = "GET") -> str:
    """What a browser with these cookies shows, redirections followed."""
    response = Request.blank(path, cookies=jar, method=method).get_response(application)
    for header in response.headers.getall("Set-Cookie"):
        name, _, value = header.partition(";")[0].partition("=")
        jar[name] = value
        if not value:
            del jar[name]
    return visit(application, jar, response.location) if response.location else response.text


@pytest.fixture
def quickstart(folder: Path) -> Iterator[RollSession]:
    """The application of the quickstart."""
    (folder / "hello.py").write_text(blocks(ROOT / "docs" / "quickstart.md", "python")[0])
    application = run_path("hello.py")["wrapped"]
    yield application
    application.close()


def test_quickstart(quickstart: RollSession) -> None:
    """The commands of the quickstart print what the page says, and it logs out everywhere."""
    text = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    commands = re.findall(r'^    curl -sL -b jar -c jar (-d "" )?http://localhost:8000(/\S*) \| head -1$', text, re.M)
    jar: dict[str, str] = {}
    pages = [visit(quickstart, jar, path, "POST" if posts else "GET") for posts, path in commands]
    shown = "".join(page.splitlines(keepends=True)[0] for page in pages)
    assert [shown] == blocks(ROOT / "docs" / "quickstart.md", "text")
    assert visit(quickstart, jar, "/login", "POST").startswith("42, visit 2\n")
    assert visit(quickstart, jar, "/logout-everywhere", "POST").startswith("nobody, visit 1\n")


def test_a_link_to_the_logout_of_the_quickstart_logs_nobody_out(quickstart: RollSession) -> None:
    """Its login and logout are POST: what a browser fetches ahead, or another site links to, changes nothing."""
    jar: dict[str, str] = {}
    assert visit(quickstart, jar, "/login").startswith("nobody")
    assert visit(quickstart, jar, "/login", "POST").startswith("42")
    assert visit(quickstart, jar, "/logout").startswith("42")
    assert visit(quickstart, jar, "/logout-everywhere").startswith("42")


def test_the_logout_of_the_quickstart_in_an_outage(quickstart: RollSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is shown, and this browser forgets the session, which is alive."""
    jar: dict[str, str] = {}
    visit(quickstart, jar, "/login", "POST")
    copied = dict(jar)

    def fence(keys: object, number: int) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(quickstart.sessions.revocations, "fence", fence)
        assert visit(quickstart, jar, "/logout", "POST").startswith("You may not be logged out")
    assert visit(quickstart, jar, "/").startswith("nobody")
    assert visit(quickstart, copied, "/").startswith("42")


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
