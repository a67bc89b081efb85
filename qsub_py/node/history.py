"""What an earlier keeper left: read its journal, kill what still runs, say what was lost.

A task that was begun and has no end is LOST. What had not begun is simply not there any
more: the agent learns that from `state`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable

from qsub_py.node.batch import task_cookie
from qsub_py.node.ledger import Entry, Key, Ledger, Report, unpack_positions
from qsub_py.node.processes import all_pids, boot_id, cookie_of, send_signal, stat_of
from qsub_py.node.tickets import MARK_LAYOUT
from qsub_py.node.wire import Header, Item

_KILL_S = 5.0


def recover(ledger: Ledger, records: Iterable[tuple[Header, bytes]], node_dir: str) -> None:
    """Bring the ledger to the truth: nothing runs, and what had begun is reported."""
    for header, body in records:
        replay = _REPLAY.get(header["op"])
        if replay is not None:  # else of a newer version, which was replaced by this one
            replay(ledger, header, body)
    rebooted = ledger.boot_id not in ("", boot_id())
    left = 0 if rebooted else _kill_leftovers(ledger, node_dir)
    why = "the host rebooted" if rebooted else "the keeper died"
    if left:
        why += f"; {left} processes could not be killed"
    for entry in list(ledger.entries.values()):
        _close(ledger, entry, why)
    ledger.boot_id = boot_id()
    ledger.runners.clear()
    for name in os.listdir(f"{node_dir}/marks"):
        os.unlink(f"{node_dir}/marks/{name}")


def _close(ledger: Ledger, entry: Entry, why: str) -> None:
    begun = _begun_calls(entry) if entry.mark else {}
    if entry.running:
        begun[entry.running["pos"]] = entry.running["at"]
    for pos, start in begun.items():
        if pos in entry.open:
            ledger.end(entry, Item(pos, "LOST", start, why=why), b"", 0.0, more=False)
    if entry.open:
        ledger.give_back(entry, sorted(entry.open))


def _begun_calls(entry: Entry) -> dict[int, float]:
    """Return {position: start} of the calls that the runner had taken.

    It takes them in order: those before the marked one that have no end sent their result
    to a keeper that was already dead.
    """
    try:
        with open(entry.mark["path"], "rb") as file:
            serial, index, start, _ = MARK_LAYOUT.unpack(file.read(MARK_LAYOUT.size))
    except (OSError, ValueError):
        return {}
    if serial != entry.mark["serial"]:
        return {}
    positions = unpack_positions(entry.mark["pos"])
    return {pos: start for pos in positions[: index + 1] if pos in entry.open}


def _kill_leftovers(ledger: Ledger, node_dir: str) -> int:
    """Kill all processes of the earlier keeper's tasks and runners; return how many stay."""
    cookies = {cookie.encode() for cookie in ledger.runners}
    sessions: set[int] = set()
    for entry in ledger.entries.values():
        if not entry.running:
            continue
        cookies.add(task_cookie(entry.key, entry.running["pos"], node_dir))
        pid, start = entry.running.get("pid"), entry.running.get("pid_start")
        found = stat_of(pid) if pid else None
        if found is not None and found[3] == start:
            sessions.add(found[2])
    if not cookies:
        return 0
    deadline = time.monotonic() + _KILL_S
    while left := _living(cookies, sessions):
        if time.monotonic() > deadline:
            return len(left)
        for pid, start in left:
            send_signal(pid, 9, start)
        time.sleep(0.005)
    return 0


def _living(cookies: set[bytes], sessions: set[int]) -> list[tuple[int, int]]:
    found = []
    for pid in all_pids():
        stat = stat_of(pid)
        if stat is None or stat[0] in "ZX":
            continue
        if stat[2] in sessions or cookie_of(pid, stat[1]) in cookies:
            found.append((pid, stat[3]))
    return found


def _key(header: Header) -> Key:
    slot, uid, first, attempt, epoch = header["key"]
    return slot, uid, first, attempt, epoch


def _replay_meta(ledger: Ledger, header: Header, _: bytes) -> None:
    ledger.seq = max(ledger.seq, header["seq"])
    for key, spent in header["seen"]:
        packed = None if spent is None else frozenset(unpack_positions(spent))
        ledger.seen[_key({"key": key})] = packed
    ledger.boot_id = header["boot_id"]
    ledger.runners.update(header["runners"])


def _replay_run(ledger: Ledger, header: Header, _: bytes) -> None:
    key = _key(header)
    positions = unpack_positions(header["pos"])
    still, spent = (set(unpack_positions(header[name])) for name in ("open", "spent"))
    entry = Entry(key, header["job"], header["kind"], positions, still, spent)
    entry.running, entry.mark = header["running"], header["mark"]
    ledger.entries[key] = entry


def _replay_entry(ledger: Ledger, header: Header, _: bytes) -> None:
    """Redo what happened to a batch: start, begun, mark, returned, dropped."""
    entry = ledger.entries.get(_key(header))
    if entry is None:
        return
    match header["op"]:
        case "start":
            entry.spent.add(header["pos"])
            entry.running = {"pos": header["pos"], "at": header["at"]}
        case "begun":
            entry.running.update(pid=header["pid"], pid_start=header["pid_start"])
        case "mark":
            entry.mark = {name: header[name] for name in ("path", "serial", "pos")}
        case "returned":
            entry.spent.difference_update(header["pos"])
            if entry.running.get("pos") in header["pos"]:
                entry.running = {}
            ledger.settle(entry, header["pos"])
        case "dropped":
            entry.spent.update(entry.open)
            ledger.settle(entry, list(entry.open))


def _replay_ended(ledger: Ledger, header: Header, body: bytes) -> None:
    key, seq = _key(header), header["seq"]
    ledger.seq = max(ledger.seq, seq)
    report = ledger.reports.setdefault(seq, Report(seq, key, header["job"]))
    ledger.by_key.setdefault(key, set()).add(seq)
    report.texts += [json.dumps(item, separators=(",", ":")).encode() for item in header["items"]]
    report.bodies.append(body)
    entry = ledger.entries.get(key)
    if entry is not None:
        positions = [item[0] for item in header["items"]]
        entry.spent.update(positions)
        entry.running = {}
        ledger.settle(entry, positions)


def _replay_forget(ledger: Ledger, header: Header, _: bytes) -> None:
    ledger.discard(header["seqs"])


def _replay_runner(ledger: Ledger, header: Header, _: bytes) -> None:
    ledger.runners.add(header["cookie"])


_REPLAY: dict[str, Callable[[Ledger, Header, bytes], None]] = {
    "meta": _replay_meta,
    "run": _replay_run,
    "start": _replay_entry,
    "begun": _replay_entry,
    "mark": _replay_entry,
    "returned": _replay_entry,
    "dropped": _replay_entry,
    "ended": _replay_ended,
    "forget": _replay_forget,
    "runner": _replay_runner,
}
