"""Results priced and put in rows: everything that the page and the JSON show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from residue import __version__
from residue.compare import _figures as figures
from residue.compare._extensions import Projection
from residue.compare._job import OTHER, JobRun
from residue.compare._measure import Measurement
from residue.compare._prices import UNITS, PricedDevice, Prices, Quantity
from residue.compare._run import BASE, Device, Results
from residue.compare._workloads import BEST, SAME, WORKLOADS, Workload

__all__ = ["COST_OF", "FORMAT", "MEASURES", "report"]

FORMAT = 1
"""Version of the JSON."""

MEASURES: Mapping[str, str] = {
    "rate": "operations a second",
    "per_watt": "operations a second and watt",
    "per_price": "operations a second for 1,000 USD",
    "per_cloud": "operations for 1 USD of cloud rent",
}
"""What a table shows, and its unit."""

COST_OF = {"per_watt": "power", "per_price": "price", "per_cloud": "cloud"}
"""The quantity that a measure divides by."""
_COSTED = {
    "per_watt": figures.per_watt,
    "per_price": figures.per_thousand_dollars,
    "per_cloud": figures.per_cloud_dollar,
}
_SMALL = (1, 16)
_RESIDUE_BITS = 2  # of n^2, per bit of n


@dataclass(frozen=True)
class _Rate:
    """Rate of one workload on one device."""

    value: float
    how: str
    rounds: Sequence[float] = ()
    low: float | None = None
    high: float | None = None
    batch: int | None = None


@dataclass
class _Row:
    """A device of the tables.

    Attributes:
        points: workload -> (units, seconds on the device, up, down), at the main key size.
    """

    id: str
    name: str
    state: str
    note: str
    priced: PricedDevice | None = None
    cores: int | None = None
    rates: dict[int, dict[str, _Rate]] = field(default_factory=dict)
    points: dict[str, list[tuple[int, float, float, float]]] = field(default_factory=dict)


def report(results: Results, prices: Prices) -> dict[str, Any]:
    """Everything as JSON objects: what was found, priced, compared, with its arithmetic."""
    rows = [_measured_row(d, prices, results.settings.main_bits) for d in results.devices]
    rows += _projected_rows(results, prices)
    rows += _published_rows(prices, results.settings.key_bits)
    base = next(row for row in rows if row.id == BASE)
    main = results.settings.main_bits
    devices = [_device(row, base, results.settings.key_bits, main) for row in rows]
    return {
        "format": FORMAT,
        "residue": __version__,
        "started": results.started,
        "seconds": round(results.seconds, 1),
        "machine": results.machine,
        "settings": asdict(results.settings) | {"main_bits": main},
        "workloads": {
            w.name: {"algorithm": w.algorithm, "operations": w.operations}
            for w in WORKLOADS.values()
        },
        "same": dict(SAME),
        "best": {column: list(names) for column, names in BEST.items()},
        "devices": devices,
        "no_projections": results.no_projections,
        "card": _card(results),
        "jobs": _jobs(results, rows, base),
        "checks": _checks(results),
        "wrong": results.wrong,
        "reference": _reference(prices),
        "published": [asdict(p) for p in prices.published],
        "claims": [asdict(c) for c in prices.claims],
        "prices": _price_list(prices),
        "not_found": _not_found(prices),
    }


# --- rows -----------------------------------------------------------------------------------------


def _measured_row(device: Device, prices: Prices, main: int) -> _Row:
    described = str(device.facts.get("device", ""))
    cores = device.facts.get("cores")
    row = _Row(
        id=device.name,
        name=f"{device.name}: {described}" if described else device.name,
        state="measured" if device.measured else "not measured",
        note=device.reason or "",
        priced=prices.find(device.name, described),
        cores=int(cores) if isinstance(cores, int) else None,
    )
    for bits, found in device.measured.items():
        row.rates[bits] = {
            name: _measured_rate(WORKLOADS[name], m) for name, m in found.items() if not m.error
        }
    for name, m in device.measured.get(main, {}).items():
        row.points[name] = [(p.units, p.seconds, p.up, p.down) for p in m.points]
    return row


def _measured_rate(workload: Workload, m: Measurement) -> _Rate:
    middle, low, high = figures.spread(m.rates)
    operations = m.units * workload.operations
    return _Rate(
        middle,
        f"measured: median of {len(m.rates)} rounds of {operations:,} operations, half of them "
        f"between {_number(low)} and {_number(high)}; {workload.algorithm}",
        tuple(m.rates),
        low,
        high,
        operations,
    )


def _projected_rows(results: Results, prices: Prices) -> Iterable[_Row]:
    rows: dict[str, _Row] = {}
    for p in results.projections:
        if p.simulated:
            continue
        row = rows.get(p.device) or rows.setdefault(
            p.device, _Row(p.device, p.name, "projected", p.basis, prices.find(p.device))
        )
        row.rates.setdefault(p.key_bits, {})[p.workload] = _Rate(p.rate, p.arithmetic)
        if p.points:
            row.points[p.workload] = [
                (units, seconds, *_projected_transfers(p, row, units))
                for units, seconds in p.points
            ]
    main = results.settings.main_bits

    def fastest_first(row: _Row) -> float:
        name = _pick(row, main, BEST["encrypt"])
        return -row.rates[main][name].value if name else 0.0

    return sorted(rows.values(), key=fastest_first)


def _projected_transfers(p: Projection, row: _Row, units: int) -> tuple[float, float]:
    """Seconds for operands and results over the device's link; none where it shares memory."""
    link = row.priced.quantities.get("link") if row.priced else None
    if link is None:
        return 0.0, 0.0
    workload = WORKLOADS[p.workload]
    each = _RESIDUE_BITS * p.key_bits / 8 / (link.low * 1e9)
    return units * workload.up * each, units * workload.down * each


