"""Runs a page of the documentation that tells what to type on several machines.

The page names files and commands by machine, and shows what the commands print::

    ```yaml alice:job.yaml      a file to make on the machine "alice"
    ```console bob              commands after "$ " on the machine "bob", and their output

Output is compared as doctest does, with ``...`` for what varies. A machine is a directory. Blocks
run one after the other, but those that start a party run beside each other. ``scp`` copies from
directory to directory; ``NAME.example`` is this machine, each port a free one.
"""

from __future__ import annotations

import doctest
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "blocks_of", "run_page"]

_BLOCK = re.compile(r"^```(console|yaml) ([\w-]+)(?::(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ADDRESS = re.compile(r"[\w-]+\.example:(\d+)")
_SCP = """#!/bin/sh
for last; do :; done
while [ $# -gt 1 ]; do
  case "$1" in -*) ;; *) cp -r "$1" "$MACHINES/${last%%.*}/${last#*:}" ;; esac
  shift
done
"""


@dataclass(frozen=True)
class Block:
    """One block: a file to make, or commands with what they print."""

    machine: str
    file: str | None
    text: str

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command and its output."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)
        assert not parts[0].strip(), f"output without a command: {parts[0]}"
        found = []
        for part in parts[1:]:
            lines = part.splitlines(keepends=True)
            end = next(i for i, line in enumerate(lines) if not line.endswith("\\\n")) + 1
            found.append(("".join(lines[:end]), "".join(lines[end:])))
        return found


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page that belong to a machine, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m[2], m[3], m[4]) for m in _BLOCK.finditer(text)]


def run_page(page: Path, directory: Path, files: Path) -> int:
    """Do what the page says, below `directory`; returns how many commands were run.

    files: a directory whose files lie on the machines of the same name, ``alice.csv`` on alice.
    Raises AssertionError with expected and actual output where they differ.
    """
    blocks = blocks_of(page)
    machines = {block.machine for block in blocks}
    for machine in machines:
        (directory / machine).mkdir()
        for file in files.glob(f"{machine}.*"):
            (directory / machine / file.name).write_bytes(file.read_bytes())
    scp = directory / "scp"
    scp.write_text(_SCP)
    scp.chmod(0o755)
    ports: dict[str, int] = {}
    environment = {
        **os.environ,
        "MACHINES": str(directory),
        "COLUMNS": "100",
        "PATH": f"{directory}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        f"{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }

    def local(text: str) -> str:
        text = _ADDRESS.sub(lambda m: f"127.0.0.1:{ports.setdefault(m[0], _free_port())}", text)
        for address, port in list(ports.items()):
            text = text.replace(f"0.0.0.0:{address.rpartition(':')[2]}", f"127.0.0.1:{port}")
        return text

    def run(block: Block) -> int:
        for command, expected in block.commands:
            done = subprocess.run(
                local(command),
                shell=True,
                cwd=directory / block.machine,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
                check=False,
            )
            _compare(block.machine, command, local(expected), done.stdout)
        return len(block.commands)

    count = 0
    parties: list[Future[int]] = []
    with ThreadPoolExecutor(len(machines)) as pool:
        for block in blocks:
            if block.file is not None:
                (directory / block.machine / block.file).write_text(local(block.text))
                continue
            if " fl party " in block.text:
                parties.append(pool.submit(run, block))
                continue
            count += sum(party.result() for party in parties) + run(block)
            parties.clear()
        return count + sum(party.result() for party in parties)


def _compare(machine: str, command: str, expected: str, actual: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    example = doctest.Example(command, expected)
    checker = doctest.OutputChecker()
    if not checker.check_output(expected, actual, flags):
        difference = checker.output_difference(example, actual, flags)
        raise AssertionError(f"{machine}$ {command}\n{difference}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
