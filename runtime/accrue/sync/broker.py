"""Writes a folder with which Mosquitto serves a fleet: configuration, certificates, accounts.

Nothing but `cryptography` is needed: neither openssl nor mosquitto_passwd. For Mosquitto 2.0 and
2.1. docs/broker.md tells how to run it.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from accrue.errors import ConfigError, NotFound
from accrue.store.files import FileSteps, write_atomically
from accrue.sync.discovery import fits_prefix
from accrue.sync.topics import ROLES, Role, Topics, access, is_device_id

MAX_PACKET_BYTES = 2_000_000  # what Mosquitto 2.1 takes when nothing is said
ENROL_USER = ENROL_PASSWORD = "enrol"  # no secret: the access list lets it ask to be let in
MAX_QUEUED = 100_000_000
ITERATIONS = 101  # Mosquitto's own; our passwords are random, so guessing them is hopeless anyway
SALT_BYTES = 12  # Mosquitto 2.0 takes no other length
CA_YEARS, SERVER_YEARS = 20, 10


@dataclass(frozen=True)
class BrokerPlan:
    """What the configuration is made from.

    Attributes:
        hosts: names and IP addresses under which devices reach the broker.
        bind: address to listen on; empty: all.
        max_packet_bytes: of one MQTT packet; 0: Mosquitto's own default.
        autosave_s: seconds between two savings of the retained messages to the disk.
        installed_at: where the folder will be on the broker's machine; None: where it is written.
        run_as: the account that Mosquitto changes to when started as root; empty: mosquitto.
        tls: False only behind something else that encrypts.
        home_assistant: discovery prefix under which devices may announce themselves; empty: none.
    """

    fleet: str
    hosts: tuple[str, ...] = ("localhost",)
    port: int = 8883
    bind: str = ""
    max_packet_bytes: int = MAX_PACKET_BYTES
    autosave_s: int = 60
    installed_at: Path | None = None
    run_as: str = ""
    tls: bool = True
    home_assistant: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        try:
            Topics(self.fleet)
        except ValueError as error:
            raise ConfigError(
                f"{self.fleet!r} is no fleet id", hint="1 to 32 of a-z, 0-9 and hyphen"
            ) from error
        if not self.hosts or not all(host and host.isprintable() for host in self.hosts):
            raise ConfigError(
                "the broker needs a name or address", hint="--host broker.local --host 10.0.0.5"
            )
        if not fits_prefix(self.home_assistant):
            raise ConfigError(
                f"{self.home_assistant!r} is no topic prefix", hint="homeassistant is the usual one"
            )
        if self.max_packet_bytes and self.max_packet_bytes < 16_384:
            raise ConfigError(
                f"packets of at most {self.max_packet_bytes:,} bytes are too small for a fleet",
                hint="131072 or more is good",
            )


@dataclass(frozen=True)
class BrokerFolder:
    """The files of a broker."""

    path: Path

    @property
    def configuration(self) -> Path:
        return self.path / "mosquitto.conf"

    @property
    def ca(self) -> Path:
        return self.path / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """Signs the broker's certificate when it is made anew. The broker does not read it."""
        return self.path / "ca.key"

    @property
    def certificate(self) -> Path:
        return self.path / "server.crt"

    @property
    def key(self) -> Path:
        return self.path / "server.key"

    @property
    def passwords(self) -> Path:
        return self.path / "passwords"

    @property
    def access_list(self) -> Path:
        return self.path / "access"

    @property
    def accounts_file(self) -> Path:
        return self.path / "accounts.json"

    @property
    def data(self) -> Path:
        """Mosquitto's own: what is retained."""
        return self.path / "data"

    def accounts(self) -> dict[str, Role]:
        """User name to role.

        Raises:
            NotFound: no broker was written here.
        """
        return cast("dict[str, Role]", dict(self._read()["accounts"]))

    @property
    def fleet(self) -> str:
        return str(self._read()["fleet"])

    def set_account(self, user: str, role: Role, password: str) -> None:
        """Adds or replaces an account. A running broker takes it up on SIGHUP.

        Raises:
            ConfigError: a name that the access list could not hold.
            NotFound: no broker was written here.
        """
        self.set_accounts({user: (role, password)})

    def set_accounts(self, accounts: Mapping[str, tuple[Role, str]]) -> None:
        """As `set_account`, many at once: user name to role and password."""
        known, lines = self._read(), self._hashes()
        for user, (role, password) in accounts.items():
            _check_user(user, role)
            known["accounts"][user] = role
            lines[user] = password_hash(password)
        self._write(known, lines)

    def close_accounts(self, users: Iterable[str]) -> dict[str, str]:
        """Takes accounts out; nothing happens where there is none. A connection lasts until the
        broker reloads.

        Returns:
            The hash of the password of each that was there, to open it again.
        """
        known, lines = self._read(), self._hashes()
        closed = {}
        for user in users:
            known["accounts"].pop(user, None)
            if user in lines:
                closed[user] = lines.pop(user)
        self._write(known, lines)
        return closed

    def open_accounts(self, hashes: Mapping[str, str], role: Role) -> None:
        """Makes accounts again, with the hashes that `close_accounts` gave."""
        known, lines = self._read(), self._hashes()
        for user, hashed in hashes.items():
            _check_user(user, role)
            known["accounts"][user] = role
            lines[user] = hashed
        self._write(known, lines)

    def _hashes(self) -> dict[str, str]:
        if not self.passwords.exists():
            return {}
        lines = self.passwords.read_text(encoding="utf-8").splitlines()
        return dict(cast("tuple[str, str]", line.split(":", 1)) for line in lines if ":" in line)

    def _read(self) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", json.loads(self.accounts_file.read_text("utf-8")))
        except FileNotFoundError as error:
            raise NotFound(
                f"no broker's configuration in {self.path}", hint="accrue-fleet broker"
            ) from error

    def _write(self, known: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
        write_private(self.accounts_file, json.dumps(known, indent=1, sort_keys=True) + "\n")
        write_private(
            self.access_list,
            access_list(known["fleet"], known["accounts"], known.get("home_assistant", "")),
        )
        write_private(
            self.passwords, "".join(f"{user}:{hashes[user]}\n" for user in sorted(hashes))
        )


def write_broker(folder: Path, plan: BrokerPlan) -> BrokerFolder:
    """Writes the configuration. What is there is kept where it need not change: the CA (devices
    know it) and the accounts; the broker's certificate is made anew.

    Raises:
        ConfigError: the folder is that of another fleet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    files = BrokerFolder(folder)
    files.data.mkdir(exist_ok=True)
    accounts: dict[str, Role] = {ENROL_USER: "joining"}
    hashed = files._hashes()
    if files.accounts_file.exists():
        if files.fleet != plan.fleet:
            raise ConfigError(
                f"{folder} is the broker of fleet {files.fleet}, not of {plan.fleet}",
                hint="take another folder",
            )
        accounts = files.accounts()
    hashed.setdefault(ENROL_USER, password_hash(ENROL_PASSWORD))
    files._write(
        {"fleet": plan.fleet, "accounts": accounts, "home_assistant": plan.home_assistant}, hashed
    )
    if plan.tls:
        _certify(files, plan)
    write_private(files.configuration, configuration(plan, plan.installed_at or folder.absolute()))
    return files


def configuration(plan: BrokerPlan, folder: Path) -> str:
    """mosquitto.conf, with the paths below `folder`."""
    lines = [
        f"# The broker of the fleet {plan.fleet}, for Mosquitto 2.0 and later.",
        "# Written by Accrue: accrue-fleet broker writes it again, and changes made here are lost.",
        "",
        f"listener {plan.port} {plan.bind}".rstrip(),
    ]
    if plan.tls:
        lines += [f"certfile {folder / 'server.crt'}", f"keyfile {folder / 'server.key'}"]
    lines += [
        "",
        "allow_anonymous false",
        f"password_file {folder / 'passwords'}",
        f"acl_file {folder / 'access'}",
        "",
        "# What is retained is the memory of the fleet: it survives a restart.",
        "persistence true",
        f"persistence_location {folder / 'data'}/",
        f"autosave_interval {plan.autosave_s}",
        "",
    ]
    if plan.max_packet_bytes:
        lines.append(f"max_packet_size {plan.max_packet_bytes}")
    lines += [
        "max_inflight_messages 1024",
        "set_tcp_nodelay true",
        "# A device that comes back takes all that is retained in one go. With a limit, Mosquitto",
        "# drops what is above it without a word (its own limit is 1,000 messages). Not 0, which",
        "# should mean none: with it, 2.0 ends the connection after each message that it denies.",
        f"max_queued_messages {MAX_QUEUED}",
        "",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
    ]
    if plan.run_as:
        lines += ["", f"user {plan.run_as}"]
    return "\n".join(lines) + "\n"


def access_list(fleet: str, accounts: Mapping[str, Role], home_assistant: str = "") -> str:
    """Mosquitto's acl_file, from the table of topics: a block for each account.

    What joining devices may do hangs on the client id (`%c`) and stands last, as a pattern. It
    holds for every account; with it any client may ask to be let in under its own client id.
    """
    lines = [f"# Who may do what in the fleet {fleet}. Written by Accrue from its table of topics."]
    for user, role in sorted(accounts.items()):
        if role == "joining":
            continue  # the patterns below are all that it may do
        lines += ["", f"# {role}", f"user {user}"]
        allowed = access(role, fleet, user, home_assistant)
        lines += [f"topic {what} {topic}" for what, topic in allowed]
    lines += ["", "# joining"]
    lines += [f"pattern {what} {topic}" for what, topic in access("joining", fleet)]
    return "\n".join(lines) + "\n"


def password_hash(password: str, salt: bytes | None = None) -> str:
    """As mosquitto_passwd writes it: ``$7$iterations$salt$hash``, PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    hashed = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return "$".join(
        [
            "",
            "7",
            str(ITERATIONS),
            base64.b64encode(salt).decode(),
            base64.b64encode(hashed).decode(),
        ]
    )


def new_password() -> str:
    """160 random bits, in characters that need no quoting."""
    return secrets.token_urlsafe(20)


def write_private(path: Path, text: str | bytes) -> None:
    """A file that only its owner reads, whole or not at all."""
    data = text.encode() if isinstance(text, str) else text
    write_atomically(path, [data], steps=FileSteps(create=_create_private))


def _create_private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _check_user(user: str, role: Role) -> None:
    if role not in ROLES:
        raise ConfigError(f"{role!r} is no role", hint=", ".join(ROLES))
    if role == "device":
        if not is_device_id(user):
            raise ConfigError(f"{user!r} is no device id", hint="accrue fleet identity shows it")
    elif not (user.isascii() and user.replace("-", "").isalnum() and len(user) <= 64):
        raise ConfigError(
            f"{user!r} is no name for an account", hint="letters, digits and hyphen, at most 64"
        )


# ---- certificates --------------------------------------------------------------------------------


def _certify(files: BrokerFolder, plan: BrokerPlan) -> None:
    if files.ca.exists() and files.ca_key.exists():
        ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
        ca_key = cast(
            ec.EllipticCurvePrivateKey,
            serialization.load_pem_private_key(files.ca_key.read_bytes(), None),
        )
    else:
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = _sign(f"Accrue fleet {plan.fleet}", ca_key, None, ca_key, CA_YEARS, ())
        write_private(files.ca_key, _pem(ca_key))
        write_private(files.ca, ca.public_bytes(serialization.Encoding.PEM))
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(plan.hosts[0][:64], key, ca, ca_key, SERVER_YEARS, plan.hosts)
    write_private(files.key, _pem(key))
    write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _sign(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate | None,
    ca_key: ec.EllipticCurvePrivateKey,
    years: int,
    hosts: tuple[str, ...],
) -> x509.Certificate:
    """Of a CA where `ca` is None, else of a server with these names."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if ca is None else ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=round(365.25 * years)))
        .add_extension(
            x509.BasicConstraints(ca=ca is None, path_length=0 if ca is None else None), True
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=ca is not None,
                key_cert_sign=ca is None,
                crl_sign=ca is None,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
        )
    )
    if ca is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    return builder.sign(ca_key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode())
    except UnicodeError as error:
        raise ConfigError(f"{host!r} is no name of a host", hint="broker.local") from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
