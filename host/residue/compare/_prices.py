"""What devices cost, draw and rent for, and published rates: `prices.toml`, checked.

A file of the user's has the same form. Its quantities replace those of the same device, quantity by
quantity; its devices, reference rows and published rates are added.
"""

from __future__ import annotations

import importlib.resources
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from residue.compare._workloads import WORKLOADS
from residue.errors import CompareError

__all__ = [
    "QUANTITIES",
    "UNITS",
    "Claim",
    "PricedDevice",
    "Prices",
    "Published",
    "Quantity",
    "Reference",
    "load",
]

QUANTITIES = {
    "power": "watts",
    "price": "usd",
    "cloud": "usd_per_hour",
    "link": "gigabytes_per_second",
}
"""Quantity of a device -> the key of its value."""

UNITS = {"power": "W", "price": "USD", "cloud": "USD an hour", "link": "GB/s"}
"""Quantity of a device -> its unit."""

_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
_PRODUCT = "prices.toml"


@dataclass(frozen=True)
class Quantity:
    """A price, a power or a rate.

    Attributes:
        low, high: its range; equal where it is one number.
        cores: that it is for so many cores of a CPU; None: for the whole device.
        source, date: who says so, and as of when.
        retrieved: the source has no date, `date` is when it was looked up.
        sourced: false where it is recalled and no source was found.
        own: it comes from the user's file.
    """

    low: float
    high: float
    cores: int | None
    source: str
    date: str
    retrieved: bool
    sourced: bool
    own: bool

    def of(self, cores: int | None) -> float | None:
        """The high end for a device that uses `cores` cores; None where a share needs their number.

        The high end, for then no figure per watt or per price looks better than it is.
        """
        if self.cores is None:
            return self.high
        return None if cores is None else self.high * cores / self.cores


@dataclass(frozen=True)
class PricedDevice:
    """One device of the file; `match` are parts of what a device calls itself, any case."""

    id: str
    name: str
    match: tuple[str, ...] = ()
    quantities: Mapping[str, Quantity] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """A row of the reference set: encryptions in 1,000 a second, and a price in 10,000 CNY."""

    device: str
    kops: float
    price: float
    source: str
    date: str


@dataclass(frozen=True)
class Published:
    """Published rates of one device: operations a second by workload.

    `priced` is the id of the device whose power, prices and rates it shares, if one does.
    """

    device: str
    key_bits: int
    ops: Mapping[str, float]
    priced: str | None
    source: str
    date: str


@dataclass(frozen=True)
class Claim:
    """What a source says of a device in its own words."""

    device: str
    text: str
    source: str
    date: str


@dataclass(frozen=True)
class Prices:
    """The whole file."""

    devices: tuple[PricedDevice, ...]
    reference: tuple[Reference, ...]
    published: tuple[Published, ...]
    claims: tuple[Claim, ...]

    def find(self, identity: str, described: str = "") -> PricedDevice | None:
        """The device of that id, else the one whose `match` is longest in what it calls itself."""
        for device in self.devices:
            if device.id == identity:
                return device
        text = described.lower()
        found = [(len(m), d) for d in self.devices for m in d.match if m.lower() in text]
        return max(found, key=lambda pair: pair[0])[1] if found else None


def load(own: Path | None = None) -> Prices:
    """The product's file, with the user's own over it.

    Raises:
        CompareError: a file cannot be read, or says something it must not; with the place in it.
    """
    prices = _shipped()
    if own is not None:
        try:
            text = own.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CompareError(f"cannot read prices from {own}: {error}") from error
        prices = _over(prices, _parse(str(own), text, own=True))
    known = {device.id for device in prices.devices}
    for row in prices.published:
        if row.priced is not None and row.priced not in known:
            raise CompareError(f"published {row.device}: no device has the id {row.priced!r}")
    return prices


def _shipped() -> Prices:
    shipped = importlib.resources.files(__package__).joinpath(_PRODUCT)
    return _parse(_PRODUCT, shipped.read_text(encoding="utf-8"), own=False)


def _over(prices: Prices, own: Prices) -> Prices:
    devices = {device.id: device for device in prices.devices}
    for device in own.devices:
        known = devices.get(device.id)
        if known is not None:
            device = replace(
                known,
                name=device.name or known.name,
                match=device.match or known.match,
                quantities={**known.quantities, **device.quantities},
            )
        elif not device.name:
            raise CompareError(f"device {device.id}: a device that is not known needs a name")
        devices[device.id] = device
    return Prices(
        tuple(devices.values()),
        prices.reference + own.reference,
        prices.published + own.published,
        prices.claims + own.claims,
    )


