"""One connection: what goes wrong is said clearly, and nothing is sent that must not be."""

from __future__ import annotations

import contextlib
import errno
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from light_fleet import FLEET, QUICK, device_id, until
from proxy import Proxy

from accrue.errors import (
    AccrueError,
    BrokerDenied,
    BrokerUnreachable,
    BrokerUntrusted,
    LinkError,
)
from accrue.sync import link as link_module
from accrue.sync.broker import BrokerPlan, write_broker
from accrue.sync.endpoint import Endpoint, unreachable
from accrue.sync.link import (
    Limits,
    Link,
    Loop,
    Message,
    Phase,
    Received,
    Sent,
    Timing,
    backoff_s,
)
from accrue.sync.local_broker import LOOPBACK, LocalBroker, free_port
from accrue.sync.topics import BY_NAME, Topic, Topics

ME = device_id(1)
TOPICS = Topics(FLEET)
STATE = TOPICS.path("state", device=ME)


class Ear:
    def __init__(self) -> None:
        self.ups: list[Limits] = []
        self.downs: list[AccrueError] = []
        self.messages: list[Received] = []

    def on_up(self, limits: Limits) -> None:
        self.ups.append(limits)

    def on_down(self, error: AccrueError) -> None:
        self.downs.append(error)

    def on_message(self, message: Received) -> None:
        self.messages.append(message)


@pytest.fixture
def make_link() -> Iterator[Callable[..., tuple[Link, Loop, Ear]]]:
    loops = []

    def make(
        endpoint: Endpoint, client_id: str = ME, timing: Timing = QUICK, **options: object
    ) -> tuple[Link, Loop, Ear]:
        loop, ear = Loop(options.get("clock", time.monotonic)), Ear()
        link = Link(endpoint, client_id, ear, timing=timing, **options)
        loop.add(link)
        loops.append(loop)
        link.open()
        return link, loop, ear

    yield make
    for loop in loops:
        loop.close()


MakeLink = Callable[..., tuple[Link, Loop, Ear]]


def failure(made: tuple[Link, Loop, Ear]) -> AccrueError:
    """The error of the first attempt."""
    _, loop, ear = made
    until(lambda: ear.downs, loop.step)
    return ear.downs[0]


# ---- errors --------------------------------------------------------------------------------------


def test_a_wrong_password_is_said_to_be_one(broker: LocalBroker, make_link: MakeLink) -> None:
    error = failure(make_link(replace(broker.endpoint(ME), password="wrong")))
    assert isinstance(error, BrokerDenied)
    assert f"does not accept user '{ME}' with this password" in error.message
    assert "accrue-fleet roster invite" in error.hint


def test_the_password_is_in_no_text_of_the_endpoint() -> None:
    assert "secret" not in repr(Endpoint("host", password="secret"))


def test_an_unknown_ca_is_said_to_be_one(
    broker: LocalBroker, make_link: MakeLink, tmp_path: Path
) -> None:
    other = write_broker(tmp_path / "other", BrokerPlan("other"))
    error = failure(make_link(replace(broker.endpoint(ME), ca=other.ca)))
    assert isinstance(error, BrokerUntrusted)
    assert "is not certified by the CA in" in error.message
    assert "ca.crt" in error.hint


