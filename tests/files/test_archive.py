"""Archives: the same files make the same bytes and come back as they were; hostile ones do not."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qsub_py import archive, archive_unpack
from qsub_py.archive import HEAD, MAGIC, ArchiveError, Entry
from qsub_py.archive_pack import archive_size, item_of, ordered, stream
from qsub_py.archive_unpack import Archive


def pack(root: Path, target: Path) -> bytes:
    """Pack all of a folder into a file."""
    items = [item_of("", str(root), os.lstat(root))]
    for path in root.rglob("*"):
        items.append(item_of(str(path.relative_to(root)), str(path), os.lstat(path)))
    items = ordered(items)
    data = b"".join(stream(items))
    assert len(data) == archive_size(items)
    target.write_bytes(data)
    return data


def unpack(path: Path, root: Path, name: str = ".") -> None:
    root.mkdir(exist_ok=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Archive(str(path)) as opened:
            opened.unpack(fd, name)
    finally:
        os.close(fd)


def tree(root: Path) -> dict[str, Any]:
    """Return what is in a folder: path -> mode and content."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        status = os.lstat(path)
        name = str(path.relative_to(root))
        if stat.S_ISLNK(status.st_mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            found[name] = ("folder", status.st_mode & 0o777)
        else:
            found[name] = (status.st_mode & 0o777, path.read_bytes())
    return found


def forged(rows: list[list[Any]], data: bytes = b"") -> bytes:
    """Return an archive with this index, which nobody checked."""
    index = json.dumps(rows).encode()
    return HEAD.pack(MAGIC, len(index)) + index + data


names = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 100)
raw_names = st.binary(min_size=1, max_size=12).map(
    lambda raw: os.fsdecode(raw.replace(b"/", b"_").replace(b"\0", b"_"))
).filter(lambda name: name not in (".", ".."))  # fmt: skip
trees = st.recursive(
    st.tuples(st.binary(max_size=100) | st.just(b"x" * 70_000), st.sampled_from([0o644, 0o755])),
    lambda inner: st.dictionaries(names | raw_names, inner, max_size=4),
    max_leaves=12,
)


def build(root: Path, content: Any) -> None:
    root.mkdir()
    for name, inner in content.items():
        if isinstance(inner, dict):
            build(root / name, inner)
        else:
            (root / name).write_bytes(inner[0])
            (root / name).chmod(inner[1])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.dictionaries(names | raw_names, trees, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    tmp = tmp_path_factory.mktemp("trip")
    build(tmp / "from", content)
    first = pack(tmp / "from", tmp / "arc")
    assert pack(tmp / "from", tmp / "again") == first
    unpack(tmp / "arc", tmp / "to", "given/name")
    assert tree(tmp / "to" / "given" / "name") == tree(tmp / "from")


def test_links_modes_and_a_single_file(tmp_path: Path) -> None:
    root = tmp_path / "from"
    (root / "a" / "b").mkdir(parents=True)
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "a" / "secret").write_text("s")
    (root / "a" / "secret").chmod(0o400)
    (root / "a" / "b" / "up").symlink_to("../../run")
    (root / "whole").symlink_to("a/b")
    (root / "dangling").symlink_to("a/nothing")
    pack(root, tmp_path / "arc")
    unpack(tmp_path / "arc", tmp_path / "to")
    assert tree(tmp_path / "to") == tree(root)
    file = root / "run"
    (tmp_path / "one").write_bytes(b"".join(stream([item_of("", str(file), os.lstat(file))])))
    unpack(tmp_path / "one", tmp_path / "alone", "x/y.sh")
    assert (tmp_path / "alone" / "x" / "y.sh").read_text() == "#!/bin/sh\n"
    with pytest.raises(ArchiveError, match="needs a name"):
        unpack(tmp_path / "one", tmp_path / "nameless")


