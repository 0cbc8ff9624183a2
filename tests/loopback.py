"""Runs tests marked ``loopback`` in a network namespace that has nothing but 127.0.0.1.

Ray takes 127.0.0.1 for an address that other hosts reach and then listens on every interface. So a
second pytest, in a namespace of its own (``unshare``), runs these tests of a file, and the first
one takes over its reports one by one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

INSIDE = "RNN_SEARCH_TESTS_ON_LOOPBACK"
"""Set in the namespace: the number of the file descriptor that takes the reports."""


class Namespace:
    """The second pytest, which runs the marked tests of one file."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.config = items[0].config
        as_root = ["-n"] if os.getuid() == 0 else ["-rn"]
        script = 'ip link set lo up && exec "$@"'
        ids = [item.nodeid for item in items]
        read, write = os.pipe()
        options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            ["unshare", *as_root, "sh", "-c", script, "sh", sys.executable, *options, *ids],
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

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Writes a report as one line."""
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        os.write(int(os.environ[INSIDE]), (json.dumps(data) + "\n").encode())


def pytest_configure(config: pytest.Config) -> None:
    """Takes the part of the first pytest, or of the second."""
    config.pluginmanager.register(Inside(config) if INSIDE in os.environ else Outside())
