"""Declared protocols: which messages are in order, and who is named when one is not."""

from __future__ import annotations

import itertools

import pytest

from residue_federated.audit._flow import Breach, Flow, Links, Loop, Step

ROLES = {"g": "guest", "h0": "host", "h1": "host", "a": "arbiter"}
TWO = {"g": "guest", "h0": "host", "a": "arbiter"}


def training(epochs: int | None = 3, batches: int | None = 2) -> Flow:
    batch = (
        Step("host", "guest", "u/{epoch}/{batch}", "c"),
        Step("guest", "host", "d/{epoch}/{batch}", "c"),
        Step("guest", "arbiter", "g/{epoch}/{batch}", "c"),
        Step("arbiter", "guest", "g/{epoch}/{batch}", "r"),
    )
    inner = Loop("batch", batch, least=batches or 1, most=batches)
    return Flow(
        Step("arbiter", "guest", "key", "k"),
        Step("arbiter", "host", "key", "k"),
        Loop("epoch", (inner,), most=epochs, rounds=True),
        Step("host", "guest", "scores", "r"),
        agrees=False,
    )


def messages(roles: dict[str, str], epochs: int, batches: int) -> list[tuple[str, str, str, str]]:
    """What an honest run sends, (sender, receiver, tag, kind), in an order of its own."""
    hosts = [name for name, role in roles.items() if role == "host"]
    out = [("a", peer, "key", "k") for peer in ["g", *hosts]]
    for e, b in itertools.product(range(epochs), range(batches)):
        out += [(h, "g", f"u/{e}/{b}", "c") for h in hosts]
        out += [("g", h, f"d/{e}/{b}", "c") for h in hosts]
        out += [("g", "a", f"g/{e}/{b}", "c"), ("a", "g", f"g/{e}/{b}", "r")]
    return [*out, *((h, "g", "scores", "r") for h in hosts)]


def replay(flow: Flow, roles: dict[str, str], log: list[tuple[str, str, str, str]]) -> None:
    """As every party sees it: its own messages and those it receives."""
    for party in roles:
        links = Links(flow, roles)  # type: ignore[arg-type]
        for sender, receiver, tag, kind in log:
            if party == sender:
                links.sent(sender, receiver, tag, kind)
            elif party == receiver:
                links.received(sender, receiver, tag, kind)
        links.finished(party)


@pytest.mark.parametrize("roles", [TWO, ROLES])
@pytest.mark.parametrize(("epochs", "batches"), [(1, 2), (3, 2)])
@pytest.mark.parametrize("known", [True, False])
def test_honest_runs_pass(roles: dict[str, str], epochs: int, batches: int, *, known: bool) -> None:
    flow = training(3, batches if known else None)
    replay(flow, roles, messages(roles, epochs, batches))


def test_every_message_left_out_is_missed() -> None:
    """In a run of known length each of its messages is due; its sender is named."""
    log = messages(TWO, 2, 2)
    for at, (sender, receiver, tag, _) in enumerate(log):
        with pytest.raises(Breach) as caught:
            replay(training(2), TWO, log[:at] + log[at + 1 :])
        # Seen at the latest when the run ends; a party that goes on without it names itself.
        assert caught.value.party in (sender, receiver), tag


def test_every_message_repeated_or_moved_is_noticed() -> None:
    log = messages(TWO, 2, 2)
    for at, message in enumerate(log):
        with pytest.raises(Breach) as caught:
            replay(training(2), TWO, [*log[: at + 1], message, *log[at + 1 :]])
        assert caught.value.party == message[0]
        link = [i for i in range(at + 1, len(log)) if log[i][:2] == message[:2]]
        if link:
            swapped = list(log)
            swapped[at], swapped[link[0]] = swapped[link[0]], swapped[at]
            with pytest.raises(Breach) as caught:
                replay(training(2), TWO, swapped)
            assert caught.value.party in message[:2]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (("h0", "g", "u/0/1", "c"), "expected 'u/0/0'"),
        (("h0", "g", "u/0/0", "r"), r"sent 'u/0/0' \(r\) to g"),
        (("h0", "g", "u/0/0/0", "c"), "expected 'u/0/0'"),
        (("h0", "g", "scores", "r"), "expected 'u/0/0'"),
        (("h0", "a", "g/0/0", "c"), "expected nothing more"),
    ],
)
def test_a_breach_says_what_was_expected(message: tuple[str, str, str, str], text: str) -> None:
    links = Links(training(), TWO)  # type: ignore[arg-type]
    with pytest.raises(Breach, match=text) as caught:
        links.received(*message)
    assert caught.value.party == "h0"


