"""What a run ends with: one JSON object, and the same as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from residue_federated._context import Twin
from residue_federated._display import table_of
from residue_federated._jobs import Job
from residue_federated._party import PartyReport
from residue_federated.errors import FederatedError

__all__ = ["compare_gradients", "lives_of", "result_of", "show_result", "utilisation"]

_TOLD = ("role", "device", "nodes", "messages", "bytes", "wire_bytes", "files")
"""What a result has of each party's report as it is."""


def result_of(job: Job, reports: dict[str, PartyReport], twin: Twin | None) -> dict[str, Any]:
    """The result of a trial as one JSON object.

    device: of all parties, or name -> device where they differ; of ``auto`` also what it chose.
    epochs or trees and seconds_per_epoch or seconds_per_tree: of the component that trains, with
    its losses, metrics and those of its plaintext twin. operations: a row for each party and
    operation, from the counters of that party's device; ring_utilisation is busy product slots over
    cycles, null where the device does not count cycles. time_shares, of each party: encryption,
    waiting, other. lives, of each party: when each began and ended, what it sent, its time; all
    else is of all lives.
    """
    guest = reports[job.guest.name]
    devices = {
        party.name: reports[party.name].device_name
        if party.device.startswith("auto") and party.name in reports
        else party.device
        for party in job.parties
    }
    same = len(set(devices.values())) == 1
    return {
        "job": job.name,
        "rows": guest.rows,
        "key_bits": job.key.bits,
        "device": devices[job.guest.name] if same else devices,
        **(_training(job, guest, twin) if job.trainer else {}),
        "components": [asdict(component) for component in guest.components],
        "operations": [
            {
                "party": report.party,
                "device": report.device_name,
                **row,
                "ring_utilisation": utilisation(row),
            }
            for report in reports.values()
            for row in report.operations
        ],
        "peak_rss_bytes": {name: report.peak_rss_bytes for name, report in reports.items()},
        "time_shares": {
            name: {what: _share(seconds, report) for what, seconds in report.time.items()}
            for name, report in reports.items()
        },
        "lives": {name: report.lives for name, report in reports.items()},
        "parties": {
            report.party: {
                "device_name": report.device_name,
                **{key: value for key, value in asdict(report).items() if key in _TOLD},
            }
            for report in reports.values()
        },
    }


def _training(job: Job, guest: PartyReport, twin: Twin | None) -> dict[str, Any]:
    """Of the last component that trains."""
    assert job.trainer is not None
    report = guest.component(job.trainer)
    rounds, each = ("trees", "tree") if report.type == "secureboost" else ("epochs", "epoch")
    result = {
        "algorithm": report.type,
        rounds: report.rounds,
        f"seconds_per_{each}": report.seconds / max(1, report.timed_rounds),
        "losses": report.losses,
        "metrics": report.metrics,
    }
    if twin is not None:
        keys = report.metrics.keys() & twin.metrics.keys()
        result |= {
            "plaintext_losses": twin.losses,
            "plaintext_metrics": twin.metrics,
            "distance": {k: abs(report.metrics[k] - twin.metrics[k]) for k in sorted(keys)},
        }
    return result


def _share(seconds: float, report: PartyReport) -> float:
    return seconds / (sum(report.time.values()) or 1.0)


def utilisation(row: dict[str, Any]) -> float | None:
    """Of a row of operations: busy product slots over all; None without a card's counters."""
    return row["busy_slots"] / row["ring_slots"] if row["ring_slots"] else None


def compare_gradients(
    job: Job, reports: dict[str, PartyReport], again: dict[str, PartyReport]
) -> int:
    """How many decrypted gradients two traced runs of a job have in common: all, or an error.

    Raises `FederatedError` naming the first party and step that differ, or a party that one of the
    runs went on without.
    """
    compared = 0
    for party in (job.guest, *job.hosts):
        if party.name not in reports or party.name not in again:
            raise FederatedError(
                f"a run lost {party.name} on its way and went on without it: gradients can be "
                "compared only of runs that all parties end"
            )
    for party in (job.guest, *job.hosts):
        one, other = reports[party.name].gradients, again[party.name].gradients
        if one is None or other is None:
            raise FederatedError("gradients can be compared only of traced runs")
        if len(one) != len(other):
            raise FederatedError(f"{party.name} took {len(one)} steps, on the CPU {len(other)}")
        for step, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                raise FederatedError(
                    f"{party.name}'s decrypted gradients of step {step + 1} differ from the CPU's"
                )
            compared += len(a)
    return compared


def show_result(console: Console, result: dict[str, Any]) -> None:
    """Print metrics, their distance from the plaintext twin, and the table of operations."""
    if "metrics" in result:
        _show_quality(console, result)
    table = table_of(
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
    spent = table_of("Where the time went", "party", "encryption", "waiting", "other", "memory")
    for party, shares in result["time_shares"].items():
        memory = f"{result['peak_rss_bytes'][party] / 2**20:,.0f} MiB"
        spent.add_row(party, *(f"{share:.0%}" for share in shares.values()), memory)
    console.print(spent)
    lives = list(lives_of(result))
    if lives:
        _show_lives(console, lives)
    if "algorithm" in result:
        rounds, each = ("trees", "tree") if "trees" in result else ("epochs", "epoch")
        console.print(
            f"{result['algorithm']}, {result['rows']} rows, {result['key_bits']}-bit key: "
            f"{result[rounds]} {rounds}, {result[f'seconds_per_{each}']:.3f} s each"
        )
    for component in result["components"]:
        if privacy := component["facts"].get("privacy"):
            console.print(
                f"{component['name']}: ({privacy['epsilon']:.4g}, {privacy['delta']:g})-"
                f"differentially private, unit {privacy['unit']}"
            )
            for warning in privacy.get("warnings", []):
                console.print(f"Warning: {warning}", soft_wrap=True)
    findings = result["audit"]["findings"]
    for finding in findings:
        text = f"Audit: {finding['party'] or 'one of two'}: {finding['rule']}: {finding['text']}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if not findings:
        console.print("Audit of the parties' records: nothing is wrong.")
    if "verified_gradients" in result:
        console.print(
            f"The CPU backend's decrypted gradients are identical: {result['verified_gradients']:,}"
            " integers compared, none differs."
        )


def lives_of(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each life of each party, where one had several."""
    lives = result.get("lives", {})
    if any(len(told) > 1 for told in lives.values()):
        for party, told in lives.items():
            for number, life in enumerate(told, 1):
                times = {k: f"{life[k][:19].replace('T', ' ')} UTC" for k in ("began", "ended")}
                yield {"party": party, "number": number, **life, **times}


def _show_lives(console: Console, lives: list[dict[str, Any]]) -> None:
    table = table_of("Lives", "party", "life", "began", "ended", "seconds", "messages", "bytes")
    for life in lives:
        words = life["party"], str(life["number"]), life["began"], life["ended"]
        figures = f"{life['seconds']:.1f}", f"{life['messages']:,}", f"{life['bytes']:,}"
        table.add_row(*words, *figures)
    console.print(table)


def _show_quality(console: Console, result: dict[str, Any]) -> None:
    quality = table_of("Quality", "metric", "encrypted", "in the clear", "distance")
    for name, value in result["metrics"].items():
        known = name in result.get("plaintext_metrics", {})
        twin = f"{result['plaintext_metrics'][name]:.6f}" if known else "-"
        distance = f"{result['distance'][name]:.1e}" if known else "-"
        quality.add_row(name, f"{value:.6f}", twin, distance)
    console.print(quality)


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"
