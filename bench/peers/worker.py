"""One library in a process of its own: reads requests and writes answers, a line of JSON each.

Run by path, ``worker.py ADAPTER VARIANT CORES``, with the Python of the library's environment; it
and `adapters` need nothing but the standard library and the library measured.

On start: ``{"facts": {...}, "operations": [...]}``. Then, for each request, one of

- ``{"do": "key", "bits": b, "inputs": {...}}`` -> ``{}``: a fresh key; the numbers to work on;
- ``{"do": "turn", "operation": o, "count": n, "repeat": r}`` -> ``{"seconds": s,
  "cpu_seconds": c}``: r times the operation on the first n elements, operands prepared before the
  clock starts;
- ``{"do": "answers", "operation": o, "limit": n}`` -> ``{"answers": [...]}``: the plaintexts of
  the last turn's result.

or ``{"error": why}``. The process ends with its standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Serve one library until standard input ends."""
    name, variant, cores = sys.argv[1:]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    # Libraries print to standard output; the protocol keeps it to itself.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    try:
        adapter = importlib.import_module(f"adapters.{name}").Adapter(variant)
    except Exception as error:
        answer({"error": reason(error)})
        return
    answer({"facts": adapter.facts, "operations": list(adapter.operations)})
    service = Service(adapter)
    for line in sys.stdin:
        try:
            answer(service.handle(json.loads(line)))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # panics of Rust are no Exceptions
            answer({"error": reason(error)})


class Service:
    """What a worker keeps between requests."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._turns: dict[tuple[str, int], Any] = {}
        self._results: dict[str, Any] = {}

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; raise what the library raises."""
        if request["do"] == "key":
            self._turns.clear()
            self._results.clear()
            self._adapter.key(request["bits"], request["inputs"])
            return {}
        operation = request["operation"]
        if request["do"] == "turn":
            return self._turn(operation, request["count"], request["repeat"])
        if request["do"] == "answers":
            result = self._results[operation]
            return {"answers": self._adapter.answers(operation, result, request["limit"])}
        raise ValueError(f"unknown request {request['do']!r}")

    def _turn(self, operation: str, count: int, repeat: int) -> dict[str, Any]:
        if (operation, count) not in self._turns:
            self._turns[operation, count] = self._adapter.prepare(operation, count)
        turn = self._turns[operation, count]
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(repeat):
            result = turn()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        self._results[operation] = result
        return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def reason(error: BaseException) -> str:
    """An error in one line: C++ libraries put theirs at the end of several."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("Error: ")), lines[0] if lines else "")
    told = told.removeprefix("Error: ")[:200]
    return told if " " in told else f"{type(error).__name__}: {told}"


if __name__ == "__main__":
    main()
