"""The size of things: a function fits on a screen, a module holds one idea."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import qsub_py

MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400

PACKAGE = Path(qsub_py.__file__).parent
CLONE = Path(__file__).parents[2]
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = [CLONE / name for name in ("tests", "examples", "scripts")]
OTHERS = [path for folder in FOLDERS for path in sorted(folder.rglob("*.py"))]


def long_functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{path.name}:{node.lineno} {node.name}: {lines} lines"


def has_future_annotations(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    code = [node for node in body if not isinstance(node, ast.Expr)]
    return not code or (isinstance(code[0], ast.ImportFrom) and code[0].module == "__future__")


def test_functions_fit_on_a_screen() -> None:
    assert [line for path in MODULES + OTHERS for line in long_functions(path)] == []


def test_modules_hold_one_idea() -> None:
    sizes = {path.name: path.read_text().count("\n") for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > MAX_MODULE_LINES} == {}


def test_annotations_cost_nothing() -> None:
    assert [str(path) for path in MODULES + OTHERS if not has_future_annotations(path)] == []
