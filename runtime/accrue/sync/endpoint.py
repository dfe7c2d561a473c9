"""Where a fleet's broker is, how its certificate is checked, and what went wrong, in words."""

from __future__ import annotations

import errno
import functools
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt.reasoncodes import ReasonCode

from accrue.errors import BrokerDenied, BrokerUnreachable, BrokerUntrusted, LinkError

# MQTT 5 reason codes
UNSPECIFIED, PROTOCOL_VERSION, BAD_PASSWORD, NOT_AUTHORIZED = 0x80, 0x84, 0x86, 0x87
TAKEN_OVER, PACKET_TOO_LARGE = 0x8E, 0x95


@dataclass(frozen=True)
class Endpoint:
    """Where the broker is, and as whom.

    Attributes:
        ca: PEM file with the certificates that may have signed the broker's; None: the system's.
        verify: False accepts any certificate. For joining a fleet only, where both sides prove
            knowledge of the invitation's code and the CA is part of the answer.
    """

    host: str
    port: int = 8883
    user: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None
    tls: bool = True
    verify: bool = True

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@functools.lru_cache(maxsize=8)
def tls_context(ca: Path | None, verify: bool) -> ssl.SSLContext:
    """TLS 1.2 or later.

    Raises:
        BrokerUntrusted: the CA file is not there or no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise BrokerUntrusted(
                f"the CA file {ca} cannot be used: {error.strerror or error}",
                hint="copy ca.crt from the broker's folder to this place",
                path=str(ca),
            ) from error
    return context


def unreachable(endpoint: Endpoint, error: OSError) -> LinkError:
    where = _where(endpoint)
    if isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED:
        return BrokerUnreachable(
            f"nothing listens at {endpoint}",
            hint="is the broker running there (systemctl status mosquitto), on this port?",
            **where,
        )
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return BrokerUnreachable(
            f"no route to the broker {endpoint}: {error.strerror}",
            hint="is this device on the network (ip route)?",
            **where,
        )
    return BrokerUnreachable(
        f"the broker {endpoint} cannot be reached: {error.strerror or error}",
        hint="check the address, the port and the network",
        **where,
    )


def untrusted(endpoint: Endpoint, error: Exception) -> LinkError:
    where = _where(endpoint)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if error.verify_code in (62, 64):  # host name, IP address
            return BrokerUntrusted(
                f"the broker's certificate is not for {endpoint.host}",
                hint="use a name or address that it was made for, or make it anew with this one: "
                f"accrue-fleet broker --host {endpoint.host}",
                **where,
            )
        if error.verify_code in (9, 10):  # not yet valid, expired
            return BrokerUntrusted(
                f"the broker's certificate: {reason}",
                hint="is the clock of this device right (date)? else make a new certificate",
                **where,
            )
        ca = f"the CA in {endpoint.ca}" if endpoint.ca else "a CA that this system knows"
        return BrokerUntrusted(
            f"the broker {endpoint} is not certified by {ca}: {reason}",
            hint="copy ca.crt of the fleet's broker here; if you did, this is another broker",
            **where,
        )
    if isinstance(error, ssl.SSLError) and "WRONG_VERSION" in (error.reason or ""):
        return BrokerUntrusted(
            f"{endpoint} does not speak TLS",
            hint="is this the port with TLS (8883 as a rule, where 1883 is without)?",
            **where,
        )
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return BrokerUnreachable(
            f"{endpoint} ended the connection while TLS was being set up",
            hint="is this the broker's port with TLS (8883 as a rule)?",
            **where,
        )
    return BrokerUntrusted(f"TLS with {endpoint} failed: {error}", **where)


def rejected(endpoint: Endpoint, reason: ReasonCode) -> LinkError:
    """CONNACK with a reason code of failure."""
    where = _where(endpoint, reason)
    if reason.value in (BAD_PASSWORD, NOT_AUTHORIZED):
        return BrokerDenied(
            f"the broker {endpoint} does not accept user {endpoint.user!r} with this password",
            hint="the fleet's owner may have to add this device again: accrue-fleet roster invite",
            **where,
        )
    if reason.value == PROTOCOL_VERSION:
        return LinkError(
            f"the broker {endpoint} does not speak MQTT 5",
            hint="use one that does, as Mosquitto from 2.0 on",
            **where,
        )
    return LinkError(f"the broker {endpoint} refused the connection: {reason}", **where)


def ended(endpoint: Endpoint, reason: ReasonCode, by_broker: bool, before: bool) -> LinkError:
    where = _where(endpoint, reason)
    if by_broker and reason.value == TAKEN_OVER:
        return BrokerDenied(
            f"another connection with this device's id took the place of this one at {endpoint}",
            hint="a second process or a copied identity; stop one, or join with the other anew",
            **where,
        )
    if by_broker:
        return LinkError(f"the broker {endpoint} ended the connection: {reason}", **where)
    if before:
        return BrokerUnreachable(
            f"{endpoint} ended the connection before it answered",
            hint="is this the broker's port, and does it want TLS?",
            **where,
        )
    return BrokerUnreachable(
        f"the connection to {endpoint} was lost",
        hint="nothing is lost with it: the link comes back by itself",
        **where,
    )


def lost_again(endpoint: Endpoint, times: int) -> LinkError:
    """Connections that came up and were gone soon, several in a row."""
    return BrokerUnreachable(
        f"the connection to {endpoint} is lost again and again, {times} times within seconds",
        hint="does a second process or a copied identity use this device's id? the broker's log "
        "says what it had against it",
        **_where(endpoint),
    )


def not_mqtt(endpoint: Endpoint, error: Exception) -> LinkError:
    """paho could make nothing of what came."""
    return LinkError(
        f"{endpoint} sent what is no MQTT 5 ({type(error).__name__})",
        hint="is this the port of an MQTT broker?",
        **_where(endpoint),
    )


def _where(endpoint: Endpoint, reason: ReasonCode | None = None) -> dict[str, Any]:
    fields: dict[str, Any] = {"host": endpoint.host, "port": endpoint.port}
    return fields if reason is None else {**fields, "reason": reason.value}
