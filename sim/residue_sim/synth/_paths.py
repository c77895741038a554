"""Longest register-to-register paths of a mapped netlist, in logic levels and carry bits.

The depth of a path is counted in levels, one a LUT with the net behind it, as AMD's own check
`report_failfast` (Tcl Store, app designutils; now `report_qor_assessment`, UG906) does. What that
check leaves out is taken from the 7-series timing in Yosys' cell library (cells_sim.v), each delay
divided by the 0.575 ns that the check allows a level on those parts at speed grade -1, rounded up:

====================================================  ======
LUT, or reading a LUT RAM                                1
carry, a bit (CI to CO of a CARRY4: 98 ps a 4 bits)     1/16
MUXF7, MUXF8                                            1/2
out of a flip-flop                                       0
out of a shift register or of a written LUT RAM          2
out of a DSP with its P register                         1
out of a DSP with its M register only                    3
through a DSP from A, B, C or D, without registers       5
out of a block or ultra RAM with its output register     1
out of a block or ultra RAM without                      4
into D of a flip-flop                                    0
into CE, R, S; into a RAM; into a register of a DSP      1
into the M register of a DSP, no register before it      3
into the P register of a DSP, no register before it      5
====================================================  ======

Ports of the top count as flip-flops. Blocks are taken as they were synthesised, with their paths
followed across their borders. Registers that stand still while others move are not known here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

__all__ = ["Path", "longest_paths"]


@dataclass(frozen=True)
class Path:
    """One path. `depth` in levels as above; `luts` and `carry_bits` lie on it."""

    depth: float = 0.0
    luts: int = 0
    carry_bits: int = 0
    start: str = ""
    end: str = ""

    def then(self, step: _Step) -> Path:
        """With one more step."""
        return replace(
            self,
            depth=self.depth + step.depth,
            luts=self.luts + step.luts,
            carry_bits=self.carry_bits + step.carry_bits,
        )


class _Step(NamedTuple):
    depth: float
    luts: int = 0
    carry_bits: int = 0

    def then(self, other: _Step) -> _Step:
        return _Step(
            self.depth + other.depth,
            self.luts + other.luts,
            self.carry_bits + other.carry_bits,
        )


_Pin = tuple[str, int]

_LUT = _Step(1, luts=1)
_MUX = _Step(0.5)
_WIRE = _Step(0)


class _Block:
    """What a user of a module must know of its paths."""

    launch: dict[_Pin, Path]  # from a register inside to an output
    through: dict[_Pin, dict[_Pin, _Step]]  # from inputs to an output
    capture: dict[_Pin, tuple[_Step, str]]  # from an input to a register inside
    worst: list[Path]  # inside, and inside of what is inside


def longest_paths(netlist: Mapping[str, Any], top: str, *, each: int = 1) -> dict[str, list[Path]]:
    """The `each` longest paths that end in different registers, for each module, longest first.

    A path belongs to the lowest module that holds all of it.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20_000))
    try:
        blocks: dict[str, _Block] = {}
        _visit(netlist, top, blocks, each)
    finally:
        sys.setrecursionlimit(limit)
    return {name: block.worst for name, block in blocks.items()}


def _visit(netlist: Mapping[str, Any], name: str, blocks: dict[str, _Block], each: int) -> None:
    for cell in netlist[name]["cells"].values():
        if cell["type"] in netlist and cell["type"] not in blocks:
            _visit(netlist, cell["type"], blocks, each)
    blocks[name] = _Module(netlist[name], blocks).summary(each)


