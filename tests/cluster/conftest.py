"""Labs for tests: one of three hosts that all tests share, and others on request.

Skips with the reason where no lab can be had; a bare machine of CI gets the packages first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

import lab as labs
from lab import Lab

_NEEDED = ("openssh-server", "openssh-client", "iproute2")
#: Login shells that tests use where they are installed.
_SHELLS = ("tcsh", "fish")
_APT = {"DEBIAN_FRONTEND": "noninteractive"}


def _install() -> None:
    """Install what a lab needs, on a machine of CI alone."""
    if os.environ.get("CI") != "true" or os.geteuid():
        return
    shells = [name for name in _SHELLS if not shutil.which(name)]
    needed = list(_NEEDED) if labs.missing_tools() else []
    if shells or needed:
        _apt("update", "-q")
    for packages in (needed, shells):
        if packages:
            _apt("install", "-qy", "--no-install-recommends", *packages)


def _apt(*words: str) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["apt-get", *words], env={**os.environ, **_APT}, timeout=300)


@pytest.fixture(scope="session")
def can_lab() -> None:
    """Skip where there can be no lab."""
    _install()
    if reason := labs.why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _three(can_lab: None) -> Iterator[list[Lab]]:
    holder = [Lab.up(3)]
    yield holder
    holder[0].down()


@pytest.fixture
def lab3(_three: list[Lab]) -> Iterator[Lab]:
    """Return a lab of three hosts, clean; what the test breaks there is put right after it."""
    yield _three[0]
    try:
        _three[0].reset()
    except Exception:
        _three[0].down()
        _three[0] = Lab.up(3)


@pytest.fixture
def make_lab(can_lab: None) -> Iterator[Callable[[int], Lab]]:
    """Return what makes a lab of so many hosts, which ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda count: stack.enter_context(Lab.up(count))
