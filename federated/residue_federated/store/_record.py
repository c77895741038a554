"""A run and its store, as a context manager."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from residue_federated._jobs import Job
from residue_federated.errors import StoreError, StoreWarning
from residue_federated.store._rows import Kind
from residue_federated.store._store import Store
from residue_federated.store._writer import RunWriter

__all__ = ["recorded"]


@contextmanager
def recorded(
    job: Job,
    folder: Path,
    party: str | None = None,
    *,
    target: Path | None = None,
    kind: Kind = "train",
    resumed: bool = False,
) -> Iterator[RunWriter]:
    """Note a run in the store beside `folder`, from the block's start to its end.

    target: what the folder is called after a good end, if not the same. A store that cannot be
    used costs a `StoreWarning`, never the run.
    """
    folder, target = folder.absolute(), (target or folder).absolute()
    directory = folder.parent
    try:
        for path in (folder, target):
            _check_name(path)
        store = Store.open(directory, create=True)
        writer = store.begin(job, folder, party, kind=kind, resumed=resumed)
    except StoreError as error:
        warnings.warn(f"this run is not noted: {error}", StoreWarning, stacklevel=3)
        writer = RunWriter(None, 0, folder, "", party)
    try:
        yield writer
    except BaseException as error:
        writer.failed(error)
        raise
    writer.finished(target)


def _check_name(path: Path) -> None:
    """Raise `StoreError` for a folder that a store cannot name: it holds text."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"the name of the folder {str(path)!a} is not UTF-8") from error
