"""What `write_broker` writes, and what a real Mosquitto makes of it."""

from __future__ import annotations

import base64
import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from light_fleet import FLEET, QUICK, device_id, until

from accrue.errors import AccrueError, BrokerDenied, ConfigError, NotFound
from accrue.sync.broker import (
    ENROL_PASSWORD,
    ENROL_USER,
    BrokerFolder,
    BrokerPlan,
    password_hash,
    write_broker,
)
from accrue.sync.link import Limits, Link, Loop, Message, Received, Sent
from accrue.sync.local_broker import LocalBroker
from accrue.sync.topics import BY_NAME, TOPICS, Topics

ME, OTHER = device_id(1), device_id(2)
NAMES = Topics(FLEET)
FIELDS = {
    "set": "default",
    "space": "0123456789abcdef",
    "class": "cc3f499f-c10d-509d-b57c-e6c5a79b6775",
    "sha256": "ab" * 32,
    "chunk": 0,
}


def path_of(name: str, device: str) -> str:
    fields = re.findall("<([a-z0-9]+)>", BY_NAME[name].path)
    values = {**FIELDS, "device": device}
    return NAMES.path(name, **{("class_id" if f == "class" else f): values[f] for f in fields})


class Client:
    def __init__(self, broker: LocalBroker, user: str, client_id: str = "") -> None:
        self.messages: list[Received] = []
        self.downs: list[AccrueError] = []
        self.loop = Loop()
        self.link = Link(broker.endpoint(user), client_id or user, self, timing=QUICK)
        self.loop.add(self.link)
        self.link.open()
        until(lambda: self.link.is_up, self.loop.step)

    def on_up(self, limits: Limits) -> None: ...
    def on_down(self, error: AccrueError) -> None:
        self.downs.append(error)

    def on_message(self, message: Received) -> None:
        self.messages.append(message)

    def send(self, topic: str, payload: bytes = b"x") -> Sent:
        sent: list[Sent] = []
        self.link.send(Message(topic, payload, BY_NAME["state"]), sent.append)
        until(lambda: sent, self.loop.step)
        return sent[0]

    def subscribe(self, *filters: str) -> None:
        done: list[bool] = []
        self.link.subscribe(filters, done.append)
        until(lambda: done, self.loop.step)

    def close(self) -> None:
        self.loop.close()


@pytest.fixture
def full(make_broker: Callable[..., LocalBroker]) -> LocalBroker:
    """Two devices, owner, relay, Home Assistant, and the account for joining."""
    broker = make_broker({"relay": "relay", "home": "home"})
    broker.passwords[ENROL_USER] = ENROL_PASSWORD
    return broker


# ---- who may do what -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "client_id", "role"),
    [
        (ME, ME, "device"),
        ("relay", "relay", "relay"),
        ("owner", "owner-1", "owner"),
        ("home", "home-1", "home"),
        (ENROL_USER, ME, "joining"),
    ],
)
def test_each_role_may_write_and_read_what_the_table_says_and_nothing_else(
    full: LocalBroker, user: str, client_id: str, role: str
) -> None:
    client, owner = Client(full, user, client_id), Client(full, "owner", "owner-2")
    client.subscribe(f"accrue/v1/{FLEET}/#")
    wrote, readable = set(), set()
    for topic in TOPICS:
        for device in (ME, OTHER) if "<device>" in topic.path else (ME,):
            if client.send(path_of(topic.name, device)) is Sent.DONE:
                wrote.add((topic.name, device))
            mark = f"{topic.name} {device}".encode()
            assert owner.send(path_of(topic.name, device), mark) is Sent.DONE
            if role == "owner" or role in topic.readers:
                own_only = topic.name in ("fence", "enrol-reply")
                if role == "owner" or not own_only or device == ME:
                    readable.add(mark)
    last = path_of({"joining": "enrol-reply", "home": "state"}.get(role, "roster"), ME)
    owner.send(last, b"last")
    until(lambda: any(m.payload == b"last" for m in client.messages), client.loop.step)
    expected = {
        (topic.name, device)
        for topic in TOPICS
        for device in ((ME, OTHER) if "<device>" in topic.path else (ME,))
        if role == "owner"
        or (topic.writer == role and (device == ME or "<device>" not in topic.path))
        or (topic.name == "enrol-request" and device == client_id)
    }
    assert wrote == expected
    heard = {m.payload for m in client.messages} - {b"x", b"last"}
    if role == "relay":
        assert heard == readable
    else:
        asked = {b"enrol-reply " + client_id.encode()}  # any client may ask under its own id
        assert heard - asked == readable - asked
    client.close()
    owner.close()


