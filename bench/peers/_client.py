"""The parent's side of a worker: starts it, asks it, ends it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from residue.errors import ResidueError

__all__ = ["Asked", "PeerError", "Together", "Worker"]

_SCRIPT = Path(__file__).with_name("worker.py")
_START_SECONDS = 120.0


class PeerError(ResidueError):
    """A library cannot be installed, started or used; the message is the reason in its row."""


class Asked(Protocol):
    """What answers requests: a worker, or several."""

    facts: dict[str, Any]
    operations: list[str]

    def ask(self, request: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """The answer to a request. Raises `PeerError`."""

    def close(self) -> None:
        """End it."""


class Worker:
    """One library in its process.

    Args:
        python: the interpreter of its environment.
        adapter: module in `adapters`.
        variant: what the adapter is told.
        cores: CPU numbers it is pinned to.
        environment: its whole environment.
        script: the program, which tests replace.

    Raises:
        PeerError: it did not start; the message says why.
    """

    def __init__(
        self,
        python: Path,
        adapter: str,
        variant: str,
        cores: Sequence[int],
        environment: Mapping[str, str],
        *,
        script: Path = _SCRIPT,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                [python, script, adapter, variant, ",".join(map(str, cores))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=dict(environment),
            )
        except OSError as error:
            self._log.close()
            raise PeerError(f"{python} cannot be started: {error.strerror}") from error
        try:
            hello = self._answer(_START_SECONDS)
            if not isinstance(hello.get("facts"), dict):
                raise PeerError(f"answered {_short(hello)} instead of its facts")
        except PeerError:
            self.close()
            raise
        self.facts: dict[str, Any] = hello["facts"]
        self.operations: list[str] = hello.get("operations", [])

    def ask(self, request: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            PeerError: the library raised, the process ended, or no answer came within `seconds`.
                After the last two the worker is ended and refuses further requests.
        """
        if self._process.poll() is not None:
            raise PeerError(self._ended())
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(self._ended()) from error
        return self._answer(seconds)

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        fd, end = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self._process.kill()
                self._process.wait()
                raise PeerError(f"no answer within {seconds:.0f} s")
            part = os.read(fd, 1 << 16)
            if not part:
                raise PeerError(self._ended())
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise PeerError(f"answered {_short(line)}, which is no JSON") from error
        if not isinstance(answer, dict):
            raise PeerError(f"answered {_short(answer)}, which is no object")
        if "error" in answer:
            raise PeerError(str(answer["error"]))
        return answer

    def _ended(self) -> str:
        code = self._process.wait()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        if self._log.closed:
            return how
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"{how}: {lines[-1][:160]}" if lines else how


class Together:
    """Workers that do the same at the same time, as one that is as fast as all of them."""

    def __init__(self, workers: Sequence[Asked]) -> None:
        self._workers = workers
        self._threads = ThreadPoolExecutor(len(workers))
        self.facts = workers[0].facts
        self.operations = workers[0].operations

    def ask(self, request: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """Answer of the first; times are those of one in which all rates add up.

        Raises `PeerError` as the first worker that does.
        """
        answers = list(self._threads.map(lambda w: w.ask(request, seconds=seconds), self._workers))
        first: dict[str, Any] = answers[0]
        times = [key for key in ("seconds", "cpu_seconds") if key in first]
        return first | {key: 1 / sum(1 / each[key] for each in answers) for key in times}

    def close(self) -> None:
        """End all of them."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()


def _short(what: object) -> str:
    text = repr(what)
    return text if len(text) <= 80 else text[:77] + "..."
