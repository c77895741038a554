"""`residue card`: one process owns a card, others share it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from residue.errors import BackendError

__all__ = ["app"]

app = typer.Typer(
    help="Share one card between processes: one serves it, the others use device owner:PATH.",
    no_args_is_help=True,
)

Socket = Annotated[
    Path,
    typer.Option(
        help="Unix socket; its directory must be yours and writable by nobody else.",
        show_default=False,
    ),
]


@app.command()
def serve(
    socket: Socket,
    device: Annotated[
        str, typer.Option(help="What to serve: card, card:ADDRESS, cards:ADDRESS, auto or cpu.")
    ] = "card",
    quota_mib: Annotated[
        int | None,
        typer.Option(
            help="MiB of arrays that a session may hold; default a quarter of this machine's "
            "memory.",
            min=1,
            show_default=False,
        ),
    ] = None,
    sessions: Annotated[int, typer.Option(help="Most sessions at a time.", min=1, max=256)] = 16,
) -> None:
    """Own a device and serve it to other processes of yours, until SIGTERM or Ctrl-C."""
    from residue.backends import get_backend

    if "owner" in device.split(":"):
        raise BackendError(f"an owner serves a device of its own, not {device}")
    quota = None if quota_mib is None else quota_mib << 20
    with (
        _signals(signal.SIGTERM, signal.SIGINT) as wait,
        _owner().Owner(partial(get_backend, device), socket, quota=quota, sessions=sessions),
    ):
        typer.echo(f"serving {device} on {socket}: use device owner:{socket}")
        wait()
    typer.echo("ended")


@app.command()
def status(
    socket: Socket,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show an owner's device, what is left of its memory, and its sessions."""
    facts = _owner().status(socket)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for key, value in facts["device"].items():
        typer.echo(f"{key}: {value}")
    typer.echo(f"{'process':>9} {'seconds':>9} {'operations':>11} {'arrays':>8} {'MiB left':>10}")
    for s in facts["sessions"]:
        left = (facts["quota_bytes"] - s["bytes"]) / 2**20
        typer.echo(
            f"{s['pid']:>9} {s['seconds']:>9.0f} {s['operations']:>11,} {s['arrays']:>8,} "
            f"{left:>10,.1f}"
        )


@contextlib.contextmanager
def _signals(*numbers: int) -> Iterator[Callable[[], object]]:
    """What waits for a signal, or returns at once if one has come.

    Python's handlers run in the main thread, which does not wake when the system has chosen one of
    gRPC's threads; the descriptor is written in whichever thread it is.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)
        yield lambda: os.read(reader, 1)
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


def _owner() -> Any:
    """`residue.owner`, which needs what a bare installation lacks."""
    try:
        import residue.owner
    except ImportError as error:
        raise BackendError("an owner needs the grpcio package: install residue[board]") from error
    return residue.owner
