"""A Ray cluster to train on: one that runs already, or one on this machine for the time of a run.

Whoever reaches the ports of a Ray cluster runs code on it, unless it asks for a token. So we always
use one, and a Ray that is started here listens on loopback alone. It runs under a keeper, a process
of its own session, which no signal of a terminal reaches, and which ends it when the coordinator is
gone, however that ended.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from search.errors import ConfigError, TrainerError

CONNECT_SECONDS = 5.0
"""The head of a cluster answers a connection within so many seconds, or is taken to be away."""
LET_IN_SECONDS = 30.0
"""It lets us in within so many, or is taken to be something else."""
SHORT = 30
"""Characters of a folder for temporary files in which Ray's sockets have room."""
OBJECT_STORE_BYTES = 200_000_000
"""Shared memory of a Ray that is started here; what does not fit goes to the disk."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without it Ray takes 127.0.0.1 for an address that others can reach and listens everywhere."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        address: Of its head, ``HOST:PORT``.
        cpus: How many there are on all nodes together.
        gpus: Likewise.
    """

    address: str
    cpus: int
    gpus: float

    def room(self, gpus_per_trial: float) -> int:
        """Returns how many trials can train at the same time, no part of a GPU taken from two."""
        if gpus_per_trial == 0:
            return self.cpus
        if gpus_per_trial < 1:
            return min(self.cpus, int(self.gpus) * int(1 / gpus_per_trial))
        return min(self.cpus, int(self.gpus / gpus_per_trial))

    def is_there(self) -> bool:
        """Says whether the cluster's head can be reached."""
        try:
            socket.create_connection(_host_and_port(self.address), CONNECT_SECONDS).close()
        except OSError:
            return False
        return True


@contextmanager
def open_cluster(address: str | None, cpus: int) -> Iterator[Cluster]:
    """Connects to a cluster for the time of a block.

    Args:
        address: ``HOST:PORT`` of its head; None: starts Ray on this machine.
        cpus: How many trials this machine can train at the same time; for a Ray that is started.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster, or it refuses us.
        TrainerError: Ray does not start here.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--cluster ray needs Ray; install it: pip install 'rnn-search[ray]'")
    with contextlib.ExitStack() as stack:
        if address is None:
            os.environ.update(QUIET | LOOPBACK, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=_own_token())
            address = stack.enter_context(_own_ray(cpus))
        else:
            _check_reachable(address)
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.update(QUIET)
            _check_lets_us_in(address)
        yield stack.enter_context(_connection(address))


@functools.cache
def _own_token() -> str:
    """Returns the token of every Ray that this process starts: Ray reads it once."""
    return secrets.token_hex(32)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--address {address}: give HOST:PORT of the cluster's head node")
    return host.strip("[]"), int(port)


def _check_reachable(address: str) -> None:
    """Tries the address first, because Ray would for a minute."""
    try:
        socket.create_connection(_host_and_port(address), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"--address {address}: no Ray answers there ({error.strerror or error}); "
            "`ray start --head` prints the address of a head node"
        ) from None


def _check_lets_us_in(address: str) -> None:
    """Connects in another process, because Ray logs a refusal for long and may not come back."""
    command = [sys.executable, "-m", "search.ray_cluster", "try", address]
    few = {**os.environ, "RAY_NUM_REDIS_GET_RETRIES": "2"}
    try:
        tried = subprocess.run(
            command, env=few, capture_output=True, text=True, check=False, timeout=LET_IN_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"--address {address}: what answers there is no Ray") from None
    if tried.returncode:
        raise ConfigError(f"--address {address}: {_explained(tried.stdout, tried.stderr)}")


def _explained(said: str, logged: str) -> str:
    """Returns in one line why Ray did not let us in, and what to do about it."""
    text = " ".join(said.split())
    if "token" in f"{said}{logged}".lower():
        return (
            "the cluster does not take this token, or there is none; put the one of its head node "
            "into ~/.ray/auth_token, or its path into RAY_AUTH_TOKEN_PATH"
        )
    if "ersion mismatch" in text:
        return f"{text[:300]}; install the same Ray and Python on every node"
    if "node" in text and ("find" in text or "match" in text):
        return (
            "this machine is no node of the cluster; make it one that trains nothing: "
            f"ray start --num-cpus=0 --address HOST:PORT (Ray says: {text[:200]})"
        )
    return f"Ray says: {text[:300] or logged[-300:].strip()}"


@contextmanager
def _connection(address: str) -> Iterator[Cluster]:
    import ray

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # Ray tells the head this process's arguments, for all to see: --storage may have a password.
    ray._private.utils.get_entrypoint_name = lambda: "rnn-search"
    try:
        ray.init(address, log_to_driver=False, configure_logging=False)
        # Ray's words on workers that died would stand among ours, even in the output of --json.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    except Exception as error:  # Ray raises whatever its parts do.
        raise TrainerError(f"{address}: {_explained(str(error), '')}") from None
    finally:
        for number, handler in before.items():  # Ray takes SIGTERM for itself.
            signal.signal(number, handler)
    try:
        found = ray.cluster_resources()
        yield Cluster(address, int(found.get("CPU", 0)), float(found.get("GPU", 0)))
    finally:
        ray.shutdown()


@contextmanager
def _own_ray(cpus: int) -> Iterator[str]:
    """Runs the keeper for the time of a block and yields the address of its Ray."""
    with tempfile.TemporaryFile("w+") as said:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "search.ray_cluster", "keep", str(cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        try:
            assert keeper.stdout is not None
            address = keeper.stdout.readline().strip()
            if not address:
                said.seek(0)
                reason = (said.read().strip().splitlines() or ["no reason given"])[-1]
                raise TrainerError(f"Ray does not start on this machine: {reason}")
            yield address
        finally:
            keeper.communicate()  # It waits for the end of its input.


def _keep(cpus: int) -> None:
    """Runs Ray until standard input ends: the keeper's process."""
    import ray

    # The path of a socket may have 107 bytes, of which Ray takes 60.
    room = None if len(tempfile.gettempdir()) < SHORT else "/tmp"
    place = tempfile.mkdtemp(prefix="rnn-ray-", dir=room)
    # What a killed trainer leaves goes with it, and what Ray notes for programs that look for one.
    os.environ["TMPDIR"] = place
    Path(place, "ray").mkdir()
    try:
        context = ray.init(
            num_cpus=cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            _temp_dir=place,
        )
        print(context.address_info["gcs_address"], flush=True)
        sys.stdout = sys.stderr  # Nobody reads more than the address.
        sys.stdin.read()
        ray.shutdown()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _try(address: str) -> None:
    """Connects once and says why not if it cannot."""
    import ray

    try:
        ray.init(address, log_to_driver=False, configure_logging=False)
    except Exception as error:
        print(error)
        sys.exit(1)
    ray.shutdown()


if __name__ == "__main__":
    _keep(int(sys.argv[2])) if sys.argv[1] == "keep" else _try(sys.argv[2])
