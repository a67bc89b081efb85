"""What runs on a host before anything of ours is there."""

from __future__ import annotations

from pathlib import Path

from qsub_py.node import bootstrap


def test_a_bundle_that_was_cleaned_away_is_asked_for_again(tmp_path: Path) -> None:
    assert not bootstrap.hold(str(tmp_path / "0123456789abcdef"))
    folder = tmp_path / "fedcba9876543210"
    folder.mkdir()
    assert not bootstrap.hold(str(folder))  # its files are gone
    (folder / "qsub_py").mkdir()
    assert bootstrap.hold(str(folder))
