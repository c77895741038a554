"""A job's protocol as the messages of one party show it: live, and again from its record.

Components run one after the other at a party, but a peer may be ahead: messages of a component
that has not started here, or has not agreed on where to resume, wait until it has. So do those of a
part of which nobody knows beforehand whether there is one, until the party itself has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from residue.paillier import BOUND_STEP
from residue_federated._components import AnyComponent
from residue_federated._context import WHOLE
from residue_federated._jobs import Job, Role
from residue_federated.audit._flow import Breach, Flow, Links, Scene, Step
from residue_federated.transport import printable

__all__ = ["APPLIED", "CODE_TAG", "FlowOf", "Protocol", "check_randomness"]

_AUDIT = "_audit"
"""What the audit's own messages are named after, as those of a component are after it."""
CODE_TAG = f"{_AUDIT}/code"
APPLIED = "/predict"
"""Behind the digest of a job whose components are applied to other rows."""

FlowOf = Callable[[AnyComponent, Scene], Flow | None]
"""The protocol of a component, None if it declares none."""

_ROLES: tuple[Role, ...] = ("guest", "host", "arbiter")
_CODE = Flow(
    *(Step(a, b, "code", "record", waits=False) for a in _ROLES for b in _ROLES), agrees=False
)


@dataclass
class _Watch:
    """A component as far as it has come.

    flow: its protocol, once it began; None if it declares none. links: where its messages stand,
    once that is known. waiting: messages until then. keys: public keys that were announced.
    strangers: sender and tag of ciphertexts under other keys. whole: what this is a part of.
    """

    flow: Flow | None = None
    links: Links | None = None
    began: bool = False
    waiting: list[tuple[str, str, str, dict[str, Any]]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    strangers: dict[str, tuple[str, str]] = field(default_factory=dict)
    whole: _Watch | None = None

    def knows(self, key: str) -> bool:
        """Whether a key was announced here, or in what this is a part of."""
        return key in self.keys or (self.whole is not None and self.whole.knows(key))


class Protocol:
    """Checks what `party` says and hears in a run of `job`. Every method may raise `Breach`.

    applies: the components are applied to other rows. own_data: what the party itself sends is
    checked for more than its place. lost: peers without which the job goes on.
    """

    def __init__(
        self, job: Job, party: str, flow_of: FlowOf, *, applies: bool, own_data: bool
    ) -> None:
        self._job = job
        self._party = party
        self._flow_of = flow_of
        self._applies = applies
        self._own_data = own_data
        self._roles = {p.name: job.role(p.name) for p in job.parties}
        self._watches = {name: _Watch() for name in (_AUDIT, WHOLE, *job.components)}
        self._parts: dict[str, _Watch] = {}
        self.undeclared: set[str] = set()
        self.lost: set[str] = set()
        for name, flow in ((_AUDIT, _CODE), (WHOLE, Flow())):
            self._watches[name] = _Watch(flow, Links(flow, self._roles), began=True)

    def begin(self, component: str, rows: int | None) -> None:
        """A component starts on a table of so many rows, None if this party has no table."""
        watch = self._watches[component]
        hosts = [host.name for host in self._job.hosts]
        scene = Scene(hosts, rows, self._applies, self._job, component)
        watch.flow, watch.began = self._flow_of(self._job.components[component], scene), True
        if watch.flow is None:
            self.undeclared.add(component)
            watch.waiting.clear()
            return
        if not watch.flow.agrees:
            watch.links = Links(watch.flow, self._roles)
        self._go_on(watch)

    def resumed(self, component: str, done: int) -> None:
        """The parties agreed to go on after `done` rounds of a component, or of a part of one."""
        watch = self._part(component, own=True)[0] or self._watches.get(component)
        if watch is not None and watch.flow is not None and watch.links is None:
            watch.links = Links(watch.flow.resumed(done), self._roles)
            self._go_on(watch)

    def message(self, sender: str, receiver: str, tag: str, facts: dict[str, Any]) -> None:
        """A message that the party sends or that arrives."""
        component, _, rest = tag.partition("/")
        if component not in self._watches:
            raise Breach(sender, f"{sender} sent '{tag}' to {receiver}: there is no '{component}'")
        part, within, opened = self._part(tag, own=sender == self._party)
        watch, rest = (self._watches[component], rest) if part is None else (part, within)
        if not opened:
            watch.waiting.append((sender, receiver, tag, facts))
            return
        if watch.links is None:
            if watch.flow is not None or not watch.began:
                watch.waiting.append((sender, receiver, tag, facts))
                return
        else:
            self._follow(watch.links, sender, receiver, tag, rest, facts)
        self._check_data(watch, sender, tag, facts)

    def finish(self, component: str) -> None:
        """A component ends: nothing may be missing."""
        parts = [w for name, w in self._parts.items() if name.startswith(f"{component}/")]
        for watch in (self._watches[component], *parts):
            self._none_waits(watch)
            if watch.links is not None:
                watch.links.finished(self._party, self.lost)
            for key, (sender, tag) in watch.strangers.items():
                if not watch.knows(key):
                    text = f"{sender} sent '{tag}' under a key that nobody announced"
                    raise Breach(sender, text, "data")

    def end(self) -> None:
        """The run ends: no message may be left over."""
        for watch in (*self._watches.values(), *self._parts.values()):
            self._none_waits(watch)

    def _none_waits(self, watch: _Watch) -> None:
        for sender, receiver, tag, _ in watch.waiting:
            text = f"{sender} sent '{tag}' to {receiver}, which has no place for it"
            raise Breach(sender, text)

    def _part(self, tag: str, *, own: bool) -> tuple[_Watch | None, str, bool]:
        """The innermost part of a component that a tag belongs to, and the rest of the tag.

        own: the party itself is at it, which opens the part. Last is whether the part is open;
        if not, what it is a part of comes first.
        """
        path, _, rest = tag.partition("/")
        watch, found = self._watches.get(path), None
        while watch is not None and watch.flow is not None:
            name, _, within = rest.partition("/")
            flow = watch.flow.part(name)
            if flow is None:
                break
            path = f"{path}/{name}"
            if path not in self._parts:
                named = name in watch.flow.parts and "*" not in name
                if not (own or named or not self._speaks(flow)):
                    return found, rest, False
                links = None if flow.agrees else Links(flow, self._roles)
                self._parts[path] = _Watch(flow, links, began=True, whole=watch)
                self._go_on(watch)
            watch = found = self._parts[path]
            rest = within
        return found, rest, True

    def _speaks(self, flow: Flow) -> bool:
        """Whether the party has a message to send in a flow, so that it opens it itself."""
        return flow.sends({self._roles[self._party], f"@{self._party}"})

    def _go_on(self, watch: _Watch) -> None:
        """Check what has waited."""
        waiting, watch.waiting = watch.waiting, []
        for message in waiting:
            self.message(*message)

    def _follow(
        self,
        links: Links,
        sender: str,
        receiver: str,
        tag: str,
        rest: str,
        facts: dict[str, Any],
    ) -> None:
        """A message against its step. rest: of its tag, as the step has it."""
        kind = facts["kind"]
        if sender == self._party:
            step = links.sent(sender, receiver, rest, kind, self.lost)
        else:
            step = links.received(sender, receiver, rest, kind)
        if sender != self._party or self._own_data:
            self._check_step(step, sender, tag, facts)

    def _check_step(self, step: Step, sender: str, tag: str, facts: dict[str, Any]) -> None:
        """What the step says of the data."""
        if step.bits is not None:
            most = -(-step.bits // BOUND_STEP) * BOUND_STEP
            largest = max((block["bound_bits"] for block in facts["blocks"]), default=0)
            if largest > most:
                text = f"{sender} sent '{tag}' with numbers of up to {largest} bits, not {most}"
                raise Breach(sender, text, "data")
        if step.finite:
            for name, (_, _, *infinite) in facts.get("arrays", {}).items():
                if infinite:
                    text = (
                        f"{infinite[0]} numbers in '{printable(name)}' that are null or not finite"
                    )
                    raise Breach(sender, f"{sender} sent '{tag}' with {text}", "data")

    def _check_data(self, watch: _Watch, sender: str, tag: str, facts: dict[str, Any]) -> None:
        """What holds for messages of every component."""
        agreed = self._job.key.bits
        trusted = sender == self._party and not self._own_data
        if facts["kind"] == "public_key":
            if facts["bits"] != agreed and not trusted:
                text = f"{sender} sent a key of {facts['bits']} bits where {agreed} were agreed"
                raise Breach(sender, text, "data")
            watch.keys.add(facts["key"])
        for block in facts.get("blocks", ()):
            if not watch.knows(block["key"]):
                watch.strangers.setdefault(block["key"], (sender, tag))
        if facts["kind"] == "masked_plaintexts" and facts["bits"] > agreed and not trusted:
            text = f"{sender} sent '{tag}' with a number of {facts['bits']} bits, beyond the key's"
            raise Breach(sender, text, "data")


def check_randomness(peer: str, tag: str, count: int, bare: int, again: int) -> None:
    """`peer` sent `count` ciphertexts: none may be without randomness, none with one used before.

    Raises `Breach`.
    """
    if bare:
        text = f"{bare} of {count} ciphertexts unobfuscated: anybody can read them"
        raise Breach(peer, f"{peer} sent '{tag}' with {text}", "data")
    if again:
        text = f"{again} of {count} ciphertexts under randomness that was used before"
        raise Breach(peer, f"{peer} sent '{tag}' with {text}", "data")
