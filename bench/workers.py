"""What worker processes gain for a party's plain work, piece by piece.

    python -m bench.workers --rows 1000000 --columns 40 --processes 2

does each piece by so many workers, which have been started, and in the party's own process, in
turns, and prints as JSON: its seconds and processor seconds in the own process, and the ratio of
those with workers to these, medians over --turns; also the seconds that workers took to start, and
the private memory of the one that has most in the end; then the processor nanoseconds of what is
left to the party's process, with 100,000 rows at most.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from residue_federated._data import Table
from residue_federated._generated import credit
from residue_federated._scratch import Scratch, column_results
from residue_federated._workers import LocalWorkers
from residue_federated.boosting._bins import Cuts
from residue_federated.boosting._histogram import Members, count
from residue_federated.features._bins import Bins
from residue_federated.features._impute import _value
from residue_federated.psi._dh import safe_prime
from residue_federated.psi._hash import encode, fingerprints, residues_of

_BATCH = 4096


def pieces(
    rows: int, columns: int, workers: LocalWorkers
) -> dict[str, Callable[[Scratch], object]]:
    """Name -> the work, given who does it."""
    made = credit(
        rows, columns * 5 // 4, 0, 0.02, hosts=1, host=0, scratch=Scratch(workers=workers)
    )
    x, entries, modulus = made.x, encode(made.ids), safe_prime(2048)
    cuts = Cuts.of(x, 32)
    parts = [slice(start, start + _BATCH) for start in range(0, rows, _BATCH)]
    return {
        "cuts of trees": partial(Cuts.of, x, 32),
        "bins of trees": partial(cuts.apply, x),
        "cuts of features": partial(Bins.of, x, 10),
        "medians": lambda scratch: list(
            column_results(_value, x, ["median"] * x.shape[1], scratch)
        ),
        "hashes of identifiers": lambda scratch: [
            len(part) for part in residues_of(entries, parts, modulus, b"", scratch)
        ],
    }


def left(rows: int, columns: int) -> dict[str, float]:
    """Nanoseconds of what has no workers, the least of three times."""
    made = credit(rows, columns * 5 // 4, 0, 0.02, hosts=1, host=0)
    table = Table(made.ids, made.names, made.x)
    x, entries = made.x, encode(made.ids)
    binned = Cuts.of(x, 32).apply(x)
    members = Members(np.arange(rows), np.arange(rows) % 8, 8)
    limbs = np.zeros((rows, 32), np.uint64)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "table.parquet")
        works: dict[str, tuple[int, Callable[[], object]]] = {
            "standardise, a value": (x.size, lambda: table.standardised(target=False)),
            "write, a value": (x.size, lambda: table.write(path)),
            "count cells of a level, a value": (x.size, lambda: count(members, binned)),
            "fingerprint, a row": (rows, lambda: fingerprints(entries, limbs, limbs[:1], b"")),
        }
        return {
            name: round(
                min(timeit.repeat(work, timer=time.process_time, repeat=3, number=1)) / of * 1e9
            )
            for name, (of, work) in works.items()
        }


def spent(workers: LocalWorkers, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that something takes, and processor seconds of this process and the workers."""
    start, used = time.perf_counter(), _used(workers)
    work()
    return time.perf_counter() - start, _used(workers) - used


def _used(workers: LocalWorkers) -> float:
    there = (Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in workers.pids)
    return time.process_time() + sum(map(int, there)) / 1e9


def _private(pid: int) -> int:
    """Private memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    workers = LocalWorkers(arguments.processes)
    work = pieces(arguments.rows, arguments.columns, workers)
    tasks = [([n],) for n in range(arguments.processes)]
    start, _ = spent(workers, lambda: list(workers.each(np.sum, tasks)))
    result: dict[str, object] = {}
    for name, piece in work.items():
        turns = np.array(
            [
                [
                    spent(workers, partial(piece, who))
                    for who in (Scratch(), Scratch(workers=workers))
                ]
                for _ in range(arguments.turns)
            ]
        )
        alone = np.median(turns[:, 0], axis=0)
        wall, processor = np.median(turns[:, 1] / turns[:, 0], axis=0)
        result[name] = {
            "seconds": round(alone[0], 2),
            "processor": round(alone[1], 2),
            "ratio": round(wall, 2),
            "processor_ratio": round(processor, 2),
        }
    private = max(map(_private, workers.pids))
    workers.close()
    found: dict[str, object] = {
        "start_seconds": round(start, 2),
        "private_mib": private,
        "pieces": result,
    }
    found["left_ns"] = left(min(arguments.rows, 100_000), arguments.columns)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
