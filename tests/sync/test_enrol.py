"""Enrolment: by the right code both sides know each other, by anything else nothing happens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accrue.errors import Rejected, UsageError
from accrue.sync.enrol import (
    Admission,
    Applicant,
    Request,
    make_reply,
    make_request,
    make_ticket,
    new_code,
    open_reply,
    open_ticket,
    read_code,
    spoken,
)
from accrue.sync.identity import ALPHABET, Identity
from accrue.sync.signed import parse, seal, split

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CODE = "7k3q9mztx8"


@pytest.fixture(scope="module")
def device() -> Identity:
    return Identity.create("d0ck00000003")


@pytest.fixture(scope="module")
def admission(device: Identity) -> Admission:
    owner = OWNER.public_key().public_bytes_raw()
    return Admission(
        "plant", owner, device.device, "a secret", 4, "CERTIFICATE", "10.0.0.5", 8883, True
    )


def test_who_knows_the_code_gets_in(device: Identity, admission: Admission) -> None:
    message, keys = make_request(device, "plant", CODE, "dock-3")
    request = Request.open(message, "plant")
    assert request.applicant == Applicant.of(device, "dock-3")
    known = request.knows(CODE)
    assert known == keys
    reply = make_reply(request, known, admission)
    assert open_reply(device, message, keys, reply) == admission


def test_who_does_not_know_the_code_is_not_answered(device: Identity) -> None:
    message, _ = make_request(device, "plant", "0000000000", "dock-3")
    assert Request.open(message, "plant").knows(CODE) is None


def test_an_answer_by_another_code_is_refused(device: Identity, admission: Admission) -> None:
    message, keys = make_request(device, "plant", CODE, "dock-3")
    other, other_keys = make_request(device, "plant", "0000000000", "dock-3")
    reply = make_reply(Request.open(other, "plant"), other_keys, admission)
    with pytest.raises(Rejected) as raised:
        open_reply(device, message, keys, reply)
    assert raised.value.reason == "forged"
    assert (
        raised.value.message == "a secret that was sealed with another code or for another device"
    )


def test_an_answer_to_another_request_is_refused(device: Identity, admission: Admission) -> None:
    message, keys = make_request(device, "plant", CODE, "dock-3")
    renamed, _ = make_request(device, "plant", CODE, "dock-4")
    reply = make_reply(Request.open(renamed, "plant"), keys, admission)
    with pytest.raises(Rejected):
        open_reply(device, message, keys, reply)


def test_the_code_alone_opens_no_answer(device: Identity, admission: Admission) -> None:
    """Who recorded both messages and learns the code later still lacks the device's key."""
    message, keys = make_request(device, "plant", CODE, "dock-3")
    reply = make_reply(Request.open(message, "plant"), keys, admission)
    eavesdropper = Identity.create(device.device)
    with pytest.raises(Rejected):
        open_reply(eavesdropper, message, keys, reply)


@pytest.mark.parametrize("at", [0, 31, 32, 43, 44, -1])
def test_an_answer_with_one_bit_changed_is_refused(
    device: Identity, admission: Admission, at: int
) -> None:
    message, keys = make_request(device, "plant", CODE, "dock-3")
    reply = bytearray(make_reply(Request.open(message, "plant"), keys, admission))
    reply[at] ^= 1
    with pytest.raises(Rejected):
        open_reply(device, message, keys, bytes(reply))


def test_a_request_with_another_key_in_it_is_refused(device: Identity) -> None:
    """Who relays a request cannot put a key of its own in: signature and code both cover it."""
    message, _ = make_request(device, "plant", CODE, "dock-3")
    thief = Identity.create(device.device)
    body = parse(split(message)[1])
    altered = {**body, "key": thief.public.hex()}
    with pytest.raises(Rejected, match="signature that does not fit"):
        Request.open(split(message)[0] + split(seal("enrol", altered, thief.key))[1], "plant")
    assert Request.open(seal("enrol", altered, thief.key), "plant").knows(CODE) is None


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        ({"fleet": "other"}, "wrong-scope", 'a request to join fleet "other"; this is plant'),
        ({"accrue": "enrol/2"}, "malformed", "request, accrue: expected enrol/1"),
        ({"device": "dock"}, "malformed", "device: expected a device id and a name of at most 64"),
        ({"name": "x" * 65}, "malformed", "device: expected a device id and a name of at most 64"),
        ({"key": "ff"}, "malformed", "device: expected key: expected 64 hex characters"),
        ({"more": 1}, "malformed", "request: expected an object with accrue, fleet, device"),
    ],
)
def test_a_request_of_another_form_is_refused(
    device: Identity, change: dict[str, object], reason: str, said: str
) -> None:
    message, _ = make_request(device, "plant", CODE, "dock-3")
    body = {**parse(split(message)[1]), **change}
    with pytest.raises(Rejected) as raised:
        Request.open(seal("enrol", body, device.key), "plant")
    assert raised.value.reason == reason
    assert raised.value.message.startswith(said)


