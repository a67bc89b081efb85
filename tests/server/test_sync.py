"""The process beside the server that puts its files on the disk."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from qsub_py import server_sync


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of what is synced, in order."""
    names: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: names.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
    )
    return names


def test_syncs_what_changed_and_nothing_else(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "a.1.incr.aof").write_text("x")
    (folder / "a.1.base.rdb").write_text("x")
    state = server_sync.sync(str(tmp_path), {})
    assert synced == ["a.1.incr.aof", "appendonlydir"]
    state = server_sync.sync(str(tmp_path), state)
    assert len(synced) == 2
    with (folder / "a.1.incr.aof").open("a") as file:
        file.write("y")
    server_sync.sync(str(tmp_path), state)
    assert synced[2:] == ["a.1.incr.aof"]


def test_a_rewrite_brings_a_new_file(tmp_path: Path, synced: list[str]) -> None:
    old, new = tmp_path / "a.1.incr.aof", tmp_path / "a.2.incr.aof"
    old.write_text("x")
    state = server_sync.sync(str(tmp_path), {})
    new.write_text("y")
    old.unlink()
    server_sync.sync(str(tmp_path), state)
    assert synced == ["a.1.incr.aof", tmp_path.name, "a.2.incr.aof", tmp_path.name]


def test_the_single_file_of_old_servers(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_text("x")
    assert server_sync.append_only_files(str(tmp_path)) == [str(tmp_path / "appendonly.aof")]
    assert server_sync.append_only_files(str(tmp_path / "gone")) == []


def test_ends_with_its_server_and_syncs_once_more(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "a.aof").write_text("x")
    child = subprocess.Popen(["sleep", "0.2"])
    began_at = time.monotonic()
    server_sync.main(str(tmp_path), child.pid)
    assert time.monotonic() - began_at < server_sync.INTERVAL_S  # it saw the end, did not poll
    child.wait()
    assert synced == ["a.aof", tmp_path.name]


def test_without_pidfd_it_asks_once_a_second(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr(server_sync, "INTERVAL_S", 0.01)
    child = subprocess.Popen(["true"])
    child.wait()
    server_sync.main(str(tmp_path), child.pid)
