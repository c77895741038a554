"""Boards as processes of their own, for tests and demonstrations."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from residue.errors import DeviceError
from residue_sim.board._build import card_library
from residue_sim.manifest import configurations

__all__ = ["FAULTS_FILE", "IN_USE", "PORT", "READY", "launch"]

PORT = 7967
"""Where PYNQ looks for a remote board. It takes no other, so boards differ in their address."""

READY = "READY"
"""First word of the line a board prints once it answers; the address follows."""

IN_USE = 98
"""Exit status of a board whose address another program listens on."""

FAULTS_FILE = "/sys/kernel/debug/residue/faults"
"""Virtual file of a served board: a JSON list of the fields of faults (`kind` by name) written
there replaces the faults in force, `[]` clears them."""

_TRIES = 32


@contextlib.contextmanager
def launch(
    n: int = 1,
    *,
    config: str = "r21",
    latency: str = "fast",
    seed: int = 1,
    traces: Sequence[Path] = (),
    timeout: float = 60,
) -> Iterator[list[str]]:
    """Start `n` boards on loopback addresses of their own; their addresses, for `pynq`.

    The card is built first, if needed. The boards end with the context.

    Args:
        n: how many.
        config: entry of `hw/configs.yaml`.
        latency: as `Latency.parse` takes it.
        seed: board i uses ``seed + i``.
        traces: FST files, none or one a board.
        timeout: seconds for a board to answer.

    Raises:
        DeviceError: a board did not start; the message ends with what it said.
        VerilatorError: the card did not build.
    """
    if len(traces) not in (0, n):
        raise ValueError(f"{len(traces)} traces for {n} boards: expected none or one a board")
    card_library(configurations()[config], trace=bool(traces))
    with contextlib.ExitStack() as stack:
        boards = []
        for index in range(n):
            arguments = ["--config", config, "--latency", latency, "--seed", str(seed + index)]
            if traces:
                arguments += ["--trace", str(traces[index])]
            boards.append(stack.enter_context(contextlib.closing(_Process(arguments))))
        for board in boards:
            board.wait(timeout)
        yield [board.host for board in boards]


@functools.cache
def _hosts() -> Iterator[str]:
    """Loopback addresses; other processes are likely to begin elsewhere in 127/8.

    A process never comes back to one: gRPC keeps what it knows of a board that has gone (closed
    channels, the time until it tries to connect again) by address.
    """
    return (
        f"127.{1 + number // 64516 % 254}.{1 + number // 254 % 254}.{1 + number % 254}"
        for number in itertools.count(os.getpid() * _TRIES)
    )


class _Process:
    """A board's process, moved to another address while its own is taken."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._start()

    def _start(self) -> None:
        self.host = next(_hosts())
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "residue_sim.board", "--host", self.host, *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def wait(self, timeout: float) -> None:
        """Return when the board answers; raises `DeviceError` if it does not come to that."""
        for _ in range(_TRIES):
            if self._ready(timeout):
                return
            if self._process.poll() != IN_USE:
                self._log.seek(0)
                raise DeviceError(
                    f"the board on {self.host} did not start within {timeout:.0f} s: "
                    f"{self._log.read()[-2000:].strip() or 'it said nothing'}"
                )
            self.close()
            self._start()
        raise DeviceError(f"no free loopback address for a board on port {PORT}")

    def _ready(self, timeout: float) -> bool:
        """Whether the board said READY before it ended or the time was over."""
        output = self._process.stdout
        assert output is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                line = output.readline()
                if line.startswith(READY):
                    return True
                if not line:
                    self._process.wait(timeout=10)
                    return False
        return False

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
