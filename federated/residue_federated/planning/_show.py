"""A plan as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from residue_federated._display import table_of
from residue_federated.planning._plan import Plan

__all__ = ["show_plan"]


def show_plan(console: Console, plan: Plan) -> None:
    """Print the components in order, the parties, and who sends what to whom."""
    console.print(_components(plan))
    console.print(_parties(plan))
    console.print(_sends(plan))
    for note in plan.notes:
        console.print(f"Note: {note}.", highlight=False, markup=False, soft_wrap=True)
    rehearsed = ", ".join(f"{r['rows']:,} rows x {r['rounds']}" for r in plan.rehearsals)
    spent = sum(r["seconds"] for r in plan.rehearsals)
    console.print(
        f"An estimate, for all parties on this machine and {plan.key_bits}-bit keys, from "
        f"rehearsals of {rehearsed} round(s) at most, which took {spent:.0f} s.",
        highlight=False,
        soft_wrap=True,
    )


def _components(plan: Plan) -> Table:
    table = table_of(f"Plan of {plan.job}", "component", "type", "from", "rounds", "seconds",
                     "each", "messages", "bytes")  # fmt: skip
    around = plan.around
    table.add_row("(start)", "", "", "", f"{plan.start_seconds:.1f}", "", str(around.messages),
                  f"{around.bytes:,}")  # fmt: skip
    for component in plan.components:
        table.add_row(
            component.name,
            component.type,
            ", ".join(component.inputs) or "the parties' data",
            f"up to {component.rounds:,}" if component.rounds > 1 else "",
            f"{component.seconds:.1f}",
            f"{component.each_seconds:.2f}" if component.each_seconds else "",
            f"{component.messages:,}",
            f"{component.bytes:,}",
        )
    table.add_row("(end)", "", "", "", f"{plan.end_seconds:.1f}", "", "", "")
    table.add_section()
    table.add_row("in all, about", "", "", "", f"{plan.seconds:.1f}", "", f"{plan.messages:,}",
                  f"{plan.bytes:,}")  # fmt: skip
    return table


def _parties(plan: Plan) -> Table:
    largest = f"{plan.rehearsals[-1]['rows']:,}"
    table = table_of("Parties", "party", "device", "rows", "columns", "messages", "bytes",
                     f"memory at {largest} rows", "encryption", "waiting")  # fmt: skip
    for name, party in plan.parties.items():
        table.add_row(
            name,
            party.device,
            *("-" if size is None else f"{size:,}" for size in (party.rows, party.columns)),
            f"{party.messages:,}",
            f"{party.bytes:,}",
            f"{party.rehearsed_peak_rss_bytes / 2**20:,.0f} MiB",
            *(f"{party.time_shares[what]:.0%}" for what in ("encryption", "waiting")),
        )
    return table


def _sends(plan: Plan) -> Table:
    table = table_of("Who sends what", "component", "message", "from", "to", "kind", "messages",
                     "bytes")  # fmt: skip
    for component in (plan.around, *plan.components):
        for number, send in enumerate(component.sends):
            name = (component.name or "(start)") if number == 0 else ""
            table.add_row(name, send.step, send.sender, send.receiver, send.kind.replace("_", " "),
                          f"{send.messages:,}", f"{send.bytes:,}")  # fmt: skip
    return table
