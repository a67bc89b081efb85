"""The note that a node leaves of the files a task brought back; signed, one for each task.

Pure. Bytes: length of the JSON text, the text, its signature, and, when they are few, the
bytes of the archive itself; else these are a blob in the store, or a file on the node.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from qsub_py.errors import PayloadError
from qsub_py.signing import SIGNATURE_BYTES, Key, Keyring, sign, verify

_LENGTH = struct.Struct("<I")
MOST_INLINE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Note:
    """What a task brought back, and where it is."""

    attempt: int
    node: str
    #: How many files; 0: nothing matched, or something went wrong.
    files: int = 0
    #: Of the archive with them.
    size: int = 0
    sha: str = ""
    #: The archive in the store; "": it stands in the note, or `is_kept` on the node.
    blob: str = ""
    is_kept: bool = False
    #: "" unless there is something to explain ("... more than job.fetch_limit (100M)").
    why: str = ""
    #: Of files that a node was asked for now: the name of the question.
    asked: str = ""

    @property
    def is_inline(self) -> bool:
        """Whether the archive stands in the note itself."""
        return bool(self.files) and not self.blob and not self.is_kept


def question(name: str, position: int, attempt: int, patterns: Sequence[str]) -> bytes:
    """Return what is signed when a node is asked for files: it gives them to nobody else."""
    return json.dumps([name, position, attempt, list(patterns)]).encode()


def pack_note(key: Key, note: Note, data: bytes, *, cluster: str, uid: str, position: int) -> bytes:
    """Return a signed note; `data`: the archive, where it stands in the note."""
    text = json.dumps(asdict(note), separators=(",", ":"), sort_keys=True).encode()
    signature = sign(key, "files", cluster, uid, b"%d" % position, text)
    return _LENGTH.pack(len(text)) + text + signature + data


def read_note(
    ring: Keyring, packed: bytes, *, cluster: str, uid: str, position: int
) -> tuple[Note, bytes]:
    """Return a note and the archive in it; raises SignatureError, PayloadError.

    The archive is signed by its SHA-256 in the note, which the caller compares.
    """
    if len(packed) < _LENGTH.size:
        raise PayloadError("a note on files is cut off")
    end = _LENGTH.size + _LENGTH.unpack_from(packed)[0]
    text, signature = packed[_LENGTH.size : end], packed[end : end + SIGNATURE_BYTES]
    verify(ring, signature, "files", cluster, uid, b"%d" % position, text)
    try:
        return Note(**json.loads(text)), packed[end + SIGNATURE_BYTES :]
    except (ValueError, TypeError) as error:
        raise PayloadError(f"a note on files is damaged: {error}") from None
