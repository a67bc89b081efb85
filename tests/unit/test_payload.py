"""Functions, calls and outcomes there and back; what cannot travel is named."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsub_py import payload
from qsub_py.errors import PayloadError, SignatureError
from qsub_py.model import Outcome, State
from qsub_py.payload import Key, Keyring, sign, verify

RING = Keyring(Key("0123abcd", b"k" * 32), (Key("deadbeef", b"r" * 32),))


class Engine:
    """Holds a lock, as database handles and loggers do."""

    def __init__(self) -> None:
        self.name = "engine"
        self.lock = threading.Lock()


class Car:
    """Holds something that holds a lock."""

    def __init__(self) -> None:
        self.model = Engine()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory on sys.path for modules of the user's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path  # type: ignore[misc]
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(project: Path, **sources: str) -> None:
    for name, source in sources.items():
        (project / f"{name}.py").write_text(textwrap.dedent(source))
    importlib.invalidate_caches()


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def run_elsewhere(function: bytes, *args: Any) -> str:
    """Run a packed function in an interpreter that has none of our modules but cloudpickle."""
    code = (
        "import pickle, sys, zlib; tag, body, args = pickle.loads(sys.stdin.buffer.read());"
        "f = pickle.loads(zlib.decompress(body) if tag == b'Z' else body); print(f(*args))"
    )
    message = pickle.dumps((function[:1], function[1:], args))
    done = subprocess.run(
        [sys.executable, "-c", code], input=message, capture_output=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


# Functions


def test_lambdas_and_closures_travel() -> None:
    offset = 10
    assert run_elsewhere(payload.pack_function(lambda x: x + offset), 5) == "15"


def test_an_own_module_travels_with_what_it_refers_to(project: Path) -> None:
    write(
        project,
        helpers="""
            import settings
            import worker
            class Point:
                def __init__(self, x): self.x = x
            def double(p): return Point(p.x * settings.FACTOR)
            """,
        settings="FACTOR = 2",
        worker="""
            import helpers
            def work(x): return helpers.double(helpers.Point(x)).x
            """,
    )
    assert run_elsewhere(payload.pack_function(load("worker").work), 4) == "8"


def test_a_module_with_a_lock_travels_without_the_lock(project: Path) -> None:
    write(project, state="import threading\nLOCK = threading.Lock()\nN = 3\ndef get(): return N")
    write(project, user="import state\ndef work(): return state.get() + state.N")
    assert run_elsewhere(payload.pack_function(load("user").work)) == "6"


def test_a_package_with_submodules_travels(project: Path) -> None:
    (project / "pack").mkdir()
    (project / "pack" / "__init__.py").write_text("")
    (project / "pack" / "low.py").write_text("def one(): return 1")
    (project / "pack" / "top.py").write_text(
        "from . import low\nfrom .low import one\ndef two(): return low.one() + one()"
    )
    assert run_elsewhere(payload.pack_function(load("pack.top").two)) == "2"


def test_a_cached_recursive_function_travels(project: Path) -> None:
    write(
        project,
        fibs="""
            from functools import lru_cache
            @lru_cache(maxsize=None)
            def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
            def work(n): return fib(n)
            """,
    )
    module = load("fibs")
    assert run_elsewhere(payload.pack_function(module.work), 50) == "12586269025"
    assert run_elsewhere(payload.pack_function(module.fib), 50) == "12586269025"


def test_partials_and_methods_travel(project: Path) -> None:
    write(
        project,
        shapes="""
            class Square:
                def __init__(self, a): self.a = a
                def area(self, times=1): return self.a ** 2 * times
            """,
    )
    area = load("shapes").Square(3).area
    assert run_elsewhere(payload.pack_function(functools.partial(area, times=2))) == "18"


def test_installed_modules_travel_by_name() -> None:
    assert len(payload.pack_function(textwrap.dedent)) < 60
    assert len(payload.pack_function(payload.pack_function)) < 80


def test_registrations_of_the_user_survive(project: Path) -> None:
    write(project, mine="def f(): return 1", other="")
    mine = load("mine")
    load("other")
    others = set(cloudpickle.list_registry_pickle_by_value())
    cloudpickle.register_pickle_by_value(mine)
    payload.pack_function(mine.f)
    assert cloudpickle.list_registry_pickle_by_value() == {"mine", *others}
    cloudpickle.unregister_pickle_by_value(mine)


def test_a_class_comes_back_as_itself(project: Path) -> None:
    write(project, things="class Thing:\n    pass\ndef make(): return Thing()")
    things = load("things")
    again = payload.unpack_function(payload.pack_function(things.make))
    assert type(again()) is things.Thing


# Calls


def test_calls_come_back() -> None:
    np = pytest.importorskip("numpy")
    calls: list[payload.Call] = [
        ((1, 2.5, "a", b"b", None, True), {}),
        (([1, (2, 3)], {"k": {4}}), {"key": [5]}),
        ((Engine,), {}),
        ((lambda x: x,), {}),
        ((), {}),
    ]
    back = payload.unpack_chunk(payload.pack_chunk(calls))
    assert back[:3] == calls[:3] and back[4] == calls[4]
    assert back[3][0][0](7) == 7
    ((array,), _) = payload.unpack_chunk(payload.pack_chunk([((np.arange(9),), {})]))[0]
    assert array.tolist() == list(range(9))


def test_plain_arguments_do_not_import_cloudpickle() -> None:
    code = (
        "import sys; from qsub_py import payload;"
        "payload.pack_chunk([((1, [2], {'a': 'b'}), {'k': 3.0})]);"
        "assert 'cloudpickle' not in sys.modules and 'redis' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_large_chunks_are_compressed() -> None:
    chunk = payload.pack_chunk([(("x" * 10_000,), {})])
    assert chunk[:1] == b"Z" and len(chunk) < 500
    assert payload.pack_chunk([(("x" * 100,), {})])[:1] == b"R"
    assert payload.unpack_chunk(chunk) == [(("x" * 10_000,), {})]


@pytest.mark.parametrize("data", [b"", b"Q", b"Zgarbage"])
def test_a_damaged_payload_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(PayloadError):
        payload.unsqueeze(data)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((Car(),), {}, "argument 1: attribute .model.lock of type _thread.lock cannot be pickled"),
        ((1, threading.Lock()), {}, "argument 2 of type _thread.lock cannot be pickled"),
        (([1, {"a": threading.Lock()}],), {}, "argument 1: item [1]['a'] of type _thread.lock"),
        ((), {"car": Car()}, "argument car: attribute .model.lock of type _thread.lock"),
        ((n for n in ()), {}, None),
        (((n for n in ()),), {}, "argument 1 of type generator cannot be pickled"),
    ],
)
def test_what_cannot_travel_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], words: str | None
) -> None:
    if words is None:
        assert payload.unpack_chunk(payload.pack_chunk([(tuple(args), kwargs)])) == [((), {})]
        return
    with pytest.raises(PayloadError) as caught:
        payload.pack_chunk([(args, kwargs)])
    assert words in str(caught.value)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_a_guilty_closure_variable_is_named() -> None:
    engine = Engine()

    def work() -> str:
        return engine.name

    with pytest.raises(PayloadError, match=r"work: closure variable engine\.lock of type _thread"):
        payload.pack_function(work)


def test_a_guilty_global_is_named(project: Path) -> None:
    write(project, bad="import threading\nLOCK = threading.Lock()\ndef f():\n    with LOCK: pass")
    with pytest.raises(PayloadError, match=r"function f: global LOCK of type _thread\.lock"):
        payload.pack_function(load("bad").f)


# Outcomes

TEXT = st.text(max_size=20)
OUTCOMES = st.builds(
    Outcome,
    position=st.integers(0, 2**32 - 1),
    state=st.sampled_from(State),
    attempt=st.integers(1, 2**32 - 1),
    exit_code=st.integers(-(2**31), 2**31 - 1),
    signal=st.integers(0, 64),
    node=TEXT,
    started_at=st.floats(allow_nan=False),
    ended_at=st.floats(allow_nan=False),
    cpu_s=st.floats(allow_nan=False),
    max_rss_bytes=st.integers(0, 2**63),
    reason=TEXT,
    result_kind=st.integers(0, 4),
    result=st.binary(max_size=2000),
)


@given(st.lists(OUTCOMES, max_size=8))
def test_outcomes_come_back(outcomes: list[Outcome]) -> None:
    data = payload.pack_outcomes(outcomes)
    assert payload.unpack_outcomes(data) == outcomes
    columns = payload.unpack_columns(data)
    assert [columns.outcome(row) for row in range(len(outcomes))] == outcomes


def test_outcomes_are_small() -> None:
    many = [
        Outcome(n, State.COMPLETED, node="ws1", started_at=1.7e9 + n, ended_at=1.7e9 + n + 0.1)
        for n in range(256)
    ]
    assert len(payload.pack_outcomes(many[:1])) <= 80
    assert len(payload.pack_outcomes(many)) / len(many) < 30


@given(st.binary(max_size=200))
def test_damaged_outcomes_are_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(PayloadError):
        payload.unpack_outcomes(data)


def test_outcomes_that_were_cut_off_are_refused() -> None:
    data = payload.pack_outcomes([Outcome(1, State.COMPLETED, result=b"abcdef")])
    for size in range(1, len(data)):
        with pytest.raises(PayloadError):
            payload.unpack_outcomes(data[:size])


# Signatures


def test_a_signature_holds_for_exactly_what_was_signed() -> None:
    signature = sign(RING.current, "args", "default", "uid", b"chunk")
    assert len(signature) == payload.SIGNATURE_BYTES
    verify(RING, signature, "args", "default", "uid", b"chunk")
    for kind, *parts in [
        ("result", "default", "uid", b"chunk"),
        ("args", "other", "uid", b"chunk"),
        ("args", "default", "uidc", b"hunk"),
        ("args", "default", "uid", b"chunk", b""),
        ("args", "default", "uid", b"CHUNK"),
    ]:
        with pytest.raises(SignatureError):
            verify(RING, signature, str(kind), *parts)


def test_retired_keys_verify_and_unknown_ones_do_not() -> None:
    verify(RING, sign(RING.retired[0], "spec", b"x"), "spec", b"x")
    with pytest.raises(SignatureError, match="key this host does not have"):
        verify(RING, sign(Key.new(), "spec", b"x"), "spec", b"x")
    for signature in (b"", b"\xff" * 40, RING.current.id.encode()):
        with pytest.raises(SignatureError):
            verify(RING, signature, "spec", b"x")


def test_a_ring_is_made_of_the_key_file_and_secrets_are_not_shown() -> None:
    ring = Keyring.of({"0123abcd89abcdef": b"k" * 32, "deadbeef00000000": b"r" * 32})
    assert ring == RING and "kkk" not in repr(ring)
