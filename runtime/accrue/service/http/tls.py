"""HTTPS on a LAN: a certificate authority of the device's own, or one's own certificate.

The authority can vouch for this device and private addresses alone (name constraints): whoever
trusts it, on a phone, trusts it for nothing else, even if its key is stolen.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from accrue.errors import AccrueError, ConfigError
from accrue.service.http.guard import own_names
from accrue.service.settings import Settings
from accrue.store.files import FileSteps, write_atomically

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

FOLDER = "tls"
CA, CA_KEY, OWN, OWN_KEY = "ca.pem", "ca.key", "device.pem", "device.key"
CA_DAYS, OWN_DAYS, RENEW_DAYS = 3650, 397, 30  # phones take no more than 825 days of a leaf
PRIVATE = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8"),
    *("fc00::/7", "fe80::/10", "::1/128"),
)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Identity:
    """A certificate to serve with. `authority`: that signed it, where it is the device's own."""

    certificate: Path
    key: Path
    authority: Path | None


def identity(settings: Settings, now: datetime | None = None) -> Identity:
    """One's own certificate, or one by the device's authority, made or renewed where needed.

    Raises:
        ConfigError: one's own cannot be used. AccrueError: the package cryptography is missing.
    """
    if settings.certificate is not None or settings.certificate_key is not None:
        return _given(settings.certificate, settings.certificate_key)
    return _own(settings, now or datetime.now(timezone.utc))


def _given(certificate: Path | None, key: Path | None) -> Identity:
    if certificate is None or key is None:
        missing = "certificate" if certificate is None else "certificate_key"
        raise ConfigError(
            f"setting {missing} is missing; a certificate needs its key, and a key its certificate",
            hint=f"set {missing}, or neither of the two",
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            certificate, key, password=lambda: ""
        )
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{certificate} with {key} cannot be used for HTTPS: {reason}",
            hint="expected two PEM files that belong together, the key without a password",
            path=str(certificate),
        ) from None
    return Identity(certificate, key, None)


def addresses(listen: str = "") -> set[Address]:
    """Addresses of this machine, as far as they can be found out without asking anybody.

    Of those that only an interface has, such as that of a USB cable, private IPv4 ones alone:
    the authority vouches for them already, and they do not change by themselves.
    """
    found: set[str] = {"127.0.0.1", "::1", listen, *_of_interfaces()}
    with suppress(OSError):
        found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    known = {str(one) for one in ways_out()}
    return _addresses(found | known)


def ways_out() -> set[Address]:
    """Addresses by which this machine reaches others, one of each version at most."""
    found = set()
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect((somewhere, 9))  # sends nothing; it only chooses a way out
            found.add(str(probe.getsockname()[0]))
    return _addresses(found)


def _of_interfaces(table: Path = Path("/proc/net/fib_trie")) -> set[str]:
    """Private IPv4 addresses of all interfaces, from the kernel's table of routes."""
    try:
        found = re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", table.read_text())
    except OSError:
        return set()
    networks = [ipaddress.ip_network(text) for text in PRIVATE]
    return {text for text in found if _within(ipaddress.ip_address(text), networks)}


def _addresses(texts: Iterable[str]) -> set[Address]:
    known: set[Address] = set()
    for text in texts:
        with suppress(ValueError):
            address = ipaddress.ip_address(text.partition("%")[0])
            if not address.is_unspecified:
                known.add(address)
    return known


def _own(settings: Settings, now: datetime) -> Identity:
    try:
        import cryptography.x509  # noqa: F401
    except ImportError:
        raise AccrueError(
            "HTTPS needs the package cryptography",
            hint="pip install 'accrue[console]', or say --plain-http where the network is trusted",
        ) from None
    folder = settings.state / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    listen = settings.listen.rpartition(":")[0].strip("[]")
    names = sorted(own_names() | {name.lower() for name in settings.hosts})
    here = sorted(addresses(listen), key=lambda one: (one.version, int(one)))
    authority = _authority(folder, names, here, now)
    _leaf(folder, authority, names, here, now)
    return Identity(folder / OWN, folder / OWN_KEY, folder / CA)


def _authority(
    folder: Path, names: list[str], here: list[Address], now: datetime
) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    """The device's authority; a new one where there is none, or it may not vouch for a name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    with suppress(FileNotFoundError):
        certificate, key = _load(folder / CA, folder / CA_KEY)
        left = certificate.not_valid_after_utc - now
        if left > timedelta(days=OWN_DAYS) and _covers(certificate, names, here):
            return certificate, key
    key = ec.generate_private_key(ec.SECP256R1())
    common = f"Accrue on {socket.gethostname()}"[:64]
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
    networks = [ipaddress.ip_network(text) for text in PRIVATE]
    networks += [ipaddress.ip_network(one) for one in here if not _within(one, networks)]
    allowed: list[x509.GeneralName] = [x509.DNSName(one) for one in names]
    allowed += [x509.IPAddress(one) for one in networks]
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.NameConstraints(allowed, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _save(folder / CA, folder / CA_KEY, [certificate], key)
    return certificate, key


def _leaf(
    folder: Path,
    authority: tuple[x509.Certificate, EllipticCurvePrivateKey],
    names: list[str],
    here: list[Address],
    now: datetime,
) -> None:
    """The device's certificate, made anew where it ends soon or lacks a name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer, issuer_key = authority
    with suppress(FileNotFoundError):
        present, _ = _load(folder / OWN, folder / OWN_KEY)
        told = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        has_all = set(names) <= set(told.get_values_for_type(x509.DNSName)) and set(here) <= set(
            told.get_values_for_type(x509.IPAddress)
        )
        lasts = present.not_valid_after_utc - now > timedelta(days=RENEW_DAYS)
        if has_all and lasts and present.issuer == issuer.subject and _signed(present, issuer):
            return
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives: list[x509.GeneralName] = [x509.DNSName(one) for one in names]
    alternatives += [x509.IPAddress(one) for one in here]
    common = x509.NameAttribute(x509.NameOID.COMMON_NAME, socket.gethostname()[:64])
    of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([common]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=OWN_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(purpose, critical=False)
        .add_extension(of_issuer, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    _save(folder / OWN, folder / OWN_KEY, [certificate, issuer], key)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _covers(authority: x509.Certificate, names: Iterable[str], here: Iterable[Address]) -> bool:
    from cryptography import x509

    allowed = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    subtrees = allowed.permitted_subtrees or []
    known = {one.value for one in subtrees if isinstance(one, x509.DNSName)}
    networks = [one.value for one in subtrees if isinstance(one, x509.IPAddress)]
    return known >= set(names) and all(_within(one, networks) for one in here)


def _within(address: Address, networks: Iterable[object]) -> bool:
    return any(
        isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network) and address in network
        for network in networks
    )


def _load(certificate: Path, key: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    """Raises FileNotFoundError, also for files that are no such thing: they are made anew."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        loaded = load_pem_private_key(key.read_bytes(), None)
    except ValueError:
        raise FileNotFoundError(certificate) from None
    if not isinstance(loaded, EllipticCurvePrivateKey):
        raise FileNotFoundError(key)
    return found, loaded


def _save(
    certificate: Path, key: Path, chain: list[x509.Certificate], made: EllipticCurvePrivateKey
) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    secret = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(key, [secret], steps=FileSteps(create=_private))
    write_atomically(certificate, [one.public_bytes(Encoding.PEM) for one in chain])


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
