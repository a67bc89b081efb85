"""The import rule: a module knows only the layers below its own (CONTRIBUTING, Layers).

Read from the syntax trees, so an import inside a function counts too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import qsub_py

ROOT = Path(qsub_py.__file__).parent

#: Layer 0: pure.
PURE = {
    *("errors", "model", "units", "arrays", "text", "keys", "signing", "outcomes", "culprit"),
    *("failures", "reasons", "sweep", "dialect", "hosts", "globs", "ignore", "notes"),
    *("policy", "nodeinfo", "proof", "waits", "inputs", "account", "estimate", "states"),
    *("terms", "terms_text", "limits"),
}
PURE_FAMILIES = {"sweep", "dialect"}
#: Layer 1: adapters, each a family of modules (config, config_keys, ...) that others are not in.
FAMILIES = {"config", "server", "store", "payload", "ssh", "bundle", "archive"}
RELATIVES = {"resp": "store", "byvalue": "payload"}
#: Layer 2 that both the client's and the node's side use.
SHARED = {"points", "reach", "upstream", "activation", "tunnel_node", "serving", "periodic"}
#: Who alone may import what from outside.
OWNERS = {"redis": "store", "paramiko": "ssh", "rich": "render", "click": "cli",
          "cronsim": "periodic", "joblib": "joblib"}  # fmt: skip
#: What a pure module has no use for.
IMPURE = {"socket", "subprocess", "threading", "tempfile", "shutil", "selectors", "signal"}


def module_names() -> list[str]:
    """Return every module without the package's name: `units`, `node.keeper`, `` for the root."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix("__init__").rstrip(".") for path in paths)


@cache
def imports(name: str, *, for_types: bool = True) -> frozenset[str]:
    """Return what a module imports: `.units` for our own, `redis` for others'.

    Without `for_types` what only a type checker reads is left out.
    """
    path = ROOT.joinpath(*name.split("."))
    file = path.with_suffix(".py") if name and not path.is_dir() else path / "__init__.py"
    package = f"qsub_py.{name}".rpartition(".")[0] if file.name != "__init__.py" else "qsub_py"
    tree = ast.parse(file.read_text())
    if not for_types:
        tree.body = [node for node in tree.body if not _is_for_types(node)]
    return frozenset(_imports(tree, package))


def _is_for_types(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_named(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield _named(base)
            if base.split(".")[0] == "qsub_py":
                found = (f"{base}.{alias.name}" for alias in node.names)
                yield from (_named(name) for name in found if _named(name)[1:] in modules())


def _named(name: str) -> str:
    first, _, rest = name.partition(".")
    return f".{rest}" if first == "qsub_py" else first


@cache
def modules() -> frozenset[str]:
    return frozenset(module_names())


def family(name: str) -> str:
    first = name.split(".")[0]
    return RELATIVES.get(first, first.split("_")[0])


def level(name: str) -> int:
    first = name.split(".")[0]
    if first in PURE or family(name) in PURE_FAMILIES:
        return 0
    if first in RELATIVES or family(name) in FAMILIES:
        return 1
    return 3 if first in ("", "cli", "__main__") or family(name) == "render" else 2


def ours(name: str, *, for_types: bool = True) -> list[str]:
    """Return which of our modules a module imports; the lazy root package counts for nothing."""
    found = imports(name, for_types=for_types)
    return sorted(other[1:] for other in found if other.startswith(".") and other != ".")


@pytest.mark.parametrize("name", module_names())
def test_imports_only_from_below(name: str) -> None:
    for other in ours(name):
        assert level(other) <= level(name), f"{name} (layer {level(name)}) imports {other}"
        if level(other) == level(name) == 1:
            assert family(other) == family(name), f"{name} imports its sibling {other}"


@pytest.mark.parametrize("name", module_names())
def test_libraries_stay_with_their_owner(name: str) -> None:
    for library in imports(name) & OWNERS.keys():
        assert OWNERS[library] == family(name), f"{name} imports {library}"
    if level(name) == 0:
        outside = {other for other in imports(name) if not other.startswith(".")}
        assert outside <= sys.stdlib_module_names, f"{name} is pure"
        assert not outside & IMPURE, f"{name} is pure"


@pytest.mark.parametrize("name", module_names())
def test_client_and_node_meet_only_in_the_server(name: str) -> None:
    if level(name) != 2:
        return
    is_node = name.startswith("node")
    for other in ours(name):
        if level(other) == 2 and other not in SHARED:
            assert other.startswith("node") == is_node, f"{name} imports {other}"


def reached(name: str) -> set[str]:
    """Return a module with all of ours that run when it does."""
    found, left = set(), [name]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += [other for other in ours(one, for_types=False) if other in modules()]
    return found


#: The keeper knows the runner, whose own process alone imports cloudpickle.
STANDARD_ONLY: dict[str, set[str]] = {
    "node.keeper": {"cloudpickle"},
    "node.runner": {"cloudpickle"},
    "server_sync": set(),
    "tunnel_supervisor": set(),
    #: Before Python 3.11 a configuration file is read by tomli, which comes in the bundle.
    "tunnel_node": {"tomli", "tomllib"},
    "node.prelude": set(),
}


@pytest.mark.parametrize("name", sorted(STANDARD_ONLY.keys() & set(module_names())))
def test_needs_the_standard_library_only(name: str, tmp_path: Path) -> None:
    for one in reached(name):
        outside = {other for other in imports(one) if not other.startswith(".")}
        more = outside - sys.stdlib_module_names
        assert more <= STANDARD_ONLY[name], f"{name} comes to {one}"
    (tmp_path / "qsub_py").symlink_to(ROOT)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import qsub_py.{name}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_there_is_no_circle_in_a_layer() -> None:
    for name in module_names():
        for other in ours(name, for_types=False):
            if other in modules() and other != name and level(other) < 3:
                assert name not in reached(other), f"{name} and {other} import each other"