def _published_rows(prices: Prices, key_bits: Sequence[int]) -> Iterable[_Row]:
    for p in prices.published:
        if p.key_bits in key_bits:
            how = f"published: {p.source}, {p.date}; another machine in another run"
            rates = {name: _Rate(value, how) for name, value in p.ops.items()}
            yield _Row(
                p.device,
                p.device,
                "published",
                f"{p.source}, {p.date}",
                prices.find(p.priced) if p.priced else None,
                rates={p.key_bits: rates},
            )


# --- figures of a row -----------------------------------------------------------------------------


def _device(row: _Row, base: _Row, key_bits: Sequence[int], main: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "note": row.note,
        "priced_as": row.priced.name if row.priced else None,
        "costs": _costs(row),
        "figures": {
            str(bits): {
                "same": {c: _figure(row, base, bits, (w,)) for c, w in SAME.items()},
                # What others published is one algorithm, not the best that their device could run.
                "best": {
                    c: _figure(row, base, bits, ws if row.state != "published" else ())
                    for c, ws in BEST.items()
                },
            }
            for bits in key_bits
            if bits in row.rates
        },
        "rounds": {
            str(bits): {name: [_rounded(v) for v in rate.rounds] for name, rate in rates.items()}
            for bits, rates in row.rates.items()
            if row.state == "measured"
        },
        "small": _small(row, main),
        "break_even": _break_even(row, base, main),
        "transfer": _transfer(row, main),
        "curve": _curve(row, main),
    }


