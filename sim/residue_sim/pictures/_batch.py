"""Where each cycle of a batch goes: encryptions on the simulated card, command by command."""

from __future__ import annotations

import warnings
from itertools import groupby
from typing import Any

import numpy as np

from residue.backends._card import CardBackend
from residue.errors import InsecureKeyWarning
from residue.paillier import keygen
from residue_sim.board import Board, InProcess
from residue_sim.manifest import configurations, sources_for
from residue_sim.pictures._inputs import code
from residue_sim.pictures._svg import Svg

__all__ = ["draw", "inputs", "measure"]

_CONFIG = "r21"
_KEY_BITS = 1024
_BATCH = 256
_FIELDS = ("started", "cycles", "busy", "stalls", "products", "read_bytes", "write_bytes", "count")


def inputs() -> list[str]:
    """What the data depends on."""
    return [*code(sources_for("residue_card")), repr(configurations()[_CONFIG])]


def measure() -> dict[str, Any]:
    """Encrypt a batch on the simulated card, from plaintexts to ciphertexts as bytes.

    Raises:
        VerilatorError: the card could not be built.
        DeviceError: the card failed.
    """
    with warnings.catch_warnings(action="ignore", category=InsecureKeyWarning):
        on_cpu, _ = keygen(_KEY_BITS, insecure_allow_1024=True, device="cpu")
    backend = CardBackend(InProcess(Board(_CONFIG)), check_rate=0.0, timeout=60)
    try:
        pk = on_cpu.to(backend)
        pk.encrypt(np.arange(1)).to_bytes()  # builds the comb table, once a key
        before = backend.records()[-1].number
        pk.encrypt(np.arange(_BATCH)).to_bytes()
        records = [record for record in backend.records() if record.number > before]
        rings = int(backend.describe()["rings"])
    finally:
        backend.close()
    origin = records[0].started
    return {
        "config": _CONFIG,
        "rings": rings,
        "batch": _BATCH,
        "modulus_bits": 2 * _KEY_BITS,
        "commands": [
            {"operation": record.operation, "opcode": record.opcode.name}
            | {name: getattr(record, name) for name in _FIELDS}
            | {"started": record.started - origin}
            for record in records
        ],
    }


_PARTS = (
    ("busy", "a product in the ring"),
    ("waiting", "waiting for an operand"),
    ("filling", "ring filling or draining, command set-up"),
    ("idle", "no command"),
)
_WORDS = {
    ("pow_fixed", "FROM_MONT"): "base out",
    ("pow_fixed", "SQR"): "squarings of the base",
    ("pow_fixed", "TO_MONT"): "its powers in",
    ("pow_fixed", "TABLE"): "comb table of the key",
    ("pow_fixed", "POW_FIXED"): "powers of the batch",
    ("upload", "TO_MONT"): "plaintexts in",
    ("mul", "MUL"): "products",
    ("download", "FROM_MONT"): "ciphertexts out",
}


def _parts(data: dict[str, Any], commands: list[dict[str, Any]]) -> dict[str, float]:
    """Ring slots of each kind while the commands ran, and between them."""
    rings = data["rings"]
    slots = rings * sum(c["cycles"] for c in commands)
    end = commands[-1]["started"] + commands[-1]["cycles"]
    busy = sum(c["busy"] for c in commands)
    # While one product waits another one may still be in the ring: such a slot is busy.
    waiting = sum(min(c["stalls"], rings * c["cycles"] - c["busy"]) for c in commands)
    idle = rings * (end - commands[0]["started"]) - slots
    return {"busy": busy, "waiting": waiting, "filling": slots - busy - waiting, "idle": idle}


