"""Parties in network namespaces, joined by a line that delays, limits and loses packets.

A `Lab` gives every party a namespace with a TUN device of 1,500-byte packets. What leaves a device
is read by a process of its own, the line, which drops it by a seeded draw, lets it wait for its
turn at the line's rate and for half the round trip, and writes it to the device it is for. The
kernels' own TCP does the rest. Needs root (CAP_NET_ADMIN) and /dev/net/tun; see `why_not`.

``python -m bench.netlab`` measures what the line itself can carry.
"""

from __future__ import annotations

import io
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fcntl import ioctl
from functools import cache
from typing import IO, Any

__all__ = ["Lab", "Line", "why_not"]

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_NETWORK = "10.77.0."
_MTU = 1500
_READ_AT_ONCE = 64
_QUEUE_SECONDS = 0.2
"""Packets that would wait longer for their turn at the line's rate are dropped, as by a router."""


@dataclass(frozen=True)
class Line:
    """What the line does. Milliseconds there and back, share of packets lost, bits a second.

    rate 0: no bound of its own. cut: nothing passes.
    """

    round_trip_ms: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    cut: bool = False


@cache
def why_not() -> str | None:
    """Why there can be no namespaces on this machine; None if there can."""
    if shutil.which("ip") is None:
        return "no network namespaces: iproute2 is not installed"
    name = f"residue-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip() or 'ip netns add failed'}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"no network namespaces: /dev/net/tun: {error.strerror}"
    return None


