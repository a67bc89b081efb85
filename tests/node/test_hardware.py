"""What a machine has: control groups of made-up kernels, Pythons, a fake nvidia-smi."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from qsub_py.model import JobSpec
from qsub_py.node import cgroups, gpus, hardware, interpreters, probe, surroundings
from qsub_py.node.gpus import Gpu
from qsub_py.node.settings import NodeSettings

G = 2**30


def kernel(root: Path, groups: str, mounts: dict[str, str], files: dict[str, str]) -> Path:
    """Make a /proc/self of a made-up kernel: "type controllers root" -> mount point below root."""
    proc = root / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    lines = []
    for number, (what, point) in enumerate(mounts.items()):
        kind, controllers, top = what.split(" ")
        lines.append(f"{number} 1 0:1 {top} {root}/{point} rw - {kind} {kind} rw,{controllers}\n")
    (proc / "mountinfo").write_text("".join(lines))
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return proc


def test_limits_of_version_2_up_to_the_root(tmp_path: Path) -> None:
    proc = kernel(
        tmp_path, "0::/user/job\n", {"cgroup2 rw /": "cg"},
        {"cg/cpu.max": "max 100000", "cg/user/cpu.max": "250000 100000",
         "cg/user/job/cpu.max": "400000 100000", "cg/user/memory.max": str(3 * G),
         "cg/user/job/memory.max": "max"},
    )  # fmt: skip
    assert (cgroups.cpu_limit(proc), cgroups.whole_cpus(proc)) == (2.5, 3)
    assert cgroups.mem_limit(proc) == 3 * G


def test_limits_of_version_1_inside_a_container(tmp_path: Path) -> None:
    """The group's path is the host's, and the mount begins at that very group."""
    proc = kernel(
        tmp_path, "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n",
        {"cgroup cpu,cpuacct /docker/ab": "cg/cpu", "cgroup memory /docker/ab": "cg/mem"},
        {"cg/cpu/cpu.cfs_quota_us": "20000", "cg/cpu/cpu.cfs_period_us": "100000",
         "cg/mem/memory.limit_in_bytes": str(G)},
    )  # fmt: skip
    assert (cgroups.cpu_limit(proc), cgroups.whole_cpus(proc)) == (0.2, 1)
    assert cgroups.mem_limit(proc) == G


def test_no_limits(tmp_path: Path) -> None:
    proc = kernel(
        tmp_path, "3:cpu:/\n0::/\n", {"cgroup cpu /": "v1", "cgroup2 rw /": "v2"},
        {"v1/cpu.cfs_quota_us": "-1", "v1/cpu.cfs_period_us": "100000"},
    )  # fmt: skip
    for here in (proc, tmp_path / "nothing"):
        assert (cgroups.cpu_limit(here), cgroups.mem_limit(here)) == (None, None)
    assert 1 <= hardware.cpus() <= len(os.sched_getaffinity(0))
    assert hardware.mem_bytes() > 2**26


# -- gpus ----------------------------------------------------------------------------------

TABLE = "0, GPU-aa11, NVIDIA GeForce RTX 3090, 24576\n1, GPU-bb22, NVIDIA A100-SXM4-40GB, 40960\n"
LISTING = """\
GPU 0: NVIDIA GeForce RTX 3090 (UUID: GPU-aa11)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb22)
  MIG 3g.20gb     Device  0: (UUID: MIG-c1)
  MIG 3g.20gb     Device  1: (UUID: MIG-c2)
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a nvidia-smi on PATH that says what the files table, list and apps hold."""
    folder = tmp_path / "smi"
    folder.mkdir()
    script = folder / "nvidia-smi"
    script.write_text(
        f'#!/bin/sh\ncase "$1" in --query-gpu*) f=table;; -L) f=list;; *) f=apps;; esac\n'
        f'echo "$1" >> {folder}/asked\n[ -e {folder}/hang ] && exec sleep 600\n'
        f'[ -e {folder}/$f ] || exit 9\nexec cat {folder}/$f\n'
    )  # fmt: skip
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def test_gpus_by_nvidia_smi(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (smi / "table").write_text(TABLE)
    first, second = gpus.find()
    assert first == Gpu("0", "GPU-aa11", "NVIDIA GeForce RTX 3090", 24 * G, "GPU-aa11")
    assert first.words() == ("rtx3090",)
    assert second.words() == ("a100-sxm4-40gb", "a100")
    for allowed, found in (
        ("1", ["1"]), ("1,0", ["1", "0"]), ("GPU-aa", ["0"]), ("0,7,1", ["0"]), ("-1", []),
        ("", []), ("GPU-", []),
    ):  # fmt: skip
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
        assert [gpu.device for gpu in gpus.find()] == found, allowed


def test_slices_of_a_gpu_are_gpus(smi: Path) -> None:
    (smi / "table").write_text(TABLE)
    (smi / "list").write_text(LISTING)
    found = gpus.find()
    assert [gpu.device for gpu in found] == ["0", "MIG-c1", "MIG-c2"]
    assert found[1].mem_bytes == 20 * G and found[1].whole == "GPU-bb22"


def test_without_a_driver(smi: Path) -> None:
    assert gpus.find() == tuple(gpus._device_files())
    (smi / "table").write_text("No devices were found\n")
    assert gpus.find() == ()


def test_who_computes_on_gpus() -> None:
    assert gpus.users("12, GPU-aa11, 100\n[Not Found], GPU-bb22, [N/A]\n\n") == [
        (12, "GPU-aa11"),
        (0, "GPU-bb22"),
    ]
    assert gpus.users("") == []
    assert gpus.users("NVIDIA-SMI has failed because it couldn't talk to the driver\n") is None


def test_a_probe_that_hangs_is_left_behind(smi: Path) -> None:
    (smi / "hang").touch()
    began = time.monotonic()
    assert probe.ask([["nvidia-smi", "-L"], ["echo", "a"]], timeout_s=0.3) == [None, "a\n"]
    assert probe.ask([["false"], ["/no/such/program"]], timeout_s=5) == [None, None]
    assert time.monotonic() - began < 60, "it waited for the sleep"


# -- pythons -------------------------------------------------------------------------------


def fake_python(path: Path, minor: str, *, real: str = "") -> str:
    """Write a program that answers as a Python of this minor version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "{minor} {real or path}"\n')
    path.chmod(0o755)
    return str(path)