D, F = ["", "d", 0o755, 0, ""], "f"
ATTACKS: dict[str, tuple[list[list[Any]], str]] = {
    "absolute": ([D, ["/etc/x", F, 0o644, 0, ""]], "no path below"),
    "up": ([D, ["../x", F, 0o644, 0, ""]], "no path below"),
    "up inside": ([D, ["a", "d", 0o755, 0, ""], ["a/../../x", F, 0o644, 0, ""]], "no path below"),
    "dot": ([D, ["./x", F, 0o644, 0, ""]], "no path below"),
    "empty part": ([D, ["a", "d", 0o755, 0, ""], ["a//b", F, 0o644, 0, ""]], "no path below"),
    "nul": ([D, ["a\0b", F, 0o644, 0, ""]], "no path below"),
    "no root": ([["a", F, 0o644, 0, ""]], "no root"),
    "root is a link": ([["", "l", 0, 0, "/etc"]], "no root"),
    "nothing": ([], "no root"),
    "device": ([D, ["a", "c", 0o644, 0, ""]], "neither a file"),
    "fifo": ([D, ["a", "p", 0o644, 0, ""]], "neither a file"),
    "set-user-id": ([D, ["a", F, 0o4755, 0, ""]], "mode"),
    "twice": ([D, ["a", F, 0o644, 0, ""], ["a", F, 0o644, 0, ""]], "twice"),
    "twice, as a link": ([D, ["a", F, 0o644, 0, ""], ["a", "l", 0, 0, "b"]], "twice"),
    "out of order": ([D, ["b", F, 0o644, 0, ""], ["a", F, 0o644, 0, ""]], "order"),
    "below a link": ([D, ["a", "l", 0, 0, "b"], ["a/x", F, 0o644, 0, ""]], "no folder"),
    "below a file": ([D, ["a", F, 0o644, 0, ""], ["a/x", F, 0o644, 0, ""]], "no folder"),
    "below nothing": ([D, ["a/x", F, 0o644, 0, ""]], "no folder"),
    "absolute link": ([D, ["a", "l", 0, 0, "/etc/passwd"]], "leads out"),
    "link up": ([D, ["a", "l", 0, 0, "../x"]], "leads out"),
    "link down and up": ([D, ["a", "l", 0, 0, "b/../../x"]], "leads out"),
    "link by a link": (
        [D, ["p", "d", 0o755, 0, ""], ["p/q", "d", 0o755, 0, ""], ["p/q/l", "l", 0, 0, "../.."],
         ["x", "l", 0, 0, "p/q/l/../etc"]],
        "leads out",
    ),
    "circle": ([D, ["a", "l", 0, 0, "b"], ["b", "l", 0, 0, "a"]], "circle"),
    "link to nothing": ([D, ["a", "l", 0, 0, ""]], "leads to"),
    "file with a target": ([D, ["a", F, 0o644, 0, "b"]], "leads to"),
    "folder with a size": ([["", "d", 0o755, 5, ""]], "size"),
    "size below 0": ([D, ["a", F, 0o644, -1, ""]], "size"),
    "huge size": ([D, ["a", F, 0o644, 2**60, ""]], "size"),
    "more than there is": ([D, ["a", F, 0o644, 10, ""]], "its files need"),
    "long name": ([D, ["n" * 300, F, 0o644, 0, ""]], "too long"),
    "not text": ([D, [5, F, 0o644, 0, ""]], "damaged"),
    "true for a size": ([D, ["a", F, 0o644, True, ""]], "damaged"),
    "too few words": ([D, ["a", F]], "damaged"),
    "lone surrogate": ([D, ["\ud800", F, 0o644, 0, ""]], "no file name"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_archives_make_nothing(tmp_path: Path, attack: str) -> None:
    rows, text = ATTACKS[attack]
    (tmp_path / "arc").write_bytes(forged(rows))
    with pytest.raises(ArchiveError, match=text):
        unpack(tmp_path / "arc", tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arc", "to"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"QSUB", b"PK\3\4" + bytes(20), HEAD.pack(MAGIC, 2**40), HEAD.pack(MAGIC, 100) + b"[]",
        HEAD.pack(MAGIC, 4) + b"nope", HEAD.pack(MAGIC, 2) + b"{}",
        HEAD.pack(MAGIC, 200_000) + b"[" * 200_000, forged([D]) + b"more",
    ],
)  # fmt: skip
def test_damaged_archives(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "arc").write_bytes(data)
    with pytest.raises(ArchiveError):
        unpack(tmp_path / "arc", tmp_path / "to")


def test_nothing_that_is_there_is_touched(tmp_path: Path) -> None:
    """A link or a file in the way ends it; nothing is written through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("mine")
    (tmp_path / "arc").write_bytes(forged([D, ["a", "d", 0o755, 0, ""], ["a/x", F, 0o644, 0, ""]]))
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a").symlink_to(outside)
    with pytest.raises(OSError):
        unpack(tmp_path / "arc", tmp_path / "to")
    (tmp_path / "to" / "a").unlink()
    (tmp_path / "to" / "a").mkdir()
    (tmp_path / "to" / "a" / "x").symlink_to(outside / "x")
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "arc", tmp_path / "to")
    assert (outside / "x").read_text() == "mine"


def test_bad_names_are_refused_before_anything(tmp_path: Path) -> None:
    (tmp_path / "arc").write_bytes(forged([D]))
    for name in ("..", "/etc", "a/../..", "", "a//b"):
        with pytest.raises(ArchiveError):
            unpack(tmp_path / "arc", tmp_path / "to", name)


def test_what_cannot_travel_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match="pipe"):
        item_of("pipe", str(tmp_path / "pipe"), os.lstat(tmp_path / "pipe"))
    with pytest.raises(ArchiveError, match="leads out"):
        archive.pack_index([Entry("", "d", 0o755), Entry("out", "l", target="../x")])


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    item = item_of("", str(path), os.lstat(path))
    for now in (b"123", b"1234567"):
        path.write_bytes(now)
        with pytest.raises(ArchiveError, match="changed"):
            list(stream([item]))
    path.write_bytes(b"123")
    assert b"".join(stream([item], is_strict=False)).endswith(b"123\0\0")
    path.unlink()
    assert b"".join(stream([item], is_strict=False)).endswith(bytes(5))
    with pytest.raises(ArchiveError, match="cannot read"):
        list(stream([item]))


def test_without_copy_file_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> int:
        raise OSError(38, "Function not implemented")

    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "f").write_bytes(os.urandom(200_000))
    pack(tmp_path / "from", tmp_path / "arc")
    monkeypatch.setattr(archive_unpack.os, "copy_file_range", missing)
    unpack(tmp_path / "arc", tmp_path / "to")
    assert tree(tmp_path / "to") == tree(tmp_path / "from")