def _costs(row: _Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, unit in UNITS.items():
        quantity = row.priced.quantities.get(name) if row.priced else None
        value = quantity.of(row.cores) if quantity else None
        if quantity is None or value is None:
            found[name] = None
            continue
        share = f" x {row.cores} of {quantity.cores} cores" if quantity.cores else ""
        span = f"{quantity.low:g} to " if quantity.low != quantity.high else ""
        found[name] = {
            "value": _rounded(value),
            "unit": unit,
            "sourced": quantity.sourced,
            "how": f"{span}{quantity.high:g}{share}; {_origin(quantity)}",
        }
    return found


def _origin(quantity: Quantity) -> str:
    state = "your file: " if quantity.own else ""
    unsourced = "" if quantity.sourced else " (unsourced)"
    return f"{state}{quantity.source}, {quantity.date}{unsourced}"


def _pick(row: _Row, bits: int, names: Sequence[str]) -> str | None:
    """The fastest of these workloads on this device."""
    rates = row.rates.get(bits, {})
    known = [name for name in names if name in rates]
    return max(known, key=lambda name: rates[name].value) if known else None


def _figure(row: _Row, base: _Row, bits: int, names: Sequence[str]) -> dict[str, Any] | None:
    """One column of a device: its rate, and the rate over what it costs, each with its ratio."""
    name, against = _pick(row, bits, names), _pick(base, bits, names)
    if name is None or against is None:
        return None
    rate, other = row.rates[bits][name], base.rates[bits][against]
    same_rounds = name == against and 0 < len(rate.rounds) == len(other.rounds)
    ratio = (
        figures.ratio_of_rounds(rate.rounds, other.rounds)
        if same_rounds
        else rate.value / other.value
    )
    found: dict[str, Any] = {
        "workload": name,
        "rate": {
            "value": _rounded(rate.value),
            "low": None if rate.low is None else _rounded(rate.low),
            "high": None if rate.high is None else _rounded(rate.high),
            "batch": rate.batch,
            "x_cpu": _rounded(ratio),
            "how": rate.how,
        },
    }
    for measure, formula in _COSTED.items():
        cost, base_cost = _cost(row, measure), _cost(base, measure)
        found[measure] = None
        if cost is None:
            continue
        value = formula(rate.value, cost)
        base_value = None if base_cost is None else formula(other.value, base_cost)
        found[measure] = {
            "value": _rounded(value),
            "x_cpu": None if base_value is None else _rounded(value / base_value),
            "how": _costed_how(measure, rate.value, cost),
        }
    return found


def _cost(row: _Row, measure: str) -> float | None:
    quantity = row.priced.quantities.get(COST_OF[measure]) if row.priced else None
    return quantity.of(row.cores) if quantity else None


def _costed_how(measure: str, rate: float, cost: float) -> str:
    return {
        "per_watt": f"{_number(rate)} / {_number(cost)} W",
        "per_price": f"1,000 x {_number(rate)} / {_number(cost)} USD",
        "per_cloud": f"3,600 s x {_number(rate)} / {_number(cost)} USD an hour",
    }[measure]


def _whole(row: _Row, name: str, point: tuple[int, float, float, float]) -> float:
    """Seconds of a batch from host memory to host memory.

    What was measured of a workload that begins and ends there includes its transfers already.
    """
    _, seconds, up, down = point
    included = row.state == "measured" and WORKLOADS[name].border
    return seconds if included else up + seconds + down


def _main_workloads(row: _Row, main: int) -> dict[str, str]:
    """Column -> its fastest workload here."""
    found = {column: _pick(row, main, names) for column, names in BEST.items()}
    return {column: name for column, name in found.items() if name and name in row.points}


def _small(row: _Row, main: int) -> dict[str, dict[str, float]]:
    """Column -> units -> seconds of a small batch, from host memory to host memory."""
    return {
        column: {
            str(point[0]): _rounded(_whole(row, name, point))
            for point in row.points[name]
            if point[0] in _SMALL
        }
        for column, name in _main_workloads(row, main).items()
    }


def _break_even(row: _Row, base: _Row, main: int) -> dict[str, dict[str, Any]]:
    """Column -> the batch from which on this device, transfers included, is faster than the CPU.

    The CPU's operands lie in its own memory: its transfers do not count.
    """
    found: dict[str, dict[str, Any]] = {}
    if row is base:
        return found
    ours = _main_workloads(base, main)
    for column, name in _main_workloads(row, main).items():
        if column not in ours:
            continue
        each = WORKLOADS[name].operations
        cpu = [(p[0] * each, p[1]) for p in base.points[ours[column]]]
        device = [(p[0] * each, _whole(row, name, p)) for p in row.points[name]]
        batch = figures.break_even(cpu, device)
        common = {b for b, _ in cpu} & {b for b, _ in device}
        found[column] = {
            "batch": None if batch is None else max(1, math.ceil(batch - 1e-9)),
            "from": min(common, default=None),
            "to": max(common, default=None),
        }
    return found


def _transfer(row: _Row, main: int) -> dict[str, Any]:
    """Column -> share of transfers in the largest batch, from host memory to host memory."""
    found: dict[str, Any] = {}
    projected = row.state == "projected"
    if projected and not (row.priced and "link" in row.priced.quantities):
        return found
    for column, name in _main_workloads(row, main).items():
        point = row.points[name][-1]
        units, _, up, down = point
        total = _whole(row, name, point)
        found[column] = {
            "share": _rounded(figures.transfer_share(up, down, total)),
            "how": (
                f"({_time(up)} up + {_time(down)} down) / {_time(total)}, batch of "
                f"{units * WORKLOADS[name].operations:,}"
                + (", over the peak rate of the link" if projected else ", measured")
            ),
        }
    return found


def _curve(row: _Row, main: int) -> dict[str, list[tuple[int, float]]]:
    """Workload -> (operations of a batch, operations a second from host memory to host memory)."""
    return {
        name: [
            (p[0] * WORKLOADS[name].operations,
             _rounded(p[0] * WORKLOADS[name].operations / _whole(row, name, p)))
            for p in points
        ]
        for name, points in row.points.items()
    }  # fmt: skip


# --- the rest -------------------------------------------------------------------------------------


def _card(results: Results) -> dict[str, Any]:
    card = results.card
    expected = {
        p.workload: p for p in results.projections if p.simulated and p.key_bits == card.key_bits
    }
    rows = []
    for name, workload in WORKLOADS.items():
        measured, committed = card.cycles.get(name), expected.get(name)
        rows.append(
            {
                "workload": name,
                "batch": measured.units * workload.operations if measured else None,
                "cycles": _rounded(measured.cycles_per_operation) if measured else None,
                "products": _rounded(measured.products_per_operation) if measured else None,
                "ring_use": _rounded(measured.ring_use) if measured else None,
                "checked": measured.checked if measured else 0,
                "expected_cycles": _rounded(committed.cycles) if committed else None,
                "expected_how": committed.arithmetic if committed else None,
            }
        )
    return {
        "name": card.name,
        "key_bits": card.key_bits,
        "state": "measured in cycles" if card.cycles else "not measured",
        "reason": card.reason,
        "rows": rows,
    }


def _jobs(results: Results, rows: Sequence[_Row], base: _Row) -> dict[str, Any]:
    main = results.settings.main_bits
    own = next((job for job in results.jobs if job.device == BASE), None)
    measured = {job.device: job for job in results.jobs}
    gains = []
    if own is not None:
        for row in rows:
            if row is not base and main in row.rates and row.state != "published":
                gains.append(_gain(own, row, base, main, measured.get(row.id)))
    return {
        "measured": [
            asdict(job)
            | {"share": _rounded(job.share), "seconds_per_epoch": _rounded(job.seconds_per_epoch)}
            for job in results.jobs
        ],
        "reasons": results.job_reasons,
        "limit": None if own is None or own.share >= 1 else _rounded(1 / (1 - own.share)),
        "gains": gains,
    }


def _gain(own: JobRun, row: _Row, base: _Row, main: int, measured: JobRun | None) -> dict[str, Any]:
    """What the job gains from a device: Amdahl's law over its measured share and mix."""
    speedups = {OTHER: 1.0}
    for names in BEST.values():
        for name in names:
            here, there = _pick(row, main, (name,)), _pick(base, main, (name,))
            if here and there:
                speedups[name] = row.rates[main][here].value / base.rates[main][there].value
    speedup = figures.mixed_speedup(own.weights, speedups)
    gain = None if speedup is None else figures.amdahl(own.share, speedup)
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "speedup": None if speedup is None else _rounded(speedup),
        "gain": None if gain is None else _rounded(gain),
        "seconds_per_epoch": None if gain is None else _rounded(own.seconds_per_epoch / gain),
        "measured_seconds_per_epoch": (
            None if measured is None else _rounded(measured.seconds_per_epoch)
        ),
        "how": (
            None
            if speedup is None or gain is None
            else "encryption "
            + " / (".join(["1", " + ".join(
                f"{weight:.3f} / {_number(speedups[name])}" for name, weight in own.weights.items()
            )])
            + f") = {_number(speedup)} times as fast; job 1 / ({1 - own.share:.4f} + "
            f"{own.share:.4f} / {_number(speedup)}) = {_number(gain)}"
        ),
    }  # fmt: skip


