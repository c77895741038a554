"""Throughput, message rate and job time over lines of some delay and loss, as a table.

``python -m bench.transport measure`` needs root, for network namespaces. With ``--before DIR``,
another checkout's ``federated`` folder, each cell is measured with both in turn::

    git worktree add build/before 1f56081
    python -m bench.transport measure --before build/before/federated

Delay is that of the round trip. Payload of the large messages is random, one record of 1 MiB each;
the time is from the first message leaving to the answer to the last, so a round trip is in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.apart import apart
from bench.netlab import Lab, Line, why_not
from residue_federated import Identity, TrialAuthority, load_job
from residue_federated._jobs import Transport
from residue_federated.proto import v1

try:
    from residue_federated.transport import Endpoint
except ImportError:  # the engine of `--before`, where it had another place
    from residue_federated._transport import Endpoint  # type: ignore[import-not-found, no-redef]

ROOT = Path(__file__).resolve().parents[1]
LARGE, SMALL = 2**20, 2**10
PORT = 7200

app = typer.Typer(add_completion=False)


def payload(size: int) -> v1.Payload:
    array = v1.Array(dtype="|u1", shape=[size], data=os.urandom(size))
    return v1.Payload(record=v1.Record(arrays={"x": array}))


@app.command(hidden=True)
def party(name: str, peer: str, here: str, there: str, directory: Path, counts: str) -> None:
    """One side of a measurement: `a` sends, `b` answers each series."""
    identity = Identity.load(directory / name, name)
    settings = Transport(peer_timeout=120, connect_timeout=120)
    large, small = map(int, counts.split(","))
    series = {"large": (large, payload(LARGE)), "small": (small, payload(SMALL))}
    figures: dict[str, float] = {}
    with Endpoint(name, "bench", identity, settings, listen=f"{here}:{PORT}") as endpoint:
        endpoint.connect({peer: f"{there}:{PORT}"})
        for title, (count, content) in series.items():
            if name == "b":
                for number in range(count):
                    endpoint.receive(peer, f"{title}/{number}")
                endpoint.send(peer, f"{title}/end", payload(1))
                continue
            start = time.perf_counter()
            for number in range(count):
                endpoint.send(peer, f"{title}/{number}", content)
            endpoint.receive(peer, f"{title}/end")
            figures[title] = count / (time.perf_counter() - start)
    print(json.dumps(figures))


def rates(lab: Lab, source: Path | None, counts: str) -> dict[str, float]:
    """Large and small messages a second."""
    path = os.pathsep.join([*([str(source)] if source else []), *(p for p in sys.path if p)])
    here = lab.addresses
    with tempfile.TemporaryDirectory() as directory:
        authority = TrialAuthority()
        for name in ("a", "b"):
            authority.issue(Path(directory) / name, name)
        processes = [
            subprocess.Popen(
                [
                    *lab.command(name),
                    *(sys.executable, "-m", "bench.transport", "party"),
                    *(name, peer, here[name], here[peer], directory, counts),
                ],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
            )
            for name, peer in (("a", "b"), ("b", "a"))
        ]
        try:
            said = [process.communicate(timeout=900)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
    found: dict[str, float] = json.loads(said[0])
    return found


def job_seconds(lab: Lab, source: Path | None, job_file: Path) -> float:
    """Seconds from the first round's start to the last round's end, at the slowest party."""
    job = load_job(job_file)
    with tempfile.TemporaryDirectory() as directory:
        with apart(lab, job, Path(directory), source=source) as parties:
            parties.wait(900)
        reports = parties.reports().values()
    seconds = [sum(c["seconds"] for c in report["components"]) for report in reports]
    return float(max(seconds))


@app.command()
def measure(
    before: Annotated[Path | None, typer.Option(help="Another `federated` folder.")] = None,
    delays: Annotated[str, typer.Option(help="Round trips, ms.")] = "0,10,50,100",
    losses: Annotated[str, typer.Option(help="Shares of packets lost.")] = "0,0.001,0.01",
    jobs: Annotated[str, typer.Option(help="Of examples/.")] = "breast_lr,breast_sbt",
    congestion: Annotated[str, typer.Option(help="TCP's congestion control.")] = "cubic",
    rate: Annotated[float, typer.Option(help="Of the line, Mbit/s.")] = 200.0,
    seed: Annotated[int, typer.Option(help="Of the draws of loss.")] = 1,
) -> None:
    """Print one row a line of the grid."""
    if (reason := why_not()) is not None:
        raise typer.BadParameter(reason)
    titles = [title for title in jobs.split(",") if title]
    files = [ROOT / "examples" / f"{title}.yaml" for title in titles]
    sources = {"before": before.resolve(), "after": None} if before else {"now": None}
    units = ["MiB/s", "messages/s", *(f"{title}, s" for title in titles)]
    print(f"{congestion}, line of {rate:g} Mbit/s, seed {seed}")
    row([f"{unit} {label}" for unit in units for label in sources], "round trip, ms", "loss")
    for delay in map(float, delays.split(",")):
        for loss in map(float, losses.split(",")):
            slow = congestion != "bbr" and delay >= 50 and loss >= 0.01
            counts = "4,30" if slow else "16,50"
            cells: dict[str, list[float]] = {}
            for label, source in sources.items():
                line = Line(delay, loss, rate * 1e6)
                with Lab(["a", "b"], line, seed=seed, congestion=congestion) as lab:
                    found = rates(lab, source, counts)
                cells[label] = [found["large"] * LARGE / 2**20, found["small"]]
                for file in files:
                    names = [party.name for party in load_job(file).parties]
                    with Lab(names, line, seed=seed, congestion=congestion) as lab:
                        cells[label].append(job_seconds(lab, source, file))
            values = [f"{cells[label][at]:.3g}" for at in range(len(units)) for label in sources]
            row(values, f"{delay:g}", f"{loss:.1%}")


def row(values: Sequence[Any], *head: str) -> None:
    print("| " + " | ".join([*head, *values]) + " |", flush=True)


if __name__ == "__main__":
    app()
