"""Runs tests marked ``loopback`` in a network namespace that has nothing but 127.0.0.1.

Ray takes 127.0.0.1 for an address that other hosts reach and then listens on every interface. So a
second pytest, in a namespace of its own (``unshare``), runs these tests of a file, and the first
one takes over its reports one by one.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

INSIDE = "RNN_SEARCH_TESTS_ON_LOOPBACK"
"""Set in the namespace: the number of the file descriptor that takes the reports."""


IFF_UP = 1
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
"""Of Linux; the program `ip` is not everywhere."""


@contextmanager
def other_address(address: str) -> Iterator[None]:
    """Gives the loopback device another address of a network of 16 bits, for a block."""
    _set_address(SIOCSIFADDR, address)
    _set_address(SIOCSIFNETMASK, "255.255.0.0")
    yield
    _set_flags("lo:1", 0)


def _set_flags(device: str, flags: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", device.encode(), flags))


def _set_address(what: int, address: str) -> None:
    packed = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(address))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, what, packed)


class Namespace:
    """The second pytest, which runs the marked tests of one file."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.config = items[0].config
        as_root = ["-n"] if os.getuid() == 0 else ["-rn"]
        ids = [item.nodeid for item in items]
        read, write = os.pipe()
        options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            ["unshare", *as_root, sys.executable, *options, *ids],
            cwd=self.config.rootpath,
            env={**os.environ, INSIDE: str(write)},
            pass_fds=[write],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        os.close(write)
        self.lines = os.fdopen(read)

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Yields a test's reports as they come; if none come, one that says what was printed."""
        for line in self.lines:
            report = self.config.hook.pytest_report_from_serializable(
                config=self.config, data=json.loads(line)
            )
            assert report.nodeid == item.nodeid, f"{report.nodeid} came before {item.nodeid}"
            yield report
            if report.when == "teardown":
                return
        self.process.wait()
        self.output.seek(0)
        said = f"no report came:\n{self.output.read()}"
        yield pytest.TestReport(item.nodeid, item.location, {}, "failed", said, "call")

    def end(self) -> None:
        """Waits for the end of the second pytest, or brings it about if the first was stopped."""
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
        self.lines.close()
        self.output.close()


class Outside:
    """Part of the first pytest: takes the marked tests from it."""

    def __init__(self) -> None:
        self.namespaces: dict[Path, Namespace] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Reports a marked test, which runs elsewhere."""
        if item.get_closest_marker("loopback") is None:
            return None
        if item.path not in self.namespaces:
            same = [other for other in item.session.items if other.path == item.path]
            self.namespaces[item.path] = Namespace(same[same.index(item) :])
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self.namespaces[item.path].reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self) -> None:
        """Leaves no second pytest behind."""
        for namespace in self.namespaces.values():
            namespace.end()


class Inside:
    """Part of the second pytest: hands its reports to the first."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        _set_flags("lo", IFF_UP)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Writes a report as one line."""
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        os.write(int(os.environ[INSIDE]), (json.dumps(data) + "\n").encode())


def pytest_configure(config: pytest.Config) -> None:
    """Takes the part of the first pytest, or of the second."""
    config.pluginmanager.register(Inside(config) if INSIDE in os.environ else Outside())
