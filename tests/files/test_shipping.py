"""What --ship takes: where it lands, what is left out, what is refused, and how it is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qsub_py import shipping, store_files
from qsub_py.errors import SpecError, StoreBusy, StoreError
from qsub_py.shipping import Parcel, make_parcels, upload
from qsub_py.store import Store
from qsub_py.store_files import PIECE_BYTES, piece_count, piece_of, ship_name


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a submit directory with some files."""
    root = tmp_path / "submit"
    for path in ("code/a.py", "code/deep/b.py", "data/big.bin", "data/raw/1", "run.sh", ".hid"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def places(parcels: tuple[Parcel, ...]) -> set[str]:
    """Return the files as they will lie in the private directory."""
    found = set()
    for parcel in parcels:
        for item in parcel.items:
            if item.entry.kind != "d":
                parts = ("" if parcel.ship.name == "." else parcel.ship.name, item.entry.path)
                found.add("/".join(part for part in parts if part))
    return found


def made(base: Path, *paths: str, **options: Any) -> set[str]:
    return places(make_parcels(paths, base=str(base), **options))


def test_where_things_land(base: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("x")
    assert made(base, "code") == {"code/a.py", "code/deep/b.py"}
    assert made(base, "code/deep", "run.sh") == {"code/deep/b.py", "run.sh"}
    assert made(base, "../outside") == made(base, str(outside)) == {"outside/x"}
    assert made(base, str(base / "data" / "raw")) == {"data/raw/1"}
    whole = {"code/a.py", "code/deep/b.py", "data/big.bin", "data/raw/1", "run.sh", ".hid"}
    assert made(base, ".") == whole == made(base, ".", "data", "./code/../code")
    (base / "link").symlink_to(outside)
    assert made(base, "link") == {"link/x"}, "a path that is given is followed"


def test_what_is_left_out(base: Path) -> None:
    assert made(base, ".", ignore=["data/", "*.sh", ".*"]) == {"code/a.py", "code/deep/b.py"}
    assert made(base, "data", ignore=["/data/raw"]) == {"data/big.bin"}
    (base / ".git").mkdir()
    (base / ".git" / "config").write_text("x")
    (base / ".gitignore").write_text("data\n*.sh\n")
    (base / "code" / ".gitignore").write_text("/deep\n")
    assert ".git/config" in made(base, ".")
    kept = {"code/a.py", ".hid", ".gitignore", "code/.gitignore"}
    assert made(base, ".", does_gitignore=True) == kept
    assert made(base, "code", does_gitignore=True) == {"code/a.py", "code/.gitignore"}
    # Who names an ignored folder wants it.
    both = made(base, ".", "data", does_gitignore=True)
    assert both == kept | {"data/big.bin", "data/raw/1"}


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["nothing"], "there is no 'nothing'"),
        ([""], "is empty"),
        (["/"], "the whole of /"),
        (["code/deep", "../other/deep", "../deep"], "would both be 'deep'"),
        ([".", "../other/run.sh"], "would both be 'run.sh'"),
        (["pipe"], "neither a file nor a folder"),
        (["links"], "leads out"),
        (["up"], "leads out"),
    ],
)
def test_what_is_refused(base: Path, paths: list[str], text: str) -> None:
    for path in ("other/deep/x", "deep/x", "other/run.sh"):
        (base.parent / path).parent.mkdir(parents=True, exist_ok=True)
        (base.parent / path).write_text(path)
    if "pipe" in paths:
        os.mkfifo(base / "pipe")
    (base.parent / "linked").mkdir()
    for name, target in (("links", "/etc/hosts"), ("up", "../run.sh")):
        if name in paths:
            (base / name).mkdir()
            (base / name / "l").symlink_to(target)
    with pytest.raises(SpecError, match=text):
        make_parcels(paths, base=str(base))


def test_the_limit_names_the_largest_parts(base: Path) -> None:
    (base / "data" / "big.bin").write_bytes(bytes(3 * 2**20))
    with pytest.raises(SpecError, match=r"3M are more than job.ship_limit \(1M\): 'data/big"):
        make_parcels(["data", "code"], base=str(base), limit=2**20)
    assert made(base, "data", ignore=["big.bin"], limit=2**20) == {"data/raw/1"}


