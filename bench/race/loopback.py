"""Brings up 127.0.0.1 in a network namespace of its own, which has nothing else.

Ray listens on every interface; in such a namespace nobody can reach it.
"""

from __future__ import annotations

import fcntl
import socket
import struct

IFF_UP = 1
SIOCSIFFLAGS = 0x8914
"""Of Linux; the program `ip` is not everywhere."""


def bring_up() -> None:
    """Sets the loopback device up; it takes the rights of the namespace's owner."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