def _checks(results: Results) -> list[dict[str, Any]]:
    found = [
        {
            "device": device.name,
            "key_bits": bits,
            "workload": name,
            "checked": m.checked,
            "state": "WRONG" if m.wrong else "equal" if not m.error else "failed",
            "error": m.error,
        }
        for device in results.devices
        for bits, measured in device.measured.items()
        for name, m in measured.items()
    ]
    found += [
        {
            "device": results.card.name,
            "key_bits": results.card.key_bits,
            "workload": name,
            "checked": cycles.checked,
            "state": "equal",
            "error": None,
        }
        for name, cycles in results.card.cycles.items()
    ]
    return found


def _reference(prices: Prices) -> list[dict[str, Any]]:
    """The reference set: rates, prices, and the ratios that follow from them."""
    if not prices.reference:
        return []
    base = prices.reference[0]
    return [
        {
            "device": r.device,
            "kops": r.kops,
            "x_cpu": r.kops / base.kops,
            "price": r.price,
            "per_price": r.kops / r.price,
            "per_price_x_cpu": (r.kops / r.price) / (base.kops / base.price),
            "source": f"{r.source}, {r.date}",
        }
        for r in prices.reference
    ]


def _price_list(prices: Prices) -> list[dict[str, Any]]:
    return [
        {
            "device": device.name,
            "quantity": name,
            "unit": UNITS[name],
            "low": quantity.low,
            "high": quantity.high,
            "cores": quantity.cores,
            "source": quantity.source,
            "date": quantity.date,
            "retrieved": quantity.retrieved,
            "sourced": quantity.sourced,
            "own": quantity.own,
        }
        for device in prices.devices
        for name, quantity in device.quantities.items()
    ]


def _not_found(prices: Prices) -> list[dict[str, Any]]:
    """Devices with the costs that no source was found for: no measure is divided by those."""
    missing = [
        (device.name, [name for name in COST_OF.values() if name not in device.quantities])
        for device in prices.devices
    ]
    return [{"device": device, "quantities": names} for device, names in missing if names]


def _rounded(value: float) -> float:
    """Four significant digits: more would pretend."""
    return float(f"{value:.4g}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
