"""Each adapter uses its framework, and the core, by public names: what begins with an underscore is its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import wsgi_rollsession

ROOT = Path(wsgi_rollsession.__file__).parent
MODULES = [
    *(ROOT / f"{name}.py" for name in ("beaker", "facade", "migration", "moving", "pyramid")),
    *ROOT.glob("flask/*.py"),
    *ROOT.glob("django/*.py"),
]
#: Of Django: documented, as ``Model._meta``; and what says that its test environment is set up.
OF_DJANGO = {"user._meta", "utils._TestState"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names(path: Path) -> None:
    """Every name with an underscore is the module's own."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = [
        part
        for node in nodes
        if isinstance(node, ast.ImportFrom | ast.Import)
        for name in [*(each.name for each in node.names), getattr(node, "module", None) or ""]
        for part in name.split(".")
    ]
    assert not [name for name in imported if name.startswith("_") and name != "__future__"]
    foreign = {
        ast.unparse(node)
        for node in nodes
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr != "_replace"  # a named tuple's
        and ast.unparse(node.value) not in ("self", "cls", "super()")
    }
    assert foreign <= OF_DJANGO