def _parse(where: str, text: str, *, own: bool) -> Prices:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CompareError(f"{where} is not TOML: {error}") from error
    _only(where, data, {"device", "reference", "published", "claim"})
    devices = [_device(w, entry, own=own) for w, entry in _entries(where, data, "device")]
    ids = [device.id for device in devices]
    if twice := {i for i in ids if ids.count(i) > 1}:
        raise CompareError(f"{where}: two devices with the id {', '.join(sorted(twice))}")
    return Prices(
        tuple(devices),
        tuple(_reference(w, entry) for w, entry in _entries(where, data, "reference")),
        tuple(_published(w, entry) for w, entry in _entries(where, data, "published")),
        tuple(_claim(w, entry) for w, entry in _entries(where, data, "claim")),
    )


def _entries(where: str, data: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    entries = data.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CompareError(f"{where}: expected [[{key}]] tables")
    return [(f"{where}, {key} {i}", entry) for i, entry in enumerate(entries, 1)]


def _device(where: str, entry: dict[str, Any], *, own: bool) -> PricedDevice:
    _only(where, entry, {"id", "name", "match", *QUANTITIES})
    identity = _text(where, entry, "id")
    where = f"{where} ({identity})"
    match = entry.get("match", [])
    if not isinstance(match, list) or not all(isinstance(m, str) and m for m in match):
        raise CompareError(f"{where}: match must be a list of texts")
    return PricedDevice(
        identity,
        _text(where, entry, "name") if "name" in entry or not own else "",
        tuple(match),
        {
            name: _quantity(f"{where}, {name}", entry[name], key, own=own)
            for name, key in QUANTITIES.items()
            if name in entry
        },
    )


def _quantity(where: str, entry: Any, key: str, *, own: bool) -> Quantity:
    if not isinstance(entry, dict):
        raise CompareError(f"{where}: expected {{ {key} = ..., source = ..., date = ... }}")
    _only(where, entry, {key, "cores", "source", "date", "retrieved", "sourced"})
    value = entry.get(key)
    ends = value if isinstance(value, list) and len(value) == 2 else [value, value]
    low, high = (_positive(where, key, end) for end in ends)
    if low > high:
        raise CompareError(f"{where}: {key} goes from {low:g} down to {high:g}")
    cores = entry.get("cores")
    if cores is not None and (type(cores) is not int or cores < 1):
        raise CompareError(f"{where}: cores must be a whole number of at least 1, not {cores!r}")
    retrieved = _flag(where, entry, "retrieved", otherwise=False)
    sourced = _flag(where, entry, "sourced", otherwise=True)
    source, date = _origin(where, entry)
    return Quantity(low, high, cores, source, date, retrieved, sourced, own)


def _reference(where: str, entry: dict[str, Any]) -> Reference:
    _only(where, entry, {"device", "kops", "price", "source", "date"})
    kops, price = (_positive(where, key, entry.get(key)) for key in ("kops", "price"))
    return Reference(_text(where, entry, "device"), kops, price, *_origin(where, entry))


def _published(where: str, entry: dict[str, Any]) -> Published:
    _only(where, entry, {"device", "key_bits", "ops", "priced", "source", "date"})
    bits = entry.get("key_bits")
    if type(bits) is not int or bits < 1:
        raise CompareError(f"{where}: key_bits must be a whole number of at least 1, not {bits!r}")
    ops = entry.get("ops")
    if not isinstance(ops, dict) or not ops:
        raise CompareError(f"{where}: ops must name at least one operation")
    _only(f"{where}, ops", ops, set(WORKLOADS))
    return Published(
        _text(where, entry, "device"),
        bits,
        {name: _positive(f"{where}, ops", name, value) for name, value in ops.items()},
        _text(where, entry, "priced") if "priced" in entry else None,
        *_origin(where, entry),
    )


def _claim(where: str, entry: dict[str, Any]) -> Claim:
    _only(where, entry, {"device", "text", "source", "date"})
    device, text = (_text(where, entry, key) for key in ("device", "text"))
    return Claim(device, text, *_origin(where, entry))


def _origin(where: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    date = _text(where, entry, "date")
    if not _DATE.fullmatch(date):
        raise CompareError(f"{where}: date must be YYYY, YYYY-MM or YYYY-MM-DD, not {date!r}")
    return _text(where, entry, "source"), date


def _only(where: str, entry: Mapping[str, Any], known: set[str]) -> None:
    if unknown := entry.keys() - known:
        raise CompareError(
            f"{where}: unknown {', '.join(sorted(unknown))}; expected {', '.join(sorted(known))}"
        )


def _text(where: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise CompareError(f"{where}: {key} must be a text, not {value!r}")
    return value


def _flag(where: str, entry: Mapping[str, Any], key: str, *, otherwise: bool) -> bool:
    value = entry.get(key, otherwise)
    if not isinstance(value, bool):
        raise CompareError(f"{where}: {key} must be true or false, not {value!r}")
    return value


def _positive(where: str, key: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise CompareError(f"{where}: {key} must be a positive number, not {value!r}")
    return float(value)
