"""The user's SSH agent: which keys it holds, and signatures by them.

Part of `ssh`. Each request has a connection of its own, so any thread may ask at any time and
nothing stays open (draft-ietf-sshm-ssh-agent). Keys are never taken out, and never forwarded.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

#: Seconds for an answer: the agent may ask the user to confirm, or to touch a token.
ANSWER_TIMEOUT_S = 60.0
LIST, LISTED, SIGN, SIGNED = 11, 12, 13, 14
#: Which hash an RSA key signs with; others have but one.
RSA_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}


class AgentTrouble(Exception):
    """The agent does not answer, or refuses."""


def socket_path(identity_agent: str) -> str:
    """Return the agent's socket for an IdentityAgent ("" for the usual one), "" for none."""
    if identity_agent == "none":
        return ""
    return identity_agent or os.environ.get("SSH_AUTH_SOCK", "")


def keys(path: str) -> list[tuple[bytes, str]]:
    """Return (public key, comment) of each key the agent holds; raises AgentTrouble."""
    kind, body = _request(path, bytes([LIST]))
    if kind != LISTED or len(body) < 4:
        raise AgentTrouble("it does not list its keys")
    (count,), strings = struct.unpack_from(">I", body), _strings(body[4:])
    return [(next(strings), next(strings).decode("utf-8", "replace")) for _ in range(count)]


def sign(path: str, blob: bytes, data: bytes, algorithm: str) -> bytes:
    """Return the signature of a key over the data; raises AgentTrouble."""
    flags = RSA_FLAGS.get(algorithm.replace("-cert-v01@openssh.com", ""), 0)
    request = bytes([SIGN]) + _string(blob) + _string(data) + struct.pack(">I", flags)
    kind, body = _request(path, request)
    if kind != SIGNED:
        raise AgentTrouble("it refuses to sign")
    return next(_strings(body))


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(data: bytes) -> Iterator[bytes]:
    while len(data) >= 4:
        (size,) = struct.unpack_from(">I", data)
        yield data[4 : 4 + size]
        data = data[4 + size :]


def _request(path: str, message: bytes) -> tuple[int, bytes]:
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(ANSWER_TIMEOUT_S)
            agent.connect(path)
            agent.sendall(_string(message))
            (size,) = struct.unpack(">I", _exactly(agent, 4))
            answer = _exactly(agent, size)
    except OSError as error:
        raise AgentTrouble(error.strerror or str(error)) from None
    return answer[0], answer[1:]


def _exactly(agent: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = agent.recv(size - len(data))
        if not more:
            raise AgentTrouble("it hung up")
        data += more
    return data
