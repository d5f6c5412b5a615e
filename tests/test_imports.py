"""Which way imports go: tests import the package, the package no tests; data know nothing of what is drawn of runs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imported(folder):
    """The modules that each file below a folder imports."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield path, node.module or ""
            elif isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)


@pytest.mark.parametrize(
    ("folder", "never"),
    [
        ("cbseg", "tests"),
        ("cbseg", "experiments"),
        ("experiments", "tests"),
        ("cbseg/data", "cbseg.overlays"),
        ("cbseg/losses", "cbseg.config"),
        ("cbseg/models", "cbseg.config"),
    ],
)
def test_what_is_below_imports_nothing_from_above(folder, never):
    wrong = [path for path, module in imported(folder) if module == never or module.startswith(f"{never}.")]
    assert wrong == []
