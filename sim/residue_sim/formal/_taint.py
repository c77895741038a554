"""Where secret bits can go: a static check of the whole card's netlist.

Yosys flattens the card; from every bit that memory may send as an operand or an exponent the
forward cone is taken, through every cell, register and memory, bit by bit. A bit outside the cone
has the same value in every cycle whatever the secrets are: this covers selects, enables and
addresses, hence branches of state machines. The cone is an over-approximation.

`hw/formal/taint.yaml` names the secret inputs, the nets where the cone ends on purpose
(`declassified`, each with its reason), and the outputs and nets that may be reached.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from residue_sim.formal._proofs import FormalError, Mutant, call_yosys, read_source
from residue_sim.manifest import hw_root, sources_for

__all__ = ["TaintPolicy", "TaintReport", "taint"]

_Bits = list[Any]  # net numbers, or constants as strings
_BITWISE = {"$and", "$or", "$xor", "$xnor", "$not", "$pos", "$_NOT_"}
_CARRIES = {"$add", "$sub", "$neg"}
_SELECTED = {"$mux": ("A", "B"), "$pmux": ("A", "B"), "$bwmux": ("A", "B", "S")}
_REGISTERS = {"$dff", "$dffe", "$sdff", "$sdffe", "$sdffce"}
_NOT_LOGIC = {"$check", "$print", "$scopeinfo", "$assert", "$assume", "$cover"}


@dataclass(frozen=True)
class TaintPolicy:
    """What is secret and where it may go. Names are regular expressions over flattened names.

    `allowed` also names ports of memories, as ``<memory>:<PORT>``. Each of `mutants` lets a secret
    reach what it may not.
    """

    secrets: tuple[str, ...]
    declassified: Mapping[str, str]
    allowed: Mapping[str, str]
    control: tuple[str, ...]
    mutants: tuple[Mutant, ...] = ()

    @classmethod
    def load(cls) -> TaintPolicy:
        """The policy of hw/formal/taint.yaml."""
        entries = yaml.safe_load((hw_root() / "formal" / "taint.yaml").read_text())
        return cls(
            secrets=tuple(entries["secrets"]),
            declassified=entries["declassified"],
            allowed=entries["allowed"],
            control=tuple(entries["control"]),
            mutants=tuple(Mutant(**entry) for entry in entries["mutants"]),
        )


@dataclass(frozen=True)
class TaintReport:
    """`reached`: outputs, memory ports and control nets that secrets reach though they may not.

    `bits` is the size of the cone; `unused` names entries of the policy that match nothing that
    the cone touches, so that no exception outlives its reason.
    """

    reached: tuple[str, ...]
    unused: tuple[str, ...]
    bits: int
    nets: int


def taint(
    parameters: Mapping[str, int],
    mutant: Mutant | None = None,
) -> TaintReport:
    """Follow the secrets through `residue_card` with the given parameters, or a mutant of it.

    Raises:
        FormalError: Yosys failed, or the policy's secrets name nothing.
    """
    return _follow(_netlist("residue_card", parameters, mutant), TaintPolicy.load())


def _netlist(top: str, parameters: Mapping[str, int], mutant: Mutant | None) -> dict[str, Any]:
    read = ["read_slang --threads 1 --allow-use-before-declare -D SYNTHESIS --top", top]
    read += [*(f"-G {name}={value}" for name, value in parameters.items()), "design.sv"]
    script = [" ".join(read), f"hierarchy -top {top}", "flatten", "proc", "opt_clean"]
    script += ["memory_collect", "write_json design.json"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = [read_source(path, mutant) for path in sources_for(top)]
        (folder / "design.sv").write_text("\n".join(texts))
        call_yosys(script, folder, folder / "design.json")
        modules = json.loads((folder / "design.json").read_text())["modules"]
    module: dict[str, Any] = modules[top]
    return module


def _follow(module: Mapping[str, Any], policy: TaintPolicy) -> TaintReport:
    names: dict[str, _Bits] = {name: net["bits"] for name, net in module["netnames"].items()}
    successors = _successors(module["cells"].values())

    def bits_of(patterns: Iterable[str]) -> set[Any]:
        found: set[Any] = set()
        for pattern in patterns:
            expression = re.compile(pattern)
            found |= {b for n, bits in names.items() if expression.fullmatch(n) for b in bits}
        return {bit for bit in found if isinstance(bit, int)}

    sources = bits_of(policy.secrets)
    if not sources:
        raise FormalError(f"no net is called {', '.join(policy.secrets)}")
    stops = {pattern: bits_of([pattern]) for pattern in policy.declassified}
    stopped = set().union(*stops.values())
    cone, todo = set(sources), list(sources)
    touched: set[Any] = set()
    while todo:
        for successor in successors[todo.pop()]:
            if successor in stopped:
                touched.add(successor)
            elif successor not in cone:
                cone.add(successor)
                todo.append(successor)

    outputs = {name for name, port in module["ports"].items() if port["direction"] == "output"}
    control = [re.compile(pattern) for pattern in policy.control]
    watched = {
        name: bits
        for name, bits in names.items()
        if name in outputs or any(expression.fullmatch(name) for expression in control)
    }
    watched |= {
        f"{name}:{port}": cell["connections"][port]
        for name, cell in module["cells"].items()
        if cell["type"] == "$mem_v2"
        for port in ("RD_ADDR", "RD_EN", "WR_ADDR", "WR_EN")
    }
    found = sorted(name for name, bits in watched.items() if not cone.isdisjoint(bits))
    permitted = {p: {n for n in found if re.fullmatch(p, n)} for p in policy.allowed}
    unused = [pattern for pattern, bits in stops.items() if not bits & touched]
    unused += [pattern for pattern, those in permitted.items() if not those]
    reached = sorted(set(found) - set().union(*permitted.values()))
    return TaintReport(tuple(reached), tuple(unused), len(cone), len(names))


def _successors(cells: Iterable[Mapping[str, Any]]) -> Mapping[Any, list[Any]]:
    """For each bit the bits that a cell computes from it."""
    edges: defaultdict[Any, list[Any]] = defaultdict(list)

    def edge(sources: Iterable[Any], sinks: Iterable[Any]) -> None:
        into = list(sinks)
        for bit in sources:
            if isinstance(bit, int):
                edges[bit] += into

    for cell in cells:
        kind, pins = cell["type"], cell["connections"]
        if kind in _NOT_LOGIC:
            continue
        if kind == "$mem_v2":
            _memory(cell, edge)
        elif kind in _REGISTERS:
            _lanes(pins, ("D",), pins["Q"], edge)
            edge(_others(pins, ("D", "Q")), pins["Q"])
        elif kind in _SELECTED:
            data = _SELECTED[kind]
            _lanes(pins, data, pins["Y"], edge)
            edge(_others(pins, (*data, "Y")), pins["Y"])
        elif kind in _BITWISE:
            _lanes(pins, ("A", "B"), pins["Y"], edge, signed=_signed(cell))
        elif kind in _CARRIES:
            for port in ("A", "B"):
                for i, bit in enumerate(pins.get(port, [])):
                    edge([bit], pins["Y"][i:])
        elif "Y" in pins:
            edge(_others(pins, ("Y",)), pins["Y"])
        else:
            raise FormalError(f"the taint check knows no cell {kind}")
    return edges


def _signed(cell: Mapping[str, Any]) -> bool:
    return any(int(cell["parameters"].get(f"{side}_SIGNED", "0"), 2) for side in "AB")


def _others(pins: Mapping[str, _Bits], known: Iterable[str]) -> list[Any]:
    return [bit for port, bits in pins.items() if port not in known for bit in bits]


def _lanes(
    pins: Mapping[str, _Bits],
    ports: Iterable[str],
    out: _Bits,
    edge: Callable[[Iterable[Any], Iterable[Any]], None],
    *,
    signed: bool = False,
) -> None:
    """Bit i of each port (of several words, for pmux) to bit i of the output."""
    for port in ports:
        bits = pins.get(port, [])
        for i, bit in enumerate(bits):
            edge([bit], [out[i % len(out)]])
        if signed and bits:
            edge(bits[-1:], out)


def _memory(cell: Mapping[str, Any], edge: Callable[[Iterable[Any], Iterable[Any]], None]) -> None:
    """Column by column; an address or an enable reaches every column of what it reads or writes."""
    pins = cell["connections"]
    width = int(cell["parameters"]["WIDTH"], 2)
    read = pins["RD_DATA"]
    for i, bit in enumerate(pins["WR_DATA"]):
        edge([bit], read[i % width :: width])
    for i, bit in enumerate(pins["WR_EN"]):
        edge([bit], read[i % width :: width])
    ports = max(len(read) // width, 1)
    for port in ("RD_ADDR", "RD_EN", "RD_ARST", "RD_SRST", "RD_CLK"):
        each = len(pins[port]) // ports
        for i in range(ports):
            edge(pins[port][i * each : (i + 1) * each], read[i * width : (i + 1) * width])
    edge([*pins["WR_ADDR"], *pins["WR_CLK"]], read)
