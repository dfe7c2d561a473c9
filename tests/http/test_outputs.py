"""Events for others: each once, in order, again where it failed, and never a growing heap."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from http_cases import until

from accrue.errors import ConfigError
from accrue.service import outputs
from accrue.service.daemon import Device
from accrue.service.http.tls import identity
from accrue.service.logs import JsonLines, Text
from accrue.service.notify import Notifier
from accrue.service.outputs import FIGURE, Lines, Webhook, told
from accrue.service.settings import Settings


@pytest.fixture
def device(settings: Settings) -> Device:
    """Not started: events alone."""
    return Device(settings, cameras=())


def figure(device: Device, what: str) -> float:
    return device.figures.all().get((FIGURE, (("what", what),)), 0)


@contextmanager
def receiver(answers: list[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers with these statuses, then 204; what it took."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = answers.pop(0) if answers else 204
            if status == 204:
                taken.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret?token=1", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_webhook_gets_each_event_in_order_and_again_after_a_failure(device: Device) -> None:
    waits: list[float] = []
    with receiver([204, 500, 503]) as (url, taken):
        hook = Webhook(device, url, wait=lambda seconds: waits.append(seconds) is not None)
        for n in range(4):
            device.events.publish("classes", n=n)
        until(lambda: len(taken) == 4)
        hook.close()
    assert [event["n"] for event in taken] == [0, 1, 2, 3]
    assert (figure(device, "sent"), figure(device, "failed")) == (4, 2)
    assert len(waits) == 2
    assert waits[1] > 0.9 * waits[0]


def test_an_event_that_is_refused_for_good_is_not_sent_again(device: Device) -> None:
    with receiver([410]) as (url, taken):
        hook = Webhook(device, url)
        device.events.publish("classes", n=0)
        device.events.publish("classes", n=1)
        until(lambda: len(taken) == 1)
        hook.close()
    assert taken[0]["n"] == 1
    assert figure(device, "refused") == 1


def test_where_nobody_listens_the_oldest_events_go_and_the_log_keeps_the_secret(
    device: Device, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "WAITING", 10)
    monkeypatch.setattr(outputs, "TRIES", 2)

    def refuse(*_: Any) -> None:
        raise OSError("connection refused")

    with caplog.at_level(logging.WARNING):
        hook = Webhook(device, "http://192.0.2.1/secret", post=refuse, wait=lambda _: False)
        for n in range(50):
            device.events.publish("classes", n=n)
        until(lambda: figure(device, "dropped") >= 50)
        hook.close()
    assert len(hook._waiting) <= 10
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the webhook at http://192.0.2.1 takes no events: connection refused"]


def test_votes_recordings_and_access_are_not_for_others(device: Device) -> None:
    events = device.events
    events.publish("answer", new=True)
    events.publish("answer", new=False)
    events.publish("teach", state="recording")
    events.publish("teach", state="committed")
    events.publish("access")
    assert [told(event) for event in events.since(0)] == [True, False, False, True, False]


def test_lines_are_appended_and_a_large_file_is_set_aside(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "FILE_BYTES", 300)
    path = tmp_path / "events.jsonl"
    lines = Lines(device, str(path))
    # Between the renaming and the new file there is none of that name.
    for n in range(20):
        device.events.publish("classes", n=n)
        until(lambda: path.exists() and f'"n": {n}}}' in path.read_text())  # noqa: B023
    lines.close()
    kept = (path.with_name("events.jsonl.1").read_text() + path.read_text()).splitlines()
    numbers = [json.loads(line)["n"] for line in kept]
    assert numbers == list(range(20))[-len(numbers) :]
    with pytest.raises(ConfigError):
        Lines(device, str(tmp_path / "none" / "events.jsonl"))


# ---- the log and systemd -----------------------------------------------------------------------


def test_the_log_is_one_line_for_people_or_one_object_for_machines() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.Logger("accrue.test")
    logger.addHandler(handler)
    for formatter in (JsonLines(), Text(), Text(journal=True)):
        handler.setFormatter(formatter)
        logger.warning("renamed %s", "bolt", extra={"actor": "eva"})
    machine, person, journal = stream.getvalue().splitlines()
    about = json.loads(machine)
    assert about.pop("at").endswith("+00:00")
    assert about == {
        "level": "warning",
        "logger": "accrue.test",
        "message": "renamed bolt",
        "actor": "eva",
    }
    assert person.endswith("warning renamed bolt actor=eva")
    assert journal == "<4>renamed bolt actor=eva"


def test_without_systemd_nothing_is_told_and_the_watchdog_is_not_fed_too_often(
    tmp_path: Path,
) -> None:
    Notifier({}).ready("x")
    now = 0.0
    address = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.setblocking(False)
        notifier = Notifier(
            {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8000000"}, clock=lambda: now
        )
        heard = []
        for tick in range(0, 100):
            now = tick / 10
            notifier.alive()
            try:
                heard.append((now, systemd.recv(99)))
            except BlockingIOError:
                continue
    assert [at for at, _ in heard] == [0, 2, 4, 6, 8]
    assert (
        Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).period_s
        == 0
    )


# ---- certificates ------------------------------------------------------------------------------


def test_the_certificate_is_renewed_in_time_and_the_authority_stays(settings: Settings) -> None:
    now = datetime.now(timezone.utc)
    first = identity(settings, now)
    assert first.authority is not None
    authority, leaf = first.authority.read_bytes(), first.certificate.read_bytes()
    identity(settings, now + timedelta(days=300))
    assert first.certificate.read_bytes() == leaf
    identity(settings, now + timedelta(days=380))
    assert first.certificate.read_bytes() != leaf
    assert first.authority.read_bytes() == authority
    first.certificate.write_bytes(b"broken")
    identity(settings, now)
    assert first.certificate.read_bytes().startswith(b"-----BEGIN")
    assert first.authority.read_bytes() == authority


def test_a_new_name_makes_an_authority_that_may_vouch_for_it(settings: Settings) -> None:
    from dataclasses import replace

    from cryptography import x509

    identity(settings)
    found = identity(replace(settings, hosts=("line3.example",)))
    assert found.authority is not None
    authority = x509.load_pem_x509_certificate(found.authority.read_bytes())
    allowed = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert allowed.critical
    names = [n.value for n in allowed.value.permitted_subtrees or [] if isinstance(n, x509.DNSName)]
    assert "line3.example" in names


def test_ones_own_certificate_serves_and_half_of_one_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    from dataclasses import replace

    made = identity(settings)
    own = replace(settings, certificate=made.certificate, certificate_key=made.key)
    assert identity(own).authority is None
    with pytest.raises(ConfigError, match="certificate_key is missing"):
        identity(replace(settings, certificate=made.certificate))
    (tmp_path / "x.pem").write_text("x")
    with pytest.raises(ConfigError, match="cannot be used for HTTPS"):
        identity(replace(own, certificate_key=tmp_path / "x.pem"))
