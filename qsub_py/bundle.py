"""What a host without qsub_py gets: this package and the pure Python it needs, in one zip.

Built once for each content and named by its hash. Knows nothing of hosts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qsub_py.errors import ConfigError

#: Pure Python that travels with us. async_timeout and tomli are for hosts with Python 3.10.
LIBRARIES = ("click", "cloudpickle", "cronsim", "redis", "tomli", "async_timeout")
_SUFFIXES = (".py", ".lua", ".typed")
#: The same time in every zip, so that its bytes follow from its files.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A built bundle."""

    #: 16 hex digits of the hash of what is in it.
    hash: str
    path: Path


def build(folder: Path) -> Bundle:
    """Return the bundle of this very installation, kept in `folder`; raises ConfigError."""
    files = sorted(_files())
    whole = hashlib.sha256()
    contents = []
    for name, path in files:
        data = path.read_bytes()
        whole.update(b"%s\0%d\0" % (name.encode(), len(data)))
        whole.update(data)
        contents.append((name, data))
    bundle = Bundle(whole.hexdigest()[:16], folder / f"{whole.hexdigest()[:16]}.zip")
    if not bundle.path.exists():
        _write(bundle.path, contents)
    return bundle


def _files() -> Iterator[tuple[str, Path]]:
    for package in ("qsub_py", *LIBRARIES):
        root = _root_of(package)
        for path in root.rglob("*"):
            if path.suffix in _SUFFIXES and "__pycache__" not in path.parts:
                yield f"{package}/{path.relative_to(root)}", path


def _root_of(package: str) -> Path:
    # find_spec does not import it: redis alone takes 0.1 s.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the package {package} is missing", hint="pip install it, or qsub_py again"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _write(path: Path, contents: list[tuple[str, bytes]]) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.urandom(4).hex()}")
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in contents:
                info = zipfile.ZipInfo(name, _TIME)
                info.external_attr = 0o600 << 16
                archive.writestr(info, data, zipfile.ZIP_DEFLATED)
        os.replace(draft, path)
        for old in path.parent.glob("*.zip"):
            if old != path:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