def test_a_code_is_read_as_people_say_it() -> None:
    assert spoken("plant-2", CODE) == "plant-2-7k3q9-mztx8"
    assert read_code(" Plant-2-7K3Q9-MZTX8 ") == ("plant-2", CODE)
    assert read_code("plant-o1l00-0000x") == ("plant", "011000000x")
    made = {new_code() for _ in range(100)}
    assert len(made) == 100
    assert {read_code(spoken("plant", code)) for code in made} == {("plant", c) for c in made}


def test_a_code_with_one_wrong_character_is_refused_before_anybody_is_asked() -> None:
    for place, right in enumerate(CODE):
        for wrong in ALPHABET.replace(right, ""):
            typed = spoken("plant", CODE[:place] + wrong + CODE[place + 1 :])
            with pytest.raises(UsageError, match=r" is no code: a character of it is wrong;"):
                read_code(typed)
    with pytest.raises(UsageError):
        read_code("plant-k73q9-mztx8")


@pytest.mark.parametrize("text", ["", "plant", "7k3q9-mztx8", "plant-7k3q9", "plant-7k3q9-mztxu"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_code(text)
    assert raised.value.message == (
        f'"{text}" is no code; expected the fleet and twice five characters'
    )


# ---- offline -----------------------------------------------------------------------------------


def test_a_ticket_opens_on_its_device_alone(device: Identity, admission: Admission) -> None:
    ticket = make_ticket(Applicant.of(device), admission, OWNER)
    assert open_ticket(device, ticket) == admission
    assert b"a secret" not in ticket
    other = Identity.create("gate00000001")
    with pytest.raises(Rejected) as raised:
        open_ticket(other, ticket)
    assert raised.value.message == "a ticket for device d0ck00000003; this is gate00000001"
    with pytest.raises(Rejected, match="sealed with another code or for another device"):
        open_ticket(Identity.create(device.device), ticket)


def test_a_ticket_with_a_byte_changed_is_refused(device: Identity, admission: Admission) -> None:
    ticket = bytearray(make_ticket(Applicant.of(device), admission, OWNER))
    ticket[-10] ^= 1
    with pytest.raises(Rejected):
        open_ticket(device, bytes(ticket))


def test_a_ticket_of_another_owner_than_it_names_is_refused(
    device: Identity, admission: Admission
) -> None:
    thief = Ed25519PrivateKey.from_private_bytes(bytes(32))
    with pytest.raises(Rejected, match="signature that does not fit"):
        open_ticket(device, make_ticket(Applicant.of(device), admission, thief))
    own = replace(admission, owner=thief.public_key().public_bytes_raw())
    mixed = parse(split(make_ticket(Applicant.of(device), admission, OWNER))[1])
    mixed["owner"] = own.owner.hex()
    with pytest.raises(Rejected, match="names another owner than signed it"):
        open_ticket(device, seal("enrol", mixed, thief))


def test_an_identity_file_is_what_the_command_prints(device: Identity) -> None:
    printed = json.dumps({"schema": 1, "fingerprint": "x", **Applicant.of(device, "a").to_body()})
    assert Applicant.from_file(printed.encode()) == Applicant.of(device, "a")
    for data in (b"", b"[]", b"{}", b"\xff", b'{"device": "d0ck00000003"}'):
        with pytest.raises(Rejected, match="not the identity of a device"):
            Applicant.from_file(data)