def draw(data: dict[str, Any]) -> str:
    """The picture."""
    commands = data["commands"]
    end = commands[-1]["started"] + commands[-1]["cycles"]
    parts = _parts(data, commands)
    total = sum(parts.values())
    svg = Svg(
        1200,
        590,
        "Where each cycle of a batch goes",
        f"{data['batch']} encryptions take {end:,} cycles; in {parts['busy'] / total:.1%} of the "
        "ring's slots there is a product.",
    )
    svg.heading(
        "Where each cycle of a batch goes",
        f"A batch of {data['batch']} encryptions with a new key, modulus of "
        f"{data['modulus_bits']:,} bits, on the simulated card {data['config']}: {end:,} cycles",
    )
    left, right = 76, 1172
    svg.legend(left, 98, [
        (part, f"{name} ({parts[part] / total:.1%})") for part, name in _PARTS
    ])  # fmt: skip
    _strip(svg, data, commands, (0, end), left, right, 150, 150, whole=True)
    long = [i for i, c in enumerate(commands) if c["cycles"] > end / 10]
    middle = (left + right) / 2
    for chosen, lo, hi, name in (
        (commands[: long[0]], left, middle - 30, "the beginning"),
        (commands[long[-1] + 1 :], middle + 30, right, "the end"),
    ):
        if not chosen:
            continue
        span = chosen[0]["started"], chosen[-1]["started"] + chosen[-1]["cycles"]
        scale = (right - left) / end
        a, b = left + span[0] * scale, left + span[1] * scale
        b = max(b, a + 1)
        svg.path([(a, 330), (lo, 386), (hi, 386), (b, 330)], fill="panel", stroke="none",
                 close=True)  # fmt: skip
        svg.line(a, 330, lo, 386, dash="3 3")
        svg.line(b, 330, hi, 386, dash="3 3")
        svg.text((lo + hi) / 2, 373, name, fill="soft", anchor="middle", size=12.5)
        _strip(svg, data, chosen, span, lo, hi, 390, 110, whole=False)
    svg.text(28, 570, f"Drawn from the completion records of the {len(commands)} commands. The "
             "table is kept for later batches. The card's clock rests while the host computes.",
             size=12.5, fill="soft")  # fmt: skip
    return str(svg)


def _strip(
    svg: Svg,
    data: dict[str, Any],
    commands: list[dict[str, Any]],
    span: tuple[int, int],
    left: float,
    right: float,
    top: float,
    height: float,
    *,
    whole: bool,
) -> None:
    """Commands over time; the height is the share of ring slots."""
    scale = (right - left) / (span[1] - span[0])

    def x(cycle: int) -> float:
        return left + (cycle - span[0]) * scale

    svg.rect(left, top, right - left, height, fill="idle")
    for command in commands:
        below = top + height
        slots = command["cycles"] * data["rings"]
        shares = _parts(data, [command])
        tip = (
            f"{command['opcode']}, {command['cycles']:,} cycles, {shares['busy'] / slots:.1%} busy"
        )
        for part, _ in _PARTS[:3]:
            tall = height * shares[part] / slots
            below -= tall
            svg.rect(x(command["started"]), below, command["cycles"] * scale, tall, fill=part,
                     tip=tip)  # fmt: skip
    for _, group in groupby(commands, key=lambda c: (c["operation"], c["opcode"])):
        same = list(group)
        a, b = x(same[0]["started"]), x(same[-1]["started"] + same[-1]["cycles"])
        key = (same[0]["operation"], same[0]["opcode"])
        words = _WORDS.get(key, "")
        if b - a < 7 * len(words):
            continue
        if a > left:
            svg.line(a, top - 4, a, top + height, stroke="ground", width=2)
        if b - a > 9.5 * len(key[1]):
            svg.text((a + b) / 2, top + (-26 if whole else height * 0.5 - 4), key[1], size=12.5,
                     bold=True, anchor="middle", fill="ink" if whole else "#04211a")  # fmt: skip
        svg.text((a + b) / 2, top + (-10 if whole else height * 0.5 + 12), words, size=12,
                 anchor="middle", fill="soft" if whole else "#04211a")  # fmt: skip
    for share in (0, 50, 100):
        y = top + height * (1 - share / 100)
        svg.text(left - 8, y + 4, f"{share} %", size=11.5, fill="soft", anchor="end")
    _ticks(svg, span, left, top + height, scale)


def _ticks(svg: Svg, span: tuple[int, int], left: float, y: float, scale: float) -> None:
    """Cycles below a strip, in thousands."""
    step = next(
        s
        for s in (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 200_000, 500_000)
        if (span[1] - span[0]) / s < 9
    )
    for cycle in range(-(-span[0] // step) * step, span[1], step):
        at = left + (cycle - span[0]) * scale
        svg.line(at, y, at, y + 5)
        svg.text(
            at,
            y + 18,
            f"{cycle // 1000:,} k" if cycle else "0 cycles",
            size=11.5,
            fill="soft",
            anchor="middle",
        )
