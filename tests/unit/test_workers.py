"""Worker processes: the same bits for any number, tables that are shared, and how they end."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from residue_federated import _scratch
from residue_federated._jobs import Job, Party
from residue_federated._mapping import Lent, lent
from residue_federated._scratch import Growing, Scratch, column_results, is_mapped, permuted
from residue_federated._workers import LocalWorkers
from residue_federated.boosting._bins import Cuts
from residue_federated.errors import DataError, WorkerLost
from residue_federated.features._bins import Bins
from residue_federated.features._impute import _value
from residue_federated.psi._dh import safe_prime
from residue_federated.psi._hash import encode, residues, residues_of

RNG = np.random.default_rng(5)
X = np.where(RNG.random((300, 7)) < 0.05, np.nan, RNG.normal(size=(300, 7)))
PATIENCE = 30.0
"""Seconds for processes to vanish, on a machine that is busy."""


@pytest.fixture
def workers() -> Iterator[LocalWorkers]:
    made = LocalWorkers(2)
    yield made
    made.close()


@pytest.fixture
def partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 values, so that the table has many."""
    monkeypatch.setattr(_scratch, "_PARTITION", 200)


def learnt(x: NDArray[np.float64], scratch: Scratch) -> list[bytes]:
    """The bits of all that is worked out by partitions."""
    cuts, bins = Cuts.of(x, 8, scratch), Bins.of(x, 5, scratch)
    fills = [["mean", "median", 0.5][j % 3] for j in range(x.shape[1])]
    values = list(column_results(_value, x, fills, scratch))
    entries, parts = encode([str(i) for i in range(50)]), [slice(0, 20), slice(20, 50)]
    hashes = np.concatenate(list(residues_of(entries, parts, safe_prime(2048), b"d", scratch)))
    assert hashes.tobytes() == residues(entries, safe_prime(2048), b"d").tobytes()
    return [
        *(each.tobytes() for each in [*cuts.cuts, *bins.cuts]),
        bins.missing.tobytes(),
        cuts.apply(x, scratch).columns.tobytes(),
        np.array(values).tobytes(),
    ]


@pytest.mark.usefixtures("partitions")
@pytest.mark.parametrize(("count", "most"), [(2, None), (3, 0)], ids=["memory", "disk"])
def test_any_number_of_workers_gives_the_same_bits(
    count: int, most: int | None, tmp_path: Path
) -> None:
    workers = LocalWorkers(count)
    scratch = Scratch(most, tmp_path, workers)
    x = scratch.empty(X.shape)
    x[:] = X
    assert is_mapped(x) == (most == 0)
    assert isinstance(lent(x), Lent)
    assert learnt(x, scratch) == learnt(X, Scratch())
    assert 1 < len(workers.pids) <= count
    workers.close()


@pytest.mark.usefixtures("partitions")
def test_tables_are_shared_and_not_sent(workers: LocalWorkers) -> None:
    scratch = Scratch(workers=workers)
    grown = Growing(scratch, 7)
    for block in np.array_split(X, 3):
        grown.append(block)
    x, order = grown.array(), RNG.permutation(300)
    for table, values in ((x, X), (permuted(x, order, scratch), X[order])):
        for view, same in ((table, values), (table[::-2, 3:].T, values[::-2, 3:].T)):
            there = lent(view)
            assert isinstance(there, Lent)
            assert len(pickle.dumps(there)) < 500
            np.testing.assert_array_equal(there.array(), same)
    there.array()[0, 0] = 4.0
    assert table[-1, 3] == 4.0
    assert lent(X) is X
    assert lent("x") == "x"


@pytest.mark.usefixtures("partitions")
def test_shared_memory_ends_with_its_array(workers: LocalWorkers) -> None:
    gc.collect()
    before = _shared()
    x = Scratch(workers=workers).empty(X.shape)
    view, there = x[3:], lent(x)
    assert _shared() > before
    del x, view
    gc.collect()
    assert _shared() == before
    with pytest.raises(FileNotFoundError):
        there.array()


def _shared() -> int:
    """Descriptors and mappings of shared memory in this process."""
    maps = Path("/proc/self/maps").read_text().count("memfd:table")
    links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()]
    return maps + sum("memfd:table" in link for link in links)


def test_memory_that_lacks_is_told(workers: LocalWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"no room for a table of 64 MiB in memory: Cannot"):
        Scratch(workers=workers).empty((1 << 23,))


def test_there_is_none_without_a_second_partition(
    workers: LocalWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = Scratch(workers=workers)
    x = scratch.empty(X.shape)
    x[:] = X
    assert lent(x) is x
    learnt(x, scratch)
    assert workers.pids == []
    monkeypatch.setattr(_scratch, "_PARTITION", X.size)
    learnt(x, scratch)
    assert workers.pids == []
    for count in (0, 1):
        monkeypatch.setattr(_scratch, "_PARTITION", 200)
        none = LocalWorkers(count)
        learnt(x, Scratch(workers=none))
        assert none.pids == []


def test_by_default_there_is_one_a_core() -> None:
    cores = len(os.sched_getaffinity(0))
    assert LocalWorkers().count == (cores if cores > 1 else 0)


def test_errors_of_tasks_come_in_their_order(workers: LocalWorkers) -> None:
    found = workers.each(int, ((text,) for text in "012x4567"))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="invalid literal"):
        next(found)
    assert list(workers.each(int, [("4",), ("5",)])) == [4, 5]


def test_a_worker_that_is_killed_is_told(workers: LocalWorkers) -> None:
    running = workers.each(time.sleep, [(0.0,), (60.0,), (60.0,)])
    next(running)
    os.kill(workers.pids[0], signal.SIGKILL)
    for tasks in (running, workers.each(time.sleep, [(0.0,)])):
        with pytest.raises(WorkerLost, match=r"a worker process ended.*resume the job"):
            list(tasks)


CHILD = """
import time
from residue_federated._workers import LocalWorkers
workers = LocalWorkers(2)
tasks = workers.each(time.sleep, [(0.0,), (600.0,), (600.0,), (600.0,), (600.0,)])
next(tasks)
print(*workers.pids, flush=True)
next(tasks)
"""


def test_workers_end_with_a_party_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True
    ) as party:
        assert party.stdout is not None
        pids = [int(pid) for pid in party.stdout.readline().split()]
        children = Path(f"/proc/{party.pid}/task/{party.pid}/children").read_text().split()
        assert len(pids) == 2
        assert all(map(_alive, [*pids, *map(int, children)]))
        party.kill()
    _until(lambda: not any(map(_alive, [*pids, *map(int, children)])))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_parties_choose_how_many() -> None:
    assert [Party(name="host", processes=n, ray="auto").processes for n in (0, 256)] == [0, 256]
    with pytest.raises(ValueError, match="less than or equal to 256"):
        Party(name="host", processes=257)
    content = {
        "name": "small",
        "guest": {"name": "guest", "data": {"sklearn": "breast_cancer"}},
        "hosts": [{"name": "host", "data": {"sklearn": "breast_cancer"}}],
        "components": {"scale": {"type": "standardise"}},
    }
    job = Job.model_validate(content)
    chosen = job.replace(processes={"guest": 3})
    assert (chosen.guest.processes, chosen.hosts[0].processes) == (3, None)
    assert chosen.digest == job.digest