def test_without_a_ca_file_the_system_decides_and_knows_no_broker_of_ours(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    error = failure(make_link(replace(broker.endpoint(ME), ca=None)))
    assert isinstance(error, BrokerUntrusted)
    assert "a CA that this system knows" in error.message


def test_a_certificate_for_another_name_is_said_to_be_one(
    broker: LocalBroker, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo(LOOPBACK, broker.port, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    error = failure(make_link(replace(broker.endpoint(ME), host="elsewhere.example")))
    assert isinstance(error, BrokerUntrusted)
    assert error.message == "the broker's certificate is not for elsewhere.example"
    assert "accrue-fleet broker --host elsewhere.example" in error.hint


def test_a_ca_file_that_is_not_there_is_named(
    broker: LocalBroker, make_link: MakeLink, tmp_path: Path
) -> None:
    error = failure(make_link(replace(broker.endpoint(ME), ca=tmp_path / "none.crt")))
    assert isinstance(error, BrokerUntrusted)
    assert "none.crt cannot be used: No such file" in error.message


def test_who_is_joining_takes_any_certificate(broker: LocalBroker, make_link: MakeLink) -> None:
    link, loop, _ = make_link(replace(broker.endpoint(ME), ca=None, verify=False))
    until(lambda: link.is_up, loop.step)


def test_a_port_where_nothing_listens_is_said_to_be_one(make_link: MakeLink) -> None:
    port = free_port()
    error = failure(make_link(Endpoint(LOOPBACK, port)))
    assert isinstance(error, BrokerUnreachable)
    assert error.retryable
    assert error.message == f"nothing listens at {LOOPBACK}:{port}"
    assert "systemctl status mosquitto" in error.hint


def test_a_name_without_an_address_is_said_to_be_one(make_link: MakeLink) -> None:
    error = failure(make_link(Endpoint("no-such-host.invalid")))
    assert isinstance(error, BrokerUnreachable)
    assert error.message.startswith("no address is known for the broker 'no-such-host.invalid'")


def test_a_port_in_the_name_is_said_to_be_an_option(make_link: MakeLink) -> None:
    error = failure(make_link(Endpoint("broker.invalid:1234")))
    assert isinstance(error, BrokerUnreachable)
    assert error.hint == "the port is an option of its own: broker.invalid with --port 1234"


@pytest.mark.parametrize("code", [errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_no_route_is_said_to_be_one(code: int) -> None:
    error = unreachable(Endpoint("10.1.2.3"), OSError(code, "No route to host"))
    assert error.message == "no route to the broker 10.1.2.3:8883: No route to host"
    assert "ip route" in error.hint


def test_a_port_that_never_answers_is_given_up_in_time(make_link: MakeLink) -> None:
    with socket.create_server((LOOPBACK, 0)) as deaf:
        port = deaf.getsockname()[1]
        for tls in (True, False):
            error = failure(
                make_link(Endpoint(LOOPBACK, port, tls=tls), timing=replace(QUICK, connect_s=0.2))
            )
            assert error.message == f"broker {LOOPBACK}:{port} did not answer within 0.2 s"


def test_tls_on_a_plain_port_and_plain_on_a_tls_port_are_told_apart(
    make_broker: Callable[..., LocalBroker], make_link: MakeLink
) -> None:
    plain, secure = make_broker(tls=False), make_broker()
    error = failure(make_link(replace(plain.endpoint(ME), tls=True)))
    assert "while TLS was being set up" in error.message or "does not speak TLS" in error.message
    assert "port with TLS" in error.hint
    error = failure(make_link(replace(secure.endpoint(ME), tls=False)))
    assert error.message.endswith("ended the connection before it answered")
    assert "does it want TLS?" in error.hint


def test_a_server_that_talks_no_tls_is_said_to_be_one(make_link: MakeLink) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        link, loop, ear = make_link(Endpoint(LOOPBACK, server.getsockname()[1]))
        until(lambda: link.phase is Phase.TLS, loop.step)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"220 mail.example ESMTP\r\n")
            until(lambda: ear.downs, loop.step)
    assert isinstance(ear.downs[0], BrokerUntrusted)
    assert ear.downs[0].message.endswith("does not speak TLS")


def test_two_clients_with_one_id_are_named_as_the_cause_when_they_drive_each_other_out(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    _, loop, ear = make_link(broker.endpoint(ME))
    _, other_loop, _ = make_link(broker.endpoint(ME))
    until(
        lambda: any("again and again" in error.message for error in ear.downs),
        loop.step,
        other_loop.step,
    )
    assert "a second process or a copied identity" in ear.downs[-1].hint


def test_a_broker_that_says_that_another_took_our_place_is_believed(make_link: MakeLink) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        link, loop, ear = make_link(Endpoint(LOOPBACK, server.getsockname()[1], tls=False))
        until(lambda: link.phase is Phase.MQTT, loop.step)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK
            until(lambda: link.is_up, loop.step)
            connection.sendall(b"\xe0\x01\x8e")  # DISCONNECT, session taken over
            until(lambda: ear.downs, loop.step)
    assert isinstance(ear.downs[0], BrokerDenied)
    assert "another connection with this device's id took the place" in ear.downs[0].message


@pytest.mark.parametrize(
    "said",
    [b"\x20\x03\x00" + code + b"\x00" for code in (b"\x86", b"\x84", b"\x97", b"\x01")]
    + [b"\xff" * 9, b"\x20", b"\x20\x00", b"\x30\x00", b"\xe0\x00", b"\x90\x01\x00", b""],
)
def test_whatever_a_server_says_becomes_an_error_of_ours(make_link: MakeLink, said: bytes) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        link, loop, ear = make_link(Endpoint(LOOPBACK, server.getsockname()[1], tls=False))
        until(lambda: link.phase is Phase.MQTT, loop.step)
        connection, _ = server.accept()
        with connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            until(lambda: ear.downs, loop.step)
    assert isinstance(ear.downs[0], LinkError)
    assert not link.is_up


def test_no_bytes_of_a_server_make_anything_but_an_error_of_ours(make_link: MakeLink) -> None:
    """Random packets of every type, well-formed as far as their length, after a good CONNACK."""
    rng = random.Random(7)
    with socket.create_server((LOOPBACK, 0)) as server:
        link, loop, ear = make_link(Endpoint(LOOPBACK, server.getsockname()[1], tls=False))
        for _ in range(100):
            until(lambda: link.phase is Phase.MQTT, loop.step)
            connection, _ = server.accept()
            while select.select([server], [], [], 0)[0]:  # a slow machine may have tried twice
                connection.close()
                connection, _ = server.accept()
            with connection:
                body = rng.randbytes(rng.randrange(12))
                packet = bytes([rng.randrange(1, 16) << 4 | rng.randrange(16), len(body)]) + body
                connection.sendall(b"\x20\x03\x00\x00\x00" + packet)
                with contextlib.suppress(OSError):  # the link may have ended it already
                    connection.shutdown(socket.SHUT_WR)
                before = len(ear.downs)
                until(lambda before=before: len(ear.downs) > before, loop.step)
            link.tick(link.due)
    assert all(isinstance(error, LinkError) for error in ear.downs)


def test_a_paho_that_would_connect_by_itself_sends_nothing(
    make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would do so without TLS."""
    monkeypatch.delattr(link_module._Client, "_create_socket")
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        error = failure(make_link(Endpoint(LOOPBACK, port, "user", "secret", tls=False)))
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b""
    assert isinstance(error, LinkError)


# ---- back-off ------------------------------------------------------------------------------------


def test_the_back_off_doubles_to_its_cap_and_any_part_of_it_may_be_waited() -> None:
    timing = Timing()
    ceilings = [backoff_s(n, timing, lambda: 1.0) for n in range(1, 10)]
    assert ceilings == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert backoff_s(5, timing, lambda: 0.0) == 0
    assert backoff_s(5, timing, lambda: 0.5) == 8
    assert backoff_s(100_000, timing, lambda: 1.0) == 60


def test_attempts_are_counted_until_a_connection_has_settled(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    now = [0.0]
    timing = replace(QUICK, backoff_base_s=1.0, backoff_cap_s=60.0, settled_s=10.0)
    link, loop, ear = make_link(
        broker.endpoint(ME), timing=timing, clock=lambda: now[0], jitter=lambda: 1.0
    )
    waited = []
    for settled in (False, False, False, True, False):
        until(lambda: link.is_up, lambda timeout: _step(loop, link, now, timeout))
        now[0] += 11.0 if settled else 1.0
        link.abort()
        waited.append(link.due - now[0])
    assert waited == [1, 2, 4, 1, 1]
    assert len(ear.ups) == 5


def _step(loop: Loop, link: Link, now: list[float], timeout: float) -> None:
    """The link's clock stands still while it connects, and jumps over what it waits for."""
    if link.phase is Phase.WAITING:
        now[0] = link.due
        link.tick(now[0])
    loop.step(0.0)


def test_a_link_that_cannot_connect_goes_on_trying_and_comes_up_with_the_broker(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    broker.stop()
    link, loop, ear = make_link(broker.endpoint(ME))
    until(lambda: len(ear.downs) >= 3, loop.step)
    broker.start()
    until(lambda: link.is_up, loop.step)
    assert link.error is None


def test_a_closed_link_stays_closed(broker: LocalBroker, make_link: MakeLink) -> None:
    link, loop, ear = make_link(broker.endpoint(ME))
    until(lambda: link.is_up, loop.step)
    link.close()
    for _ in range(20):
        loop.step(0.01)
    assert link.phase is Phase.CLOSED
    assert (len(ear.ups), ear.downs) == (1, [])


# ---- messages ------------------------------------------------------------------------------------


def test_the_size_of_a_packet_is_known_to_the_byte(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    link, loop, _ = make_link(broker.endpoint(ME))
    until(lambda: link.is_up, loop.step)
    for size in (0, 1, 20, 100, 16_300, 16_400, 120_000):
        for kind in (BY_NAME["state"], BY_NAME["fence"]):
            message = Message(TOPICS.path(kind.name, device=ME), b"x" * size, kind)
            before, sent = link.sent_bytes, []
            link.send(message, sent.append)
            until(lambda sent=sent: sent, loop.step)
            assert link.sent_bytes - before == message.packet_bytes, (size, kind.name)


def test_a_message_above_the_brokers_maximum_is_never_sent_and_costs_no_connection(
    make_broker: Callable[..., LocalBroker], make_link: MakeLink
) -> None:
    broker = make_broker(max_packet_bytes=131_072)
    link, loop, ear = make_link(broker.endpoint(ME))
    until(lambda: link.is_up, loop.step)
    assert link.limits.packet_bytes == 131_072
    kind = BY_NAME["state"]
    head = Message(STATE, b"x" * 131_000, kind).packet_bytes - 131_000
    fits = Message(STATE, b"x" * (131_072 - head), kind)
    assert fits.packet_bytes == 131_072
    before, sent = link.sent_bytes, []
    link.send(Message(STATE, b"x" * (131_073 - head), kind), sent.append)
    assert sent == [Sent.OVERSIZED]
    assert link.sent_bytes == before
    link.send(fits, sent.append)
    until(lambda: len(sent) == 2, loop.step)
    assert sent[1] is Sent.DONE
    assert (link.connections, ear.downs, link.oversized) == (1, [], 1)


def test_a_message_that_the_access_list_forbids_is_told_so_and_costs_no_connection(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    link, loop, ear = make_link(broker.endpoint(ME))
    until(lambda: link.is_up, loop.step)
    sent: list[Sent] = []
    for topic in (TOPICS.path("state", device=device_id(2)), TOPICS.path("roster"), STATE):
        link.send(Message(topic, b"x", BY_NAME["state"]), sent.append)
    until(lambda: len(sent) == 3, loop.step)
    assert sent == [Sent.DENIED, Sent.DENIED, Sent.DONE]
    assert (link.connections, ear.downs) == (1, [])


def test_each_message_is_told_its_end_exactly_once_when_the_connection_breaks(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    proxy = Proxy(broker.port)
    link, loop, _ = make_link(broker.endpoint(ME, proxy.port))
    until(lambda: link.is_up, loop.step)
    ends: dict[int, list[Sent]] = {i: [] for i in range(500)}
    for i, end in ends.items():
        link.send(Message(STATE, f"{i}".encode(), BY_NAME["state"]), end.append)
        if i == 250:
            until(lambda: ends[0], loop.step)
            proxy.cut()
    until(lambda: not link.is_up, loop.step)
    proxy.close()
    assert all(len(end) == 1 for end in ends.values())
    assert {end[0] for end in ends.values()} == {Sent.DONE, Sent.LOST}


def test_messages_arrive_in_the_order_in_which_they_were_sent(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    link, loop, ear = make_link(broker.endpoint(ME))
    until(lambda: link.is_up, loop.step)
    link.subscribe([STATE])
    for i in range(1000):
        link.send(Message(STATE, f"{i}".encode(), BY_NAME["state"]))
    until(lambda: len(ear.messages) >= 1000, loop.step)
    assert [int(m.payload) for m in ear.messages] == list(range(1000))


def test_large_messages_pass_in_both_directions(broker: LocalBroker, make_link: MakeLink) -> None:
    link, loop, ear = make_link(broker.endpoint(ME), timing=replace(QUICK, accept_bytes=4_000_000))
    until(lambda: link.is_up, loop.step)
    assert link.limits.packet_bytes == 2_000_000
    link.subscribe([STATE])
    payloads = [bytes([i]) * (1_900_000 + i) for i in range(5)]
    for payload in payloads:
        link.send(Message(STATE, payload, BY_NAME["state"]))
    until(lambda: len(ear.messages) == 5, loop.step)
    assert [m.payload for m in ear.messages] == payloads


def test_a_pulled_cable_is_noticed_by_the_keep_alive(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    proxy = Proxy(broker.port)
    link, loop, ear = make_link(
        broker.endpoint(ME, proxy.port), timing=replace(QUICK, keepalive_s=1)
    )
    until(lambda: link.is_up, loop.step)
    proxy.silence()
    until(lambda: ear.downs, loop.step)
    assert isinstance(ear.downs[0], BrokerUnreachable)
    proxy.cut()
    proxy.speak()
    until(lambda: link.is_up, loop.step)
    proxy.close()


def test_a_message_expires_on_the_broker_as_the_table_says(
    broker: LocalBroker, make_link: MakeLink
) -> None:
    """Retained with an expiry of a second, it is there at once and gone for who comes later."""
    kind = Topic("brief", "dev/<device>/state", "device", (), "", expiry_s=1)
    link, loop, _ = make_link(broker.endpoint(ME))
    until(lambda: link.is_up, loop.step)
    sent: list[Sent] = []
    link.send(Message(STATE, b"brief", kind), sent.append)
    until(lambda: sent, loop.step)

    def retained() -> list[bytes]:
        reader, its_loop, ear = make_link(broker.endpoint("owner"), "reader")
        until(lambda: reader.is_up, its_loop.step)
        done: list[bool] = []
        reader.subscribe([STATE, STATE + "/fence"], done.append)
        until(lambda: done, its_loop.step)
        reader.send(Message(STATE + "/fence", b"fence", BY_NAME["fence"]))
        until(lambda: ear.messages and ear.messages[-1].payload == b"fence", its_loop.step)
        its_loop.close()
        return [m.payload for m in ear.messages[:-1]]

    assert retained() == [b"brief"]
    until(lambda: retained() == [])


def test_many_links_share_one_loop(make_broker: Callable[..., LocalBroker]) -> None:
    broker = make_broker(devices=40)
    loop, ears = Loop(), []
    for i in range(1, 41):
        ears.append(Ear())
        link = Link(broker.endpoint(device_id(i)), device_id(i), ears[-1], timing=QUICK)
        loop.add(link)
        link.open()
    until(lambda: all(link.is_up for link in loop.links), loop.step)
    ready: list[bool] = []
    for link in loop.links:
        link.subscribe([TOPICS.filter("state")], ready.append)
    until(lambda: len(ready) == 40, loop.step)
    for i, link in enumerate(loop.links, 1):
        link.send(Message(TOPICS.path("state", device=device_id(i)), b"here", BY_NAME["state"]))
    until(lambda: all(len(ear.messages) == 40 for ear in ears), loop.step)
    loop.close()