def test_names_that_are_no_text(base: Path) -> None:
    raw = os.fsdecode(b"\xff\x1b[31m")
    (base / "code" / raw).write_text("x")
    assert f"code/{raw}" in made(base, "code")
    os.mkfifo(base / "code" / (raw + "p"))
    with pytest.raises(SpecError) as caught:
        make_parcels(["code"], base=str(base))
    assert "\\xff\\x1b[31mp" in str(caught.value)


def test_the_same_files_are_the_same_parcel(base: Path, tmp_path: Path) -> None:
    first = make_parcels(["code"], base=str(base))[0].ship
    other = tmp_path / "other"
    (other / "code" / "deep").mkdir(parents=True)
    for path in ("deep/b.py", "a.py"):
        (other / "code" / path).write_text(f"code/{path}")
    assert make_parcels(["code"], base=str(other))[0].ship == first
    (other / "code" / "a.py").chmod(0o755)
    assert make_parcels(["code"], base=str(other))[0].ship.sha != first.sha


# -- sending -------------------------------------------------------------------------------


class Direct:
    """Asks a store once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sent = 0

    def ask(self, request: Any) -> Any:
        """Return `request(store)`."""
        return request(self)

    def shipped(self, sha: str) -> set[int]:
        """Return what is there."""
        return self.store.shipped(sha)

    def put_shipped(self, sha: str, pieces: Any) -> None:
        """Send pieces, and count them."""
        self.sent += len(pieces)
        self.store.put_shipped(sha, pieces)

    def drop_shipped(self, sha: str) -> None:
        """Give up."""
        self.store.drop_shipped(sha)


@pytest.fixture
def direct(valkey: Any, prefix: str) -> Direct:
    """Return a client of a cluster of the test's own."""
    return Direct(Store.connect(valkey.url, password=valkey.password, cluster=prefix))


def parcel_of(base: Path, size: int) -> Parcel:
    (base / "data" / "big.bin").write_bytes(os.urandom(size))
    return make_parcels(["data"], base=str(base))[0]


def test_sent_once_and_resumed(base: Path, direct: Direct) -> None:
    parcel = parcel_of(base, 3_000_000)
    count = piece_count(parcel.ship.size)
    upload(direct, [parcel])
    assert direct.sent == count == 12
    name = ship_name(parcel.ship.sha)
    assert b"".join(direct.store.pieces(name, 0, count)) == b"".join(parcel.pieces())
    upload(direct, [parcel])
    assert direct.sent == count
    key = direct.store.keys.blob(name)
    direct.store.link.command("HDEL", key, 3, 7)
    upload(direct, [parcel])
    assert direct.sent == count + 2
    assert 0 < int(direct.store.link.command("TTL", key)) <= 3600


def test_changed_meanwhile(base: Path, direct: Direct) -> None:
    parcel = parcel_of(base, 600_000)
    (base / "data" / "big.bin").write_bytes(os.urandom(600_000))
    with pytest.raises(SpecError, match="changed while it was sent"):
        upload(direct, [parcel])
    assert direct.store.shipped(parcel.ship.sha) == set()


def test_a_full_server_keeps_nothing(
    base: Path, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = parcel_of(base, 900_000), make_parcels(["code"], base=str(base))[0]
    put, calls = direct.store.put_shipped, []

    def fills(sha: str, pieces: Any) -> None:
        calls.append(sha)
        if len(calls) == 2:
            raise store_files.full("redis://x")
        put(sha, pieces)

    monkeypatch.setattr(direct.store, "put_shipped", fills)
    monkeypatch.setattr(shipping, "_PIECES_A_TRIP", 1)
    with pytest.raises(StoreBusy, match="80 %"):
        upload(direct, [second, first])
    for parcel in (first, second):
        assert direct.store.shipped(parcel.ship.sha) == set()


def test_pieces() -> None:
    for data in (b"x" * PIECE_BYTES, os.urandom(PIECE_BYTES), b"y"):
        assert piece_of(store_files.squeeze_piece(data)) == data
    assert len(store_files.squeeze_piece(b"x" * PIECE_BYTES)) < 2000
    import zlib

    for bad in (None, b"", b"R", b"Znot zlib", b"Z" + zlib.compress(bytes(50 * 2**20)),
                b"R" + bytes(PIECE_BYTES + 1)):  # fmt: skip
        with pytest.raises(StoreError):
            piece_of(bad)
