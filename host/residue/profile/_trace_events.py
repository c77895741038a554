"""A profile as trace events, the JSON that Perfetto and chrome://tracing open.

Host operations stand in microseconds of the job's time. A card's own tracks stand in its cycles, a
cycle drawn as a microsecond: how fast the card's clock runs is not known here.
"""

from __future__ import annotations

from typing import Any

from residue.card._abi import Opcode
from residue.profile._events import Device, Process, Profile
from residue.profile._summary import spans, waiting_slots

__all__ = ["trace_events"]

Event = dict[str, Any]


def trace_events(profile: Profile) -> dict[str, Any]:
    """Trace events of all processes: ``{"traceEvents": [...], ...}``, sorted by time."""
    events: list[Event] = []
    names: list[Event] = []
    track = 1
    for process in profile.processes:
        names.append(_name("process_name", track, 0, f"{process.program} ({process.pid})"))
        events += _host(process, track, names)
        track += 1
        for device in process.devices:
            if device.commands:
                title = f"card of {process.program} ({process.pid}), 1 us = 1 cycle"
                names.append(_name("process_name", track, 0, title))
                events += _card(device, track)
                track += 1
    events.sort(key=lambda event: event["ts"])
    return {"traceEvents": names + events, "displayTimeUnit": "ms"}


def _host(process: Process, track: int, names: list[Event]) -> list[Event]:
    events, threads = [], set()
    for device in process.devices:
        for o in device.operations:
            if o.thread not in threads:
                threads.add(o.thread)
                names.append(_name("thread_name", track, o.thread, f"thread {o.thread}"))
            facts = {"elements": o.elements, "modulus bits": o.modulus_bits, "device": device.name}
            events.append(
                _span(o.name, track, o.thread, o.start * 1e6, (o.end - o.start) * 1e6, facts)
            )
    return events


def _card(device: Device, track: int) -> list[Event]:
    events = []
    begins, ends = spans(device.commands)
    for c, begin, end in zip(device.commands, begins.tolist(), ends.tolist(), strict=True):
        opcode = Opcode(c.opcode).name if c.opcode in list(Opcode) else f"opcode {c.opcode}"
        slots = max(1, c.cycles * device.rings)
        facts = {
            "operation": c.operation,
            "count": c.count,
            "length": c.length,
            "modulus bits": c.modulus_bits,
            "products": c.products,
            "stalls": c.stalls,
            "status": c.status,
        }
        events.append(_span(opcode, track, 1, begin, end - begin, facts))
        waiting = waiting_slots(c, device.rings)
        shares = {"busy": c.busy / slots * 100, "waiting": waiting / slots * 100}
        rates = {
            "read": c.read_bytes / max(1, c.cycles),
            "written": c.write_bytes / max(1, c.cycles),
        }
        for name, values in (("rings, % of slots", shares), ("memory, bytes a cycle", rates)):
            events.append(_count(name, track, begin, values))
            events.append(_count(name, track, end, dict.fromkeys(values, 0.0)))
    return events


def _name(kind: str, track: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": track, "tid": thread, "args": {"name": name}}


def _span(name: str, track: int, thread: int, ts: float, dur: float, args: Event) -> Event:
    return {
        "ph": "X",
        "name": name,
        "pid": track,
        "tid": thread,
        "ts": ts,
        "dur": dur,
        "args": args,
    }


def _count(name: str, track: int, ts: float, args: dict[str, float]) -> Event:
    return {"ph": "C", "name": name, "pid": track, "ts": ts, "args": args}