class Lab:
    """Namespaces of `parties`, joined by a line, as a context manager.

    seed: of the draws; printed. congestion: TCP's congestion control in all namespaces; None keeps
    the machine's.
    """

    def __init__(
        self,
        parties: Sequence[str],
        line: Line | None = None,
        *,
        seed: int = 1,
        congestion: str | None = None,
    ) -> None:
        self._line, self._seed, self._congestion = line or Line(), seed, congestion
        self.addresses = {name: f"{_NETWORK}{at}" for at, name in enumerate(parties, 1)}
        self._spaces = {name: f"residue-{os.getpid()}-{name}" for name in parties}
        self._devices: dict[str, int] = {}

    def __enter__(self) -> Lab:
        print(
            f"netlab: seed {self._seed}, {self._line}, congestion control {self._congestion}",
            file=sys.stderr,
        )
        try:
            for at, (name, space) in enumerate(self._spaces.items(), 1):
                self._make(name, space, f"rl{os.getpid()}x{at}")
        except BaseException:
            self._remove()
            raise
        plan = {"seed": self._seed, "devices": list(self._devices.values())}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=tuple(self._devices.values()),
            text=True,
        )
        self.become(self._line)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            print(f"netlab: {self.counts()}", file=sys.stderr)
        finally:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait(timeout=10)
            self._process.stdout.close()
            self._remove()

    def _make(self, name: str, space: str, device: str) -> None:
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._devices[name] = handle
        ioctl(handle, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TUN | _IFF_NO_PI))
        _ip("netns", "add", space)
        _ip("link", "set", device, "netns", space)
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", device)
        _ip("-n", space, "link", "set", device, "mtu", str(_MTU), "txqueuelen", "20000", "up")
        if self._congestion is not None:  # by route: in a namespace, a sysctl may not choose all
            route = ["route", "replace", f"{_NETWORK}0/24", "dev", device]
            _ip("-n", space, *route, "congctl", self._congestion)

    def _remove(self) -> None:
        for handle in self._devices.values():
            os.close(handle)
        for space in self._spaces.values():
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def command(self, party: str) -> list[str]:
        """What stands before a command to run it in a party's namespace."""
        return ["ip", "netns", "exec", self._spaces[party]]

    def become(self, line: Line) -> None:
        """Change what the line does."""
        self._line = line
        self._ask(asdict(line))

    def counts(self) -> dict[str, int]:
        """Packets that were carried, lost by the draw, in a cut, or for want of room so far.

        unread: dropped by the kernel before the line, which was too slow, could read them.
        """
        unread = 0
        for name, space in self._spaces.items():
            shown = subprocess.run(
                ["ip", "-n", space, "-j", "-s", "link"], check=True, capture_output=True
            )
            unread += sum(link["stats64"]["tx"]["dropped"] for link in json.loads(shown.stdout))
            assert name in self._devices
        return {**self._ask({}), "unread": unread}

    def _ask(self, change: dict[str, Any]) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(change) + "\n")
        self._process.stdin.flush()
        counts: dict[str, int] = json.loads(self._process.stdout.readline())
        return counts


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _carry(devices: list[int], seed: int, control: io.FileIO, answers: IO[str]) -> None:
    """The line: carry packets between `devices` until `control` ends."""
    draw = random.Random(seed).random
    line = Line()
    places = {bytes(map(int, f"{_NETWORK}{at}".split("."))): at - 1 for at in range(1, 255)}
    queues: list[deque[tuple[float, bytes]]] = [deque() for _ in devices]
    free = [0.0] * len(devices)
    counts = {"carried": 0, "lost": 0, "cut": 0, "overflowed": 0}
    clock, watched = time.monotonic, [control.fileno(), *devices]
    while True:
        now = clock()
        due = min((queue[0][0] for queue in queues if queue), default=now + 1.0)
        # Not epoll, whose timeouts are whole milliseconds in Python.
        ready, _, _ = select.select(watched, [], [], max(0.0, due - now))
        now = clock()
        for at, queue in enumerate(queues):
            while queue and queue[0][0] <= now:
                os.write(devices[at], queue.popleft()[1])
        for handle in ready:
            if handle == control.fileno():
                request = control.readline()
                if not request:
                    return
                line = Line(**json.loads(request)) if len(request) > 3 else line
                print(json.dumps(counts), file=answers, flush=True)
                continue
            for _ in range(_READ_AT_ONCE):
                try:
                    packet = os.read(handle, _MTU)
                except BlockingIOError:
                    break
                place = places.get(packet[16:20], len(devices))
                if place >= len(devices) or packet[0] >> 4 != 4:
                    continue  # IPv6 and multicast of the kernels
                if line.cut:
                    counts["cut"] += 1
                    continue
                if line.loss and draw() < line.loss:
                    counts["lost"] += 1
                    continue
                leaves = now
                if line.rate:
                    leaves = max(now, free[place])
                    if leaves - now > _QUEUE_SECONDS:
                        counts["overflowed"] += 1
                        continue
                    leaves = free[place] = leaves + len(packet) * 8 / line.rate
                counts["carried"] += 1
                queues[place].append((leaves + line.round_trip_ms / 2000, packet))


_BLAST = """
import socket, sys, time
if sys.argv[1] == "take":
    server = socket.create_server(("0.0.0.0", 7000))
    print(flush=True)
    connection = server.accept()[0]
    start = count = 0
    while data := connection.recv(1 << 20):
        start = start or time.perf_counter()
        count += len(data)
    print(count / (time.perf_counter() - start))
else:
    connection, end = socket.create_connection((sys.argv[1], 7000)), time.time() + 3
    while time.time() < end:
        connection.sendall(bytes(1 << 20))
"""


def _measure() -> None:
    """Bytes and packets a second that the line carries when it neither delays nor loses."""
    with Lab(["a", "b"]) as lab:
        python = [sys.executable, "-c", _BLAST]
        taking = subprocess.Popen(
            [*lab.command("b"), *python, "take"], stdout=subprocess.PIPE, text=True
        )
        assert taking.stdout is not None
        taking.stdout.readline()
        start = time.perf_counter()
        subprocess.run([*lab.command("a"), *python, lab.addresses["b"]], check=True)
        rate = float(taking.communicate()[0])
        carried = lab.counts()["carried"] / (time.perf_counter() - start)
        print(f"{rate / 2**20:.0f} MiB/s, {carried:,.0f} packets/s")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        _measure()
    else:
        plan = json.loads(sys.argv[1])
        _carry(plan["devices"], plan["seed"], io.FileIO(0), sys.stdout)