def test_a_device_writes_neither_below_another_nor_what_is_the_owners(full: LocalBroker) -> None:
    client = Client(full, ME)
    for name in ("state", "report", "class", "data"):
        assert client.send(path_of(name, ME)) is Sent.DONE
        assert client.send(path_of(name, OTHER)) is Sent.DENIED
    for name in ("roster", "manifest", "coming", "owner-data", "batch", "relay-state"):
        assert client.send(path_of(name, ME)) is Sent.DENIED
    assert client.send("homeassistant/sensor/x/config") is Sent.DENIED
    assert client.send("accrue/v1/other/dev/" + ME + "/state") is Sent.DENIED
    assert client.downs == []
    client.close()


@pytest.mark.parametrize("client_id", ["+", "#", "a+b", ME + "/x"])
def test_a_client_id_with_a_wildcard_gives_no_access(full: LocalBroker, client_id: str) -> None:
    spy = Client(full, ENROL_USER, client_id)
    victim, owner = Client(full, ENROL_USER, ME), Client(full, "owner")
    spy.subscribe(f"accrue/v1/{FLEET}/enrol/+/reply")
    victim.subscribe(path_of("enrol-reply", ME))
    assert spy.send(path_of("enrol-request", ME)) is Sent.DENIED
    assert owner.send(path_of("enrol-reply", ME)) is Sent.DONE
    until(lambda: victim.messages, victim.loop.step, spy.loop.step)
    assert spy.messages == []
    for client in (spy, victim, owner):
        client.close()


def test_nobody_comes_in_without_an_account(full: LocalBroker) -> None:
    for user, password in (("", ""), ("nobody", "x"), (ME, ""), (ME, full.passwords[OTHER])):
        loop, ear = Loop(), _Downs()
        link = Link(replace(full.endpoint(ME), user=user, password=password), ME, ear, timing=QUICK)
        loop.add(link)
        link.open()
        until(lambda ear=ear: ear.downs, loop.step)
        assert isinstance(ear.downs[0], BrokerDenied)
        loop.close()


class _Downs:
    def __init__(self) -> None:
        self.downs: list[AccrueError] = []

    def on_up(self, limits: Limits) -> None: ...
    def on_message(self, message: Received) -> None: ...
    def on_down(self, error: AccrueError) -> None:
        self.downs.append(error)


def test_an_account_that_is_added_or_removed_holds_after_a_reload(full: LocalBroker) -> None:
    new = device_id(9)
    client = Client(full, "owner")
    full.add(new, "device")
    full.reload()
    until(lambda: any("Reloading config" in line for line in full.log))
    added = Client(full, new)
    assert added.send(path_of("state", new)) is Sent.DONE
    full.files.close_accounts([new])
    full.reload()
    until(lambda: added.downs and isinstance(added.downs[-1], BrokerDenied), added.loop.step)
    assert client.downs == []
    added.close()
    client.close()


# ---- the files -----------------------------------------------------------------------------------


def test_the_password_is_hashed_as_mosquitto_does_it() -> None:
    """The line is one that mosquitto_passwd 2.0.11 wrote for "correct horse"."""
    line = (
        "$7$101$mQEHTB+ElDRJFkkA$"
        "jm6RvP2oqiIHOV/vF2SmaoPappwr7xU2IzB+WZ4O7EWSvn6bhFc37GTtW+D3"
        "EWUdZfeCRfOUnHmzz3rxNx+nWw=="
    )
    salt = base64.b64decode(line.split("$")[3])
    assert password_hash("correct horse", salt) == line
    assert password_hash("correct horsf", salt) != line
    assert password_hash("correct horse") != password_hash("correct horse")


