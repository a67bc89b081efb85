"""What is to run, and a job that could be submitted: values between the steps of qsub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qsub_py.model import JobSpec
    from qsub_py.periodic import Rule
    from qsub_py.shipping import Parcel
    from qsub_py.waits import Wish


@dataclass(frozen=True, slots=True)
class Work:
    """What is to run, before anything is known of where and how."""

    #: Shown in messages and the source of the job's name.
    shown: str
    argv: tuple[str, ...] = ()
    script: str | None = None
    script_path: str = ""
    #: A .py file too large to travel: run in place, by the interpreter.
    is_large_python: bool = False
    #: The packed function of a call.
    function: bytes = b""
    function_name: str = ""
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A job that could be submitted: its spec, and what only the queue needs."""

    spec: JobSpec
    function: bytes = b""
    priority: int = 0
    limit: int = 0
    is_held: bool = False
    #: As written, "" for at once and for none; read again by the server's clock.
    begin: str = ""
    deadline: str = ""
    key: str = ""
    #: What it waits for, as asked; whether one of them is enough.
    wishes: tuple[Wish, ...] = ()
    is_or: bool = False
    #: The files of spec.ship, to be sent.
    parcels: tuple[Parcel, ...] = ()
    #: Of a schedule: when it fires, and how often at most (0: any number).
    rule: Rule | None = None
    times: int = 0
    #: See model.Submission.
    max_fails: str = ""
    pages: tuple[bytes, ...] = ()
    #: Advice for a person.
    notes: tuple[str, ...] = ()
