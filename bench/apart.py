"""All parties of a job as processes, each in a network namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.netlab import Lab
from residue_federated import Job, TrialAuthority
from residue_federated._checkpoint import write_json

__all__ = ["Apart", "apart"]

_PORT = 7100


class Apart:
    """The running parties of a job below `directory`, by name in `processes`."""

    def __init__(self, job: Job, directory: Path, processes: Mapping[str, subprocess.Popen[str]]):
        self.processes = processes
        self._job, self._directory = job, directory

    def wait(self, timeout: float) -> None:
        """Until all have ended; an error of any is told with what it printed."""
        for name, process in self.processes.items():
            process.wait(timeout)
            assert process.returncode == 0, f"{name}: {self.said(name)}"

    def said(self, party: str) -> str:
        """What a party has printed so far."""
        return (self._directory / f"{party}.log").read_text()

    def reports(self) -> dict[str, dict[str, Any]]:
        """What each party reports, once all have ended."""
        paths = {p.name: self._directory / p.name / "report.json" for p in self._job.parties}
        return {name: json.loads(path.read_text()) for name, path in paths.items()}


@contextmanager
def apart(
    lab: Lab,
    job: Job,
    directory: Path,
    *,
    resume: bool = False,
    source: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Apart]:
    """Start every party of `job` in its namespace of `lab`; in the end none is left running.

    resume: from what an earlier run left below `directory`. source: another ``federated`` folder
    to run. environment: more of it.
    """
    # What says nothing is left out: another source may not know it.
    content = job.model_dump(mode="json", exclude_defaults=True)
    for party in (content["guest"], *content["hosts"], *filter(None, [content.get("arbiter")])):
        party["address"] = f"{lab.addresses[party['name']]}:{_PORT}"
    write_json(directory / "job.json", content)
    authority = TrialAuthority()
    places = [str(source)] if source else []
    path = os.pathsep.join([*places, *(p for p in sys.path if p)])
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for party in job.parties:
            own, name = directory / party.name, party.name
            if not resume:
                authority.issue(own, name)
            command = [*lab.command(name), sys.executable, "-m", "residue_federated", "party"]
            command += ["--job", str(directory / "job.json"), "--party", name]
            command += ["--certificates", str(own), "--out", str(own)]
            command += ["--listen", f"{lab.addresses[name]}:{_PORT}"]
            with open(directory / f"{name}.log", "a") as log:
                processes[name] = subprocess.Popen(
                    [*command, "--resume"] if resume else command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    text=True,
                    env={**os.environ, "PYTHONPATH": path, **(environment or {})},
                )
        yield Apart(job, directory, processes)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
