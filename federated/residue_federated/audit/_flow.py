"""Declared protocols: which messages a component exchanges, in which order.

A flow is a sequence of steps and loops, written once for all parties::

    Flow(
        Step("arbiter", "guest", "key", "public_key"),
        Loop("epoch", (Step("host", "guest", "u/{epoch}", "ciphertexts"), ...), most=epochs),
    )

A step of a role stands for one message of (or to) each party of that role; ``@name`` stands for
the party of that name. Every link, that is
every ordered pair of parties, must carry exactly the messages that the flow has for it, in its
order. Beyond that a party sends a message only when it has sent and received all that the flow has
for it before: so no party can leave a step out, or answer what it was not asked. `Links` checks
both, message by message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from residue_federated._jobs import Job, Role

__all__ = ["ROWS_TAG", "SAME_ROWS", "Breach", "Flow", "Link", "Links", "Loop", "Scene", "Step"]

_Path = tuple[int, ...]
"""Where a step is: index in the sequence; for a loop: index, round, and so on within."""


@dataclass(frozen=True)
class Step:
    """One message from each `sender` to each `receiver`, never to itself.

    sender, receiver: a role, or ``@`` and a party's name. tag: without the component's name;
    ``{name}`` is the round of the loop of that name, a segment ``*`` stands for any text without a
    slash. kind: of its payload. optional: it may be left out. waits: the sender needs what the flow
    has for it before. bits: plaintexts of its ciphertexts stay below ``2**bits`` in magnitude; None
    if that depends on the data. finite: a record's floating-point numbers are.
    """

    sender: str
    receiver: str
    tag: str
    kind: str
    optional: bool = False
    waits: bool = True
    bits: int | None = None
    finite: bool = True


@dataclass(frozen=True)
class Scene:
    """What a protocol may depend on besides the configuration.

    hosts: their names, in the job's order. rows: of the component's table, None if unknown.
    applies: whether the component is applied to other rows, not run. job, component: which it is,
    for the protocol of one that takes others into account.
    """

    hosts: list[str]
    rows: int | None
    applies: bool = False
    job: Job | None = None
    component: str = ""


@dataclass(frozen=True)
class Loop:
    """Rounds of a body, numbered from `first` to below `most`, at least up to `least`.

    most: None where nobody knows beforehand. `Flow.resumed` moves `first` of the loops that are
    marked `rounds`, those that checkpoints count. rows: of a table that a round carries at most,
    where that is what the number of rounds comes from.
    """

    name: str
    body: tuple[Step | Loop, ...]
    least: int = 1
    most: int | None = None
    first: int = 0
    rounds: bool = False
    rows: int | None = None


class Flow:
    """The protocol of a component.

    agrees: it starts with the agreement of `Context.restored`, which is not among the items.
    parts: name, with ``*`` for what differs, -> protocol of the parts that `Context.within` makes;
    their messages are not among the items. Parts may have parts.
    """

    def __init__(
        self, *items: Step | Loop, agrees: bool = True, parts: Mapping[str, Flow] | None = None
    ) -> None:
        self.agrees = agrees
        self.items = (*_AGREEMENT, *items) if agrees else items
        self.parts = parts or {}

    def part(self, name: str) -> Flow | None:
        """The protocol of the part of that name, if there is one."""
        found = (flow for pattern, flow in self.parts.items() if fnmatchcase(name, pattern))
        return next(found, None)

    def sends(self, names: Collection[str]) -> bool:
        """Whether a party that is called so in steps has a message to send, here or in a part."""
        own = any(step.sender in names for step in _steps(self.items))
        return own or any(flow.sends(names) for flow in self.parts.values())

    def resumed(self, done: int) -> Flow:
        """The protocol of a component that goes on after `done` rounds."""
        return Flow(*_resumed(self.items, done), agrees=False, parts=self.parts)


ROWS_TAG = "rows"
SAME_ROWS = (Step("host", "guest", ROWS_TAG, "record"), Step("guest", "host", ROWS_TAG, "record"))
"""The messages of `Context.agree_on_rows`."""

_AGREEMENT = (
    Step("host", "guest", "states", "record"),
    Step("arbiter", "guest", "states", "record"),
    Step("guest", "host", "resume", "record"),
    Step("guest", "arbiter", "resume", "record"),
)


def _steps(items: Sequence[Step | Loop]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, Loop):
            yield from _steps(item.body)
        else:
            yield item


def _resumed(items: Sequence[Step | Loop], done: int) -> Iterator[Step | Loop]:
    for item in items:
        if isinstance(item, Loop) and item.rounds:
            yield replace(item, least=max(item.least, done), first=item.first + done)
        else:
            yield item


class Breach(Exception):
    """What a party did against the protocol. rule: as that of an `AuditViolation`."""

    def __init__(self, party: str, text: str, rule: str = "algorithm") -> None:
        super().__init__(text)
        self.party = party
        self.rule = rule


@dataclass
class _Reach:
    """What may come next: paths of steps, and whether it may be nothing."""

    paths: list[_Path] = field(default_factory=list)
    end: bool = True

    def then(self, other: _Reach) -> _Reach:
        """Followed by other, if it may be nothing."""
        return _Reach(self.paths + other.paths, other.end) if self.end else self


class Link:
    """The messages of one ordered pair of parties: an automaton over their tags and kinds.

    sender, receiver: what each of the two is called in steps.
    """

    def __init__(self, flow: Flow, sender: set[str], receiver: set[str]) -> None:
        self._flow = flow
        self._sender = sender
        self._receiver = receiver
        self.next = self._from(flow.items, 0, ())

    def advance(self, tag: str, kind: str) -> _Path | None:
        """Take one message; its place in the flow, or None if it has none here."""
        found = [path for path in self.next.paths if self._matches(path, tag, kind)]
        if not found:
            return None
        reach = [self._after(self._flow.items, path, ()) for path in found]
        self.next = _Reach([path for r in reach for path in r.paths], any(r.end for r in reach))
        return found[0]

    def step(self, path: _Path) -> Step:
        """The step at a path."""
        return self._walk(path)[0]

    def overdue(self, before: _Path) -> str | None:
        """The tag of a message that must come and that the flow has before a path."""
        due = self.next
        if due.end or any(path >= before for path in due.paths):
            return None
        return self._tag(due.paths[0])

    @property
    def expected(self) -> str:
        """What may come next, in words."""
        names = [f"'{self._tag(path)}'" for path in self.next.paths]
        return " or ".join([*names, *(["nothing more"] if self.next.end else [])])

    def _walk(self, path: _Path) -> tuple[Step, dict[str, int]]:
        item = self._flow.items[path[0]]
        rounds, at = {}, 1
        while isinstance(item, Loop):
            rounds[item.name] = path[at]
            item = item.body[path[at + 1]]
            at += 2
        return item, rounds

    def _tag(self, path: _Path) -> str:
        step, rounds = self._walk(path)
        return step.tag.format(**rounds)

    def _matches(self, path: _Path, tag: str, kind: str) -> bool:
        pattern, parts = self._tag(path).split("/"), tag.split("/")
        return (
            self.step(path).kind == kind
            and len(pattern) == len(parts)
            and all(a in ("*", b) for a, b in zip(pattern, parts, strict=True))
        )

    def _touches(self, item: Step | Loop) -> bool:
        if isinstance(item, Loop):
            return any(self._touches(part) for part in item.body)
        return item.sender in self._sender and item.receiver in self._receiver

    def _from(self, items: Sequence[Step | Loop], start: int, prefix: _Path) -> _Reach:
        """What may come first in ``items[start:]``."""
        reach = _Reach()
        for i in range(start, len(items)):
            item = items[i]
            if not self._touches(item):
                continue
            if isinstance(item, Loop):
                reach = reach.then(self._rounds(item, (*prefix, i), item.first))
            else:
                reach = reach.then(_Reach([(*prefix, i)], item.optional))
            if not reach.end:
                break
        return reach

    def _rounds(self, loop: Loop, prefix: _Path, number: int) -> _Reach:
        """What may come first when round `number` of a loop is due."""
        paths: list[_Path] = []
        end = False
        while loop.most is None or number < loop.most:
            reach = self._from(loop.body, 0, (*prefix, number))
            paths += reach.paths
            end |= number >= loop.least
            if not reach.end:
                return _Reach(paths, end)
            if loop.most is None:
                raise ValueError(
                    f"loop '{loop.name}' has no last round, so a link that it uses needs a "
                    "message in every round"
                )
            number += 1
        return _Reach(paths)

    def _after(self, items: Sequence[Step | Loop], path: _Path, prefix: _Path) -> _Reach:
        """What may follow the step at ``prefix + path``."""
        item = items[path[0]]
        if isinstance(item, Loop):
            here = (*prefix, path[0])
            reach = self._after(item.body, path[2:], (*here, path[1]))
            if reach.end:
                reach = reach.then(self._rounds(item, here, path[1] + 1))
        else:
            reach = _Reach()
        return reach.then(self._from(items, path[0] + 1, prefix))


class Links:
    """All links of a component, as one party sees its own or as an auditor sees everybody's."""

    def __init__(self, flow: Flow, roles: dict[str, Role]) -> None:
        self._links = {
            (a, b): Link(flow, {roles[a], f"@{a}"}, {roles[b], f"@{b}"})
            for a in roles
            for b in roles
            if a != b
        }

    def sent(
        self, sender: str, receiver: str, tag: str, kind: str, lost: Collection[str] = ()
    ) -> Step:
        """`sender` sent a message, all that it has received before being known.

        lost: parties that nothing more is expected of.

        Raises `Breach` if the flow has no such message here, or if `sender` should have waited.
        """
        path, step = self._advance(sender, receiver, tag, kind)
        if not step.waits:
            return step
        for (source, target), link in self._links.items():
            if sender not in (source, target) or source in lost or target in lost:
                continue
            missing = link.overdue(path)
            if missing is not None:
                before = f"without '{missing}' of {source} to {target}"
                raise Breach(sender, f"{sender} sent '{tag}' to {receiver} {before}")
        return step

    def received(self, sender: str, receiver: str, tag: str, kind: str) -> Step:
        """`receiver` received a message. Raises `Breach`."""
        return self._advance(sender, receiver, tag, kind)[1]

    def finished(self, party: str, lost: Collection[str] = ()) -> None:
        """Raise `Breach` if a link of `party` has not carried all that it must."""
        for (sender, receiver), link in self._links.items():
            if sender in lost or receiver in lost:
                continue
            if party in (sender, receiver) and not link.next.end:
                raise Breach(sender, f"{sender} never sent {link.expected} to {receiver}")

    def _advance(self, sender: str, receiver: str, tag: str, kind: str) -> tuple[_Path, Step]:
        link = self._links[sender, receiver]
        path = link.advance(tag, kind)
        if path is None:
            what = f"{sender} sent '{tag}' ({kind}) to {receiver}"
            raise Breach(sender, f"{what}, expected {link.expected}")
        return path, link.step(path)
