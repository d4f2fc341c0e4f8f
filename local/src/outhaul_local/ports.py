"""TCP ports on loopback.

Ports are picked below the kernels' ephemeral range (32768 on Linux, 49152 on macOS), else an outgoing
connection could take one between the moment it is found free and the moment its server binds it.
"""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
_LOWEST, _HIGHEST = 20000, 32000


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of the loopback address now."""
    with socket.socket() as probe:
        # Without it a port whose last connections are in TIME_WAIT would look taken, and servers set it too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def is_listening(port: int, *, timeout_seconds: float = 0.5) -> bool:
    """Whether something accepts connections on ``port`` of the loopback address."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=timeout_seconds).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """``count`` different free ports, at random, so that two runs seldom choose the same ones.

    Raises ``OSError`` when so many cannot be found.
    """
    # Not the shared generator: a test that seeds it in two processes would have both choose the same ones.
    candidates = random.SystemRandom().sample(range(_LOWEST, _HIGHEST), 500)
    found = [port for port in candidates[: 20 * count] if is_free(port)][:count]
    if len(found) < count:
        raise OSError(f"cannot find {count} free ports between {_LOWEST} and {_HIGHEST} on {LOOPBACK}")
    return found


def free_port(preferred: int | None = None) -> int:
    """``preferred`` if it is free, else another."""
    if preferred is not None and is_free(preferred):
        return preferred
    return free_ports(1)[0]