class _Module:
    def __init__(self, module: Mapping[str, Any], blocks: Mapping[str, _Block]) -> None:
        self.ports = module["ports"]
        self.names = _net_names(module)
        self.steps: dict[int, list[tuple[int, _Step]]] = {}  # net: where it comes from
        self.launches: dict[int, Path] = {}
        self.captures: list[tuple[int, _Step, str]] = []
        self._arrivals: dict[int, Path | None] = {}
        self._inputs: dict[int, dict[_Pin, _Step]] = {}
        self.input_pins = {
            net: (port, index) for port, index, net in _port_nets(self.ports, "input")
        }
        for cell_name, cell in module["cells"].items():
            self._add(cell_name, cell, blocks)

    def summary(self, each: int) -> _Block:
        block = _Block()
        outputs = list(_port_nets(self.ports, "output"))
        block.launch, block.through, block.capture = {}, {}, {}
        for port, index, net in outputs:
            if (arrival := self._arrival(net)) is not None:
                block.launch[port, index] = arrival
            if inputs := self._from_inputs(net):
                block.through[port, index] = inputs
        worst: dict[str, Path] = {}
        for net, step, label in self.captures:
            for pin, before in self._from_inputs(net).items():
                total = before.then(step)
                if pin not in block.capture or total.depth > block.capture[pin][0].depth:
                    block.capture[pin] = total, label
            arrival = self._arrival(net)
            if arrival is not None:
                path = replace(arrival.then(step), end=label)
                register = label.partition("[")[0]
                if register not in worst or path.depth > worst[register].depth:
                    worst[register] = path
        block.worst = sorted(worst.values(), key=lambda path: -path.depth)[:each]
        return block

    def _arrival(self, net: int) -> Path | None:
        """The longest path from a register to a net."""
        if net in self._arrivals:
            return self._arrivals[net]
        self._arrivals[net] = None  # a loop ends here
        best = self.launches.get(net)
        for before, step in self.steps.get(net, ()):
            arrival = self._arrival(before)
            if arrival is not None:
                path = arrival.then(step)
                if best is None or path.depth > best.depth:
                    best = path
        self._arrivals[net] = best
        return best

    def _from_inputs(self, net: int) -> dict[_Pin, _Step]:
        """The longest way from each input of the module to a net."""
        if net in self._inputs:
            return self._inputs[net]
        self._inputs[net] = {}
        best: dict[_Pin, _Step] = {}
        if net in self.input_pins:
            best[self.input_pins[net]] = _WIRE
        for before, step in self.steps.get(net, ()):
            for pin, way in self._from_inputs(before).items():
                total = way.then(step)
                if pin not in best or total.depth > best[pin].depth:
                    best[pin] = total
        self._inputs[net] = best
        return best

    # ---- Cells -----------------------------------------------------------------------------------

    def _add(self, name: str, cell: Mapping[str, Any], blocks: Mapping[str, _Block]) -> None:
        kind: str = cell["type"]
        nets = {
            (port, index): net
            for port, bits in cell["connections"].items()
            for index, net in enumerate(bits)
            if isinstance(net, int)
        }
        directions = cell["port_directions"]
        inputs = {pin: net for pin, net in nets.items() if directions[pin[0]] == "input"}
        outputs = {pin: net for pin, net in nets.items() if directions[pin[0]] == "output"}
        if kind in blocks:
            self._add_block(name, blocks[kind], inputs, outputs)
        elif kind.startswith(("LUT", "INV", "MUXF")):
            step = _LUT if kind.startswith("LUT") else _MUX if kind.startswith("MUXF") else _WIRE
            for net in outputs.values():
                self._join(net, ((before, step) for before in inputs.values()))
        elif kind == "CARRY4":
            self._add_carry(inputs, outputs)
        elif kind.startswith("FD"):
            label = next((self.names[n] for n in outputs.values() if n in self.names), name)
            self._launch(outputs, _WIRE, label)
            for (port, _), before in inputs.items():
                if port != "C":
                    self.captures.append((before, _Step(port != "D"), label))
        elif kind.startswith("DSP48"):
            self._add_dsp(name, cell["parameters"], inputs, outputs)
        else:
            self._add_memory(name, kind, cell["parameters"], inputs, outputs)

    def _add_block(
        self, name: str, block: _Block, inputs: dict[_Pin, int], outputs: dict[_Pin, int]
    ) -> None:
        for pin, net in outputs.items():
            if pin in block.launch:
                path = block.launch[pin]
                self.launches[net] = replace(path, start=f"{name}.{path.start}")
            ways = block.through.get(pin, {})
            self._join(net, ((inputs[at], step) for at, step in ways.items() if at in inputs))
        for pin, (step, label) in block.capture.items():
            if pin in inputs:
                self.captures.append((inputs[pin], step, f"{name}.{label}"))

    def _add_carry(self, inputs: dict[_Pin, int], outputs: dict[_Pin, int]) -> None:
        for (port, bit), net in outputs.items():
            ways = []
            for (source, index), before in inputs.items():
                first = 0 if source in ("CI", "CYINIT") else index
                # S and DI of bit i reach O of a later bit and CO of their own; S its own O too.
                if first > bit or (source == "DI" and port == "O" and index == bit):
                    continue
                bits = bit - first + (port == "CO" or source in ("CI", "CYINIT"))
                ways.append((before, _Step(bits / 16, carry_bits=bits)))
            self._join(net, ways)

    def _add_dsp(
        self,
        name: str,
        parameters: Mapping[str, str],
        inputs: dict[_Pin, int],
        outputs: dict[_Pin, int],
    ) -> None:
        p, m = (_number(parameters.get(key, "1")) for key in ("PREG", "MREG"))
        self._launch(outputs, _Step(1 if p else 3), f"{name}.P")
        for (port, index), net in inputs.items():
            if port not in ("A", "B", "C", "D"):
                if port != "CLK":
                    self.captures.append((net, _Step(1), f"{name}.{port}"))
                continue
            registered = _number(parameters.get(f"{port}REG", "1")) > 0
            stage = 1 if registered else 3 if m and port != "C" else 5
            self.captures.append((net, _Step(stage), f"{name}.{port}[{index}]"))
            if not (p or registered or (m and port != "C")):
                for result in outputs.values():
                    self._join(result, [(net, _Step(5))])

    def _add_memory(
        self,
        name: str,
        kind: str,
        parameters: Mapping[str, str],
        inputs: dict[_Pin, int],
        outputs: dict[_Pin, int],
    ) -> None:
        """Shift registers, LUT RAMs, block and ultra RAMs."""
        if kind.startswith(("RAMB", "URAM")):
            registers = [_number(parameters.get(key, "0")) for key in ("DOA_REG", "DOB_REG")]
            registers += [
                parameters.get(key) == "TRUE" for key in ("OREG_A", "OREG_B") if key in parameters
            ]
            self._launch(outputs, _Step(1 if any(registers) else 4), name)
        else:
            self._launch(outputs, _Step(2), name)
            for (port, _), before in inputs.items():
                if port.startswith(("A", "DPRA")):
                    for net in outputs.values():
                        self._join(net, [(before, _LUT)])
        for (port, _), before in inputs.items():
            if "CLK" not in port:
                self.captures.append((before, _Step(1), f"{name}.{port}"))

    def _join(self, net: int, ways: Any) -> None:
        self.steps.setdefault(net, []).extend(ways)

    def _launch(self, outputs: Mapping[_Pin, int], step: _Step, label: str) -> None:
        for net in outputs.values():
            self.launches[net] = Path(start=label).then(step)


def _port_nets(ports: Mapping[str, Any], direction: str) -> Iterator[tuple[str, int, int]]:
    for port, facts in ports.items():
        if facts["direction"] == direction:
            for index, net in enumerate(facts["bits"]):
                if isinstance(net, int):
                    yield port, index, net


def _net_names(module: Mapping[str, Any]) -> dict[int, str]:
    """A name of the source for each net, the shortest there is."""
    names: dict[int, str] = {}
    for name, facts in module["netnames"].items():
        if name.startswith("$"):
            continue
        for index, net in enumerate(facts["bits"]):
            label = name if len(facts["bits"]) == 1 else f"{name}[{index}]"
            if isinstance(net, int) and (net not in names or len(label) < len(names[net])):
                names[net] = label
    return names


def _number(parameter: str) -> int:
    """A parameter of the JSON netlist, a binary string, as a number."""
    return int(parameter, 2)