def test_nobody_answers_what_was_not_asked() -> None:
    links = Links(training(), ROLES)  # type: ignore[arg-type]
    for peer in ("g", "h0", "h1"):
        links.sent("a", peer, "key", "k")
    links.received("h0", "g", "u/0/0", "c")
    with pytest.raises(Breach, match="g sent 'd/0/0' to h0 without 'u/0/0' of h1 to g") as caught:
        links.sent("g", "h0", "d/0/0", "c")
    assert caught.value.party == "g"


def test_a_run_that_stops_short_is_noticed_and_one_that_goes_on_too() -> None:
    log = messages(TWO, 4, 2)
    with pytest.raises(Breach, match="expected 'scores'"):
        replay(training(3), TWO, log)
    with pytest.raises(Breach, match=r"never sent '.*1/1'|without '.*1/1'|expected '.*1/1'"):
        replay(training(3), TWO, [m for m in messages(TWO, 2, 2) if not m[2].endswith("1/1")])


def test_a_resumed_run_goes_on_where_it_stood() -> None:
    log = messages(TWO, 3, 2)
    rest = [m for m in log if m[2][2:3] not in ("0", "1")]
    replay(training(3).resumed(2), TWO, rest)
    done = [m for m in log if m[2] in ("key", "scores")]
    replay(training(3).resumed(3), TWO, done)
    with pytest.raises(Breach, match="expected 'u/1/0'"):
        replay(training(3).resumed(1), TWO, rest)


def test_optional_steps_and_wildcards() -> None:
    tree = (
        Step("guest", "host", "nodes/{tree}", "r"),
        Step("guest", "host", "split/{tree}/*", "r", optional=True),
        Step("host", "guest", "done/{tree}", "r"),
    )
    flow = Flow(Loop("tree", tree, least=2, most=2), agrees=False)
    log = [("g", "h", "nodes/0", "r"), ("g", "h", "split/0/x", "r"), ("h", "g", "done/0", "r")]
    log += [("g", "h", "nodes/1", "r"), ("h", "g", "done/1", "r")]
    roles = {"g": "guest", "h": "host"}
    replay(flow, roles, log)
    with pytest.raises(Breach, match="expected 'nodes/1'"):
        replay(flow, roles, [*log[:2], log[1], *log[2:]])


def test_a_step_that_does_not_wait() -> None:
    for waits in (True, False):
        steps = Step("host", "guest", "a", "r"), Step("guest", "host", "b", "r", waits=waits)
        flow = Flow(*steps, agrees=False)
        links = Links(flow, {"g": "guest", "h": "host"})
        if waits:
            with pytest.raises(Breach, match="without 'a'"):
                links.sent("g", "h", "b", "r")
        else:
            links.sent("g", "h", "b", "r")


def test_an_endless_loop_needs_a_message_in_every_round() -> None:
    body = (Step("host", "guest", "x/{round}", "r", optional=True),)
    flow = Flow(Loop("round", body), agrees=False)
    with pytest.raises(ValueError, match="'round' has no last round"):
        Links(flow, {"g": "guest", "h": "host"})
    bounded = Flow(Loop("round", body, most=3), agrees=False)
    links = Links(bounded, {"g": "guest", "h": "host"})
    links.received("h", "g", "x/1", "r")
    with pytest.raises(Breach, match="expected 'x/2' or nothing more"):
        links.received("h", "g", "x/0", "r")


def test_a_flow_starts_with_the_agreement_on_where_to_resume() -> None:
    links = Links(Flow(Step("host", "guest", "x", "record")), TWO)  # type: ignore[arg-type]
    with pytest.raises(Breach, match="expected 'states'"):
        links.received("h0", "g", "x", "record")
    for message in [("h0", "g", "states"), ("a", "g", "states")]:
        links.received(*message, "record")
    for peer in ("h0", "a"):
        links.sent("g", peer, "resume", "record")
    links.received("h0", "g", "x", "record")
    links.finished("g")
