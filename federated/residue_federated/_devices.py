"""The devices of several jobs of one process, each job with arrays and statistics of its own."""

from __future__ import annotations

import tempfile
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from residue.backends import Backend, available_backends, get_backend
from residue.owner import Owner

__all__ = ["Devices"]


class Devices:
    """Opens devices for jobs; a context manager, safe to use from several threads.

    Of the CPU every job gets a backend of its own. A card or GPU is there once: an owner in this
    process serves it, and every job gets a session there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: dict[str, Path] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Devices:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, name: str) -> Backend:
        """A backend for one job, which closes it. Raises `BackendError` as `get_backend`."""
        if name == "auto" and not {"card", "gpu"} & set(available_backends()):
            name = "cpu"
        if name.partition(":")[0] not in ("cpu", "owner"):
            name = f"owner:{self._served(name)}"
        return get_backend(name, own=True)

    def _served(self, name: str) -> Path:
        """The socket of the owner of a device."""
        with self._lock:
            if name not in self._owners:
                directory = self._stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="residue-")
                )
                path = Path(directory) / "device"
                self._stack.enter_context(Owner(partial(get_backend, name), path))
                self._owners[name] = path
            return self._owners[name]
