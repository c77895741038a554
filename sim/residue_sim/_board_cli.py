"""`residue board`: virtual boards, and the commands for all boards."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import Annotated

import typer

from residue_sim.board import Board, Latency, board_files
from residue_sim.board._launch import IN_USE, PORT, READY
from residue_sim.boards import _cli
from residue_sim.synth import _cli as _synth

__all__ = ["board"]

board = typer.Typer(
    help="Boards: build for them, load and test them, what they would do; and virtual ones, "
    "co-simulated cards that pynq talks to.",
    pretty_exceptions_enable=False,
)
board.command("list")(_cli.list_boards)
board.command("build")(_cli.build_for)
board.command("load")(_cli.load_overlay)
board.command("test")(_cli.run_test)
board.command("table")(_cli.table)
board.command("measure")(_cli.measure)
board.command("resources")(_synth.resources)
board.command("place")(_synth.place)

_Config = Annotated[str, typer.Option(help="Named configuration of hw/configs.yaml.")]


@board.command()
def serve(
    config: _Config = "r21",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; pynq knows only 7967.")] = PORT,
    latency: Annotated[
        str, typer.Option(help="Memory: fast, a number of cycles, random or random:CYCLES.")
    ] = "fast",
    seed: Annotated[int, typer.Option(help="Of random latencies.")] = 1,
    trace: Annotated[
        Path | None, typer.Option(help="Write an FST waveform; the simulation slows down.")
    ] = None,
) -> None:
    """Simulate a board until interrupted; prints READY and its address once it answers."""
    _cli.known_configuration(config)
    try:
        speed = Latency.parse(latency)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if trace is not None and not trace.parent.is_dir():
        raise typer.BadParameter(f"no folder {trace.parent} for the waveform")
    # Imports pynq, which takes a second that no other command should pay.
    from residue_sim.board.server import serve as start_server

    # Blocked before any thread starts, so that no thread takes them.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with Board(config, latency=speed, seed=seed, trace=trace) as simulated:
        try:
            server = start_server(simulated, host, port)
        except OSError as error:
            typer.echo(f"{host}:{port}: {error.strerror or error}", err=True)
            raise typer.Exit(IN_USE if error.errno == errno.EADDRINUSE else 1) from error
        typer.echo(f"{READY} {host}:{port} {config}")
        signal.sigwait(ends)
        server.stop(grace=1).wait()


@board.command()
def files(config: _Config = "r21") -> None:
    """Write the overlay for `pynq.Overlay` and print the path of its .bit."""
    typer.echo(board_files(_cli.known_configuration(config)))