def test_only_the_owner_of_the_files_reads_them(tmp_path: Path) -> None:
    files = write_broker(tmp_path / "broker", BrokerPlan(FLEET))
    files.set_account(ME, "device", "secret")
    for path in files.path.iterdir():
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert stat.S_IMODE(files.path.stat().st_mode) == 0o700
    texts = [path.read_bytes() for path in files.path.iterdir() if path.is_file()]
    assert not any(b"secret" in text for text in texts)


def test_writing_again_keeps_the_ca_and_the_accounts(tmp_path: Path) -> None:
    files = write_broker(tmp_path / "broker", BrokerPlan(FLEET, ("old.local",)))
    files.set_account(ME, "device", "secret")
    ca, hashed = files.ca.read_bytes(), files.passwords.read_text()
    again = write_broker(tmp_path / "broker", BrokerPlan(FLEET, ("new.local", "10.0.0.5", "::1")))
    assert (again.ca.read_bytes(), again.passwords.read_text()) == (ca, hashed)
    assert again.accounts() == {ME: "device", ENROL_USER: "joining"}
    certificate = x509.load_pem_x509_certificate(again.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["new.local"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5", "::1"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))


def test_the_folder_of_another_fleet_is_not_overwritten(tmp_path: Path) -> None:
    write_broker(tmp_path / "broker", BrokerPlan("yard"))
    with pytest.raises(ConfigError, match="is the broker of fleet yard, not of dock"):
        write_broker(tmp_path / "broker", BrokerPlan(FLEET))
    with pytest.raises(NotFound, match="no broker's configuration"):
        BrokerFolder(tmp_path).accounts()


def test_the_configuration_names_the_place_where_it_will_be(tmp_path: Path) -> None:
    plan = BrokerPlan(FLEET, installed_at=Path("/etc/mosquitto/accrue"), max_packet_bytes=131_072)
    text = write_broker(tmp_path / "broker", plan).configuration.read_text()
    assert str(tmp_path) not in text
    for line in (
        "listener 8883",
        "certfile /etc/mosquitto/accrue/server.crt",
        "password_file /etc/mosquitto/accrue/passwords",
        "acl_file /etc/mosquitto/accrue/access",
        "persistence_location /etc/mosquitto/accrue/data/",
        "max_packet_size 131072",
        "allow_anonymous false",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize(
    "user", ["", "a b", "a:b", "a\nuser owner", "#", "+", "0123456789a", "0123456789abc"]
)
def test_a_name_that_would_break_the_files_is_refused(tmp_path: Path, user: str) -> None:
    files = write_broker(tmp_path / "broker", BrokerPlan(FLEET))
    before = files.access_list.read_text()
    with pytest.raises(ConfigError, match="is no device id"):
        files.set_account(user, "device", "x")
    if not user.isalnum():
        with pytest.raises(ConfigError, match="is no name for an account"):
            files.set_account(user, "owner", "x")
    assert files.access_list.read_text() == before


@pytest.mark.parametrize(
    "plan",
    [
        {"fleet": "Dock"},
        {"fleet": "dock\nallow_anonymous true"},
        {"fleet": FLEET, "hosts": ()},
        {"fleet": FLEET, "hosts": ("a\nb",)},
        {"fleet": FLEET, "max_packet_bytes": 1000},
    ],
)
def test_a_plan_that_cannot_work_is_refused(plan: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BrokerPlan(**plan)


def test_the_access_list_has_a_line_for_each_right_of_the_table(tmp_path: Path) -> None:
    files = write_broker(tmp_path / "broker", BrokerPlan(FLEET))
    files.set_account(ME, "device", "x")
    text = files.access_list.read_text()
    assert f"user {ME}\n" in text
    assert f"topic write accrue/v1/{FLEET}/dev/{ME}/class/+/+/+\n" in text
    assert f"pattern write accrue/v1/{FLEET}/enrol/%c/request\n" in text
    assert json.loads(files.accounts_file.read_text())["accounts"][ME] == "device"
