"""The rules of .gitignore, checked against git itself; and the patterns of --fetch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qsub_py.archive_pack import find
from qsub_py.errors import SpecError
from qsub_py.globs import check_glob, matches
from qsub_py.ignore import is_ignored, read_rules

PATHS = [
    "a", "b.o", "lib/a.o", "lib/b.c", "lib/deep/a.o", "lib/deep/x/y.o", "build/x", "src/build/x",
    "doc/a.txt", "doc/b/a.txt", "data/raw/1", "data/2", " a", "a b", "#x", "!x", "x[1]", ".hid/x",
]  # fmt: skip
LINES = st.sampled_from([
    "*.o", "/a", "a", "build/", "/build/", "lib/*", "!lib/b.c", "lib/**", "**/build", "**/a.o",
    "doc/**/a.txt", "data/raw", "data/*", "!data/2", "x[[]1]", "\\#x", "\\!x", "# no", "", "  ",
    "a\\ b", "[a-b].o", "[!a].o", "lib/deep/", "deep", "/*", "!/lib", "l?b", "*/a.o", "**",
    "x/y.o", ".*", "lib/*/a.o", "[[:alpha:]].o", "a*", "doc/b/", "*.txt/", "nothing/", "**/",
])  # fmt: skip


def make(root: Path) -> None:
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")


def ours(root: Path, rules: list[str], inner: list[str]) -> set[str]:
    """Return what is left of the paths, walked as shipping does."""
    top = read_rules(rules)
    found = set()

    def walk(at: str, above: list[object]) -> None:
        here = [*above, *(read_rules(inner, "lib") if at == "lib" else [])]
        for name in os.listdir(root / at):
            path = f"{at}/{name}" if at else name
            is_folder = (root / path).is_dir()
            if name in (".git", ".gitignore") or is_ignored(path, here, is_folder=is_folder):
                continue
            if is_folder:
                walk(path, here)
            else:
                found.add(path)

    walk("", list(top))
    return found


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here to compare with")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rules=st.lists(LINES, max_size=6), inner=st.lists(LINES, max_size=2))
def test_the_same_as_git(
    tmp_path_factory: pytest.TempPathFactory, rules: list[str], inner: list[str]
) -> None:
    root = tmp_path_factory.mktemp("repo")
    make(root)
    (root / ".gitignore").write_text("\n".join(rules) + "\n")
    (root / "lib" / ".gitignore").write_text("\n".join(inner) + "\n")
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    subprocess.run(["git", "init", "-q", str(root)], check=True, env=env)
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True, env=env,
    ).stdout.split("\0")  # fmt: skip
    theirs = {path for path in listed if path and not path.endswith(".gitignore")}
    assert ours(root, rules, inner) == theirs


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("out/*.npz", ["out/a.npz"], ["a.npz", "out/x/a.npz", "out/.a.npz", "out/a.npy"]),
        ("out", ["out/a", "out/x/.y", "out"], ["other/out", "outer"]),
        ("**/*.log", ["a.log", "x/y/b.log"], [".x/b.log", "x/.b.log"]),
        ("a?[0-9]", ["ab1"], ["a1", "ab", "a/1"]),
        (".", ["a", ".b/c"], []),
        ("./x//y/", ["x/y", "x/y/z"], ["x"]),
        ("[!a]", ["b"], ["a"]),
        ("a[", ["a["], ["a"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    checked = check_glob(pattern)
    assert all(matches(path, [checked]) for path in yes)
    assert not any(matches(path, [checked]) for path in no)


@pytest.mark.parametrize("bad", ["", "/abs", "../x", "a/../../b", "a\0b", "**/**/**/**/**/x"])
def test_bad_patterns(bad: str) -> None:
    with pytest.raises(SpecError):
        check_glob(bad)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["*", "**", "lib", "a*", "*.o", "deep", "?", ".*", "x"]),
                min_size=1, max_size=4))  # fmt: skip
def test_what_is_found_is_what_matches(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    make(root)
    pattern = check_glob("/".join(parts))
    assert set(find(str(root), [pattern])) == {path for path in PATHS if matches(path, [pattern])}


def test_links_in_results(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "real").write_text("r")
    (root / "in").symlink_to("real")
    (root / "out").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../secret")
    (tmp_path / "secret").write_text("s")
    (root / "folder").symlink_to("d")
    (root / "dangling").symlink_to("nothing")
    os.mkfifo(root / "pipe")
    assert find(str(root), ["*"]) == ["in", "real"]
