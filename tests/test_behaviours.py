"""docs/behaviours.md names tests that exist, and every test says what it shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "behaviours.md").read_text("utf-8")


def test_the_page_names_tests_that_exist() -> None:
    """Every behaviour on the page has a test, and every test named there exists."""
    lines = [line for line in PAGE.splitlines() if line.startswith("* ")]
    assert lines
    for line in lines:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", line)
        assert named, line
        for file, test in named:
            assert f"def {test}(" in (TESTS / file).read_text("utf-8"), (file, test)


def test_every_test_states_its_behaviour() -> None:
    """Every test function has a docstring: one sentence, which states the behaviour."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}::{node.name}"
