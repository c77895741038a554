"""What a run ends with: one JSON object, and the same as tables for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from residue_federated._jobs import Job
from residue_federated._party import PartyReport
from residue_federated._twin import Twin
from residue_federated.errors import FederatedError

__all__ = ["compare_gradients", "result_of", "show_result"]


def result_of(job: Job, reports: dict[str, PartyReport], twin: Twin) -> dict[str, Any]:
    """The result of a trial as one JSON object.

    device: of all parties, or name -> device where they differ. operations: a row for each party
    and operation, from the counters of that party's device; ring_utilisation is busy product slots
    over cycles, null where the device does not count cycles.
    """
    guest = reports[job.guest.name]
    devices = {party.name: party.device for party in job.parties}
    same = len(set(devices.values())) == 1
    keys = guest.metrics.keys() & twin.metrics.keys()
    return {
        "job": job.name,
        "algorithm": job.algorithm,
        "rows": guest.rows,
        "key_bits": job.key.bits,
        "device": job.guest.device if same else devices,
        "epochs": guest.epochs,
        "seconds_per_epoch": guest.seconds / guest.epochs,
        "losses": guest.losses,
        "metrics": guest.metrics,
        "plaintext_losses": twin.losses,
        "plaintext_metrics": twin.metrics,
        "distance": {key: abs(guest.metrics[key] - twin.metrics[key]) for key in sorted(keys)},
        "operations": [
            {
                "party": report.party,
                "device": report.device["name"],
                **row,
                "ring_utilisation": _utilisation(row),
            }
            for report in reports.values()
            for row in report.operations
        ],
        "parties": {
            report.party: {
                key: value
                for key, value in asdict(report).items()
                if key in ("role", "device", "messages", "bytes")
            }
            for report in reports.values()
        },
    }


def _utilisation(row: dict[str, Any]) -> float | None:
    return row["busy_slots"] / row["ring_slots"] if row["ring_slots"] else None


def compare_gradients(
    job: Job, reports: dict[str, PartyReport], again: dict[str, PartyReport]
) -> int:
    """How many decrypted gradients two traced runs of a job have in common: all, or an error.

    Raises `FederatedError` naming the first party and step that differ.
    """
    compared = 0
    for party in (job.guest, *job.hosts):
        one, other = reports[party.name].gradients, again[party.name].gradients
        if one is None or other is None:
            raise FederatedError("gradients can be compared only of traced runs")
        for step, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                raise FederatedError(
                    f"{party.name}'s decrypted gradients of step {step + 1} differ from the CPU's"
                )
            compared += len(a)
    return compared


def show_result(console: Console, result: dict[str, Any]) -> None:
    """Print metrics, their distance from the plaintext twin, and the table of operations."""
    quality = _table("Quality", "metric", "encrypted", "in the clear", "distance")
    for name, value in result["metrics"].items():
        twin, distance = result["plaintext_metrics"][name], result["distance"][name]
        quality.add_row(name, f"{value:.6f}", f"{twin:.6f}", f"{distance:.1e}")
    console.print(quality)
    table = _table(
        "Operations", "operation", "party", "device", "calls", "results", "products",
        "card cycles", "ring busy", "host seconds",
    )  # fmt: skip
    for row in result["operations"]:
        utilisation = row["ring_utilisation"]
        table.add_row(
            row["operation"],
            row["party"],
            row["device"],
            f"{row['calls']:,}",
            f"{row['elements']:,}",
            _count(row["products"]),
            _count(row["device_cycles"]),
            "-" if utilisation is None else f"{utilisation:.1%}",
            f"{row['host_seconds']:.2f}",
        )
    console.print(table)
    console.print(
        f"{result['algorithm']}, {result['rows']} rows, {result['key_bits']}-bit key: "
        f"{result['epochs']} epochs, {result['seconds_per_epoch']:.3f} s each"
    )
    if "verified_gradients" in result:
        console.print(
            f"The CPU backend's decrypted gradients are identical: {result['verified_gradients']:,}"
            " integers compared, none differs."
        )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=SIMPLE, padding=(0, 1), title_justify="left")
    for column in columns:
        words = column in ("metric", "operation", "party", "device")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"