def test_pythons_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, own = tmp_path / "home", hardware.python_minor()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{tmp_path}/.pyenv/shims")
    fake_python(tmp_path / "bin/python3.10", "3.9")
    fake_python(tmp_path / f"bin/python{own}", own)
    conda = fake_python(home / "miniforge3/bin/python3", "3.25")
    uv = fake_python(home / ".local/share/uv/python/cpython-3.26/bin/python3", "3.26")
    fake_python(tmp_path / ".pyenv/shims/python3", "3.27", real="/opt/real")
    env = fake_python(tmp_path / "env/bin/python", "3.28")
    (tmp_path / "bin/python3.12").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/python3.12").chmod(0o755)
    assert interpreters.find(str(tmp_path / "env")) == {
        own: sys.executable, "3.25": conda, "3.26": uv, "3.27": "/opt/real", "3.28": env,
    }  # fmt: skip
    assert [interpreters.of(path) for path in (conda, "/no/such/python")] == ["3.25", ""]


SETTINGS = NodeSettings("u", "n", 2, G, 0, "c")


def test_which_python_runs_a_call(tmp_path: Path) -> None:
    system = fake_python(tmp_path / "system/python3", "3.31")
    theirs = fake_python(tmp_path / "theirs/bin/python", "3.31")
    node_env = fake_python(tmp_path / "ours/bin/python", "3.31")
    (tmp_path / "theirs/pyvenv.cfg").touch()
    pythons = {"3.31": "/by/minor", "3.32": "/by/other"}

    def choice(hint: str, *, env: str = "", minor: str = "3.31", python: str = "") -> str:
        spec = JobSpec("call", "j", "a", python=python, python_hint=hint, python_minor=minor)
        settings = NodeSettings("u", "n", 2, G, 0, "c", env=env, pythons=pythons)
        return surroundings.interpreter(spec, settings)

    ours = str(tmp_path / "ours")
    assert choice(system, env=ours, python="/asked/for") == "/asked/for"
    assert choice(theirs, env=ours) == theirs
    assert choice(system, env=ours) == node_env
    assert choice(system) == system
    assert choice("/not/here", env=ours) == node_env
    assert choice("/not/here") == "/by/minor"
    assert choice(theirs, env=ours, minor="3.32") == "/by/other"
    assert choice("/not/here", minor="") == sys.executable
    assert choice("/not/here", env=ours, minor="") == node_env


def test_the_environment_of_the_node(tmp_path: Path) -> None:
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "theirs/bin").mkdir(parents=True)
    settings = NodeSettings("u", "n", 2, G, 0, "c", env=str(tmp_path / "env"))
    spec = JobSpec("command", "j", "a")
    gone = {"VIRTUAL_ENV": "/gone/env", "PATH": "/gone/env/bin:/gone/environment:/usr/bin"}
    assert surroundings.environment(gone, spec, settings) == {
        "VIRTUAL_ENV": f"{tmp_path}/env",
        "PATH": f"{tmp_path}/env/bin:/gone/environment:/usr/bin",
    }
    here = {"VIRTUAL_ENV": str(tmp_path / "theirs"), "PATH": f"{tmp_path}/theirs/bin"}
    assert surroundings.environment(here, spec, settings) == here
    asked = JobSpec("command", "j", "a", python="/gone/env/bin/python")
    assert surroundings.environment(gone, asked, settings) == gone
    assert surroundings.environment(gone, spec, SETTINGS) == gone
    (tmp_path / "env/conda-meta").mkdir()
    conda = {"CONDA_PREFIX": "/gone/conda", "CONDA_DEFAULT_ENV": "x", "PATH": "/gone/conda/bin"}
    assert surroundings.environment(conda, spec, settings) == {
        "CONDA_PREFIX": f"{tmp_path}/env", "CONDA_DEFAULT_ENV": "env",
        "PATH": f"{tmp_path}/env/bin:{os.defpath}",
    }  # fmt: skip


def test_gpus_that_a_job_sees() -> None:
    spec = JobSpec("command", "j", "a", gpus=2)
    settings = NodeSettings(
        "u", "n", 2, G, 3, "c", devices=(Gpu("2", "GPU-a"), Gpu("MIG-1", "MIG-1"))
    )
    assert surroundings.gpu_variables((0, 1), spec, settings) == {
        "CUDA_VISIBLE_DEVICES": "2,MIG-1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }  # fmt: skip
    assert surroundings.gpu_variables((2,), spec, settings)["CUDA_VISIBLE_DEVICES"] == "2"
    assert surroundings.gpu_variables((), spec, settings) == {"CUDA_VISIBLE_DEVICES": ""}
