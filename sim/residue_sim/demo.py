"""`make demo`: a federated job whose every ciphertext operation runs on simulated cards.

Builds the card, serves one board each for guest, host and arbiter over PYNQ's remote protocol, runs
`residue fl run` on them with the real `pynq` package, and has the CPU check every gradient.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from residue_sim.board import board_files, launch
from residue_sim.board._build import card_library
from residue_sim.manifest import configurations

__all__ = ["main"]

_JOB = Path(__file__).resolve().parents[2] / "examples" / "breast_lr.yaml"
_PARTIES = ("guest", "host", "arbiter")


def main(
    job: Annotated[Path, typer.Option(help="Job of one guest, one host and an arbiter.")] = _JOB,
    config: Annotated[str, typer.Option(help="Card, an entry of hw/configs.yaml.")] = "r21",
    epochs: Annotated[int | None, typer.Option(help="Epochs instead of the job's.")] = None,
    plain: Annotated[bool, typer.Option(help="Lines instead of bars.")] = False,
) -> None:
    """Train a vertical logistic regression on three co-simulated cards."""
    console = Console()
    begin = time.monotonic()
    plain = plain or not console.is_terminal
    note = f"building the simulated card {config} (kept in .cache; under a minute the first time)"
    if plain:
        console.print(note)
        card_library(configurations()[config])
    else:
        with console.status(note):
            card_library(configurations()[config])
    with launch(len(_PARTIES), config=config) as hosts:
        devices = []
        for party, host in zip(_PARTIES, hosts, strict=True):
            console.print(f"  {party:8} card:{host}")
            devices.append(f"{party}=card:{host}")
        command = [sys.executable, "-m", "residue", "fl", "run", str(job), "--verify-cpu"]
        command += ["--device", ",".join(devices)]
        if epochs is not None:
            command += ["--epochs", str(epochs)]
        if plain:
            command.append("--plain")
        environment = {**os.environ, "RESIDUE_OVERLAY": str(board_files(config))}
        status = subprocess.run(command, check=False, env=environment).returncode  # noqa: S603
    minutes, seconds = divmod(round(time.monotonic() - begin), 60)
    console.print(f"{minutes} min {seconds} s since the environment was ready")
    raise typer.Exit(status)


if __name__ == "__main__":
    typer.run(main)
