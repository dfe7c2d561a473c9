"""The doctor's page and the file for support: everything that helps, and no secret."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest

from accrue.errors import Conflict, StoreError
from accrue.service.access import Access
from accrue.service.checks import FAIL, OK, WARN, Check
from accrue.service.settings import Origin, Settings, load_settings
from accrue.service.support import page, scrubber, support_file, write_support

SECRETS = {
    "camera": "Kamera-Passwort-17",
    "query": "sid=SESSION-OF-CAMERA",
    "plus": "a+b/c@d-word",
    "webhook": "/hooks/T0000/B0000/webhook-path-is-the-key",
    "token": "u3nB0x-5Qk2mVb8Zr1yTdWfHjLcPsGaEi9oXqKtMvN4",
    "log": "hunter2-in-the-log",
    "pem": "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj",
    "pair": "2AC7-9WX8",
}
LOG = f"""\
12:00:01 info    watching 1 camera; http://127.0.0.1:8420
12:00:01 info    open http://127.0.0.1:8420/#pair={SECRETS["pair"]} (one use, 15 minutes)
12:00:02 warning code {SECRETS["pair"]} was used
12:00:03 error   rtsp://op:{SECRETS["camera"]}@192.0.2.9/a?{SECRETS["query"]} gave no frame
12:00:04 info    Authorization: Bearer {SECRETS["token"]}
12:00:05 info    mqtt password={SECRETS["log"]} user=dock-1
12:00:06 info    {{"mqtt_password": "{SECRETS["log"]}", "user": "dock-1"}}
12:00:07 error   -----BEGIN PRIVATE KEY-----
{SECRETS["pem"]}
-----END PRIVATE KEY-----
12:00:08 info    token {SECRETS["token"]} taught hex bolt, state digest {"ab" * 32}
12:00:09 info    POST https://hooks.example.net{SECRETS["webhook"]} 500
"""
CHECKS = [
    Check("python", OK, "3.10.12"),
    Check("power", WARN, "power mode 7W", "sudo nvpmodel -m 0", found="7W", expected="15W"),
    Check("state", FAIL, "damaged", "accrue restore FILE"),
]


@pytest.fixture
def settings(tmp_path: Path) -> tuple[object, dict[str, Origin]]:
    state = tmp_path / "state"
    state.mkdir()
    _, SECRETS["granted"] = Access(state).add("phone", "owner", by="me")
    (state / "identity.key").write_text(f"-----BEGIN PRIVATE KEY-----\n{SECRETS['pem']}\n")
    file = tmp_path / "accrue.yaml"
    file.write_text(
        f"""
state: {state}
cameras:
  - rtsp://op:{SECRETS["camera"]}@192.0.2.9:554/a?{SECRETS["query"]}
  - h265+rtsp://op:{SECRETS["plus"]}@192.0.2.10/b
  - rtspsrc location=rtsp://op:{SECRETS["camera"]}@192.0.2.9/x ! rtph264depay
  - camera:0
webhook: https://hooks.example.net{SECRETS["webhook"]}
"""
    )
    return load_settings({}, {"ACCRUE_CONFIG": str(file)})


def told(words: Sequence[str]) -> str:
    return LOG if "-u" in words else "kernel: nvgpu: fault\n"


def test_the_page_ends_with_a_summary() -> None:
    assert page(CHECKS) == [
        "ok    python: 3.10.12",
        "warn  power: power mode 7W",
        "      sudo nvpmodel -m 0",
        "fail  state: damaged",
        "      accrue restore FILE",
        "1 ok, 1 to look at, 1 at fault",
    ]


def test_the_file_holds_what_helps_and_no_secret(settings: tuple, tmp_path: Path) -> None:
    """Each part is there; of all secrets that were met, none is in any of them."""
    found, origins = settings
    content = support_file(found, CHECKS, origins, run=told)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    readme = parts["README.txt"]
    assert all(name in readme for name in parts if name != "README.txt")
    for name, secret in SECRETS.items():
        for part, text in parts.items():
            assert secret not in text, f"{name} is in {part}"
    documents = {name: json.loads(text) for name, text in parts.items() if name.endswith(".json")}
    assert list(documents["settings.json"]) == [key.name for key in fields(Settings)]
    assert documents["doctor.json"][1]["expected"] == "15W"
    assert "warn  power: power mode 7W" in parts["doctor.txt"]
    assert documents["settings.json"]["cameras"]["value"] == [
        "rtsp://192.0.2.9:554/***",
        "h265+rtsp://192.0.2.10/***",
        "rtspsrc location=rtsp://192.0.2.9/***",
        "camera:0",
    ]
    assert documents["settings.json"]["webhook"]["value"].startswith("https://hooks.exampl")
    assert documents["device.json"]["machine"]
    assert "board" in documents["board.json"]
    assert "numpy==" in parts["packages.txt"]
    assert "identity.key" in parts["files.txt"]
    log = parts["log.txt"]
    assert "192.0.2.9" in log
    assert "taught hex bolt, state digest " + "ab" * 32 in log  # what helps stays
    assert "user=dock-1" in log
    assert "nvgpu: fault" in parts["kernel.txt"]


def test_a_part_that_cannot_be_made_does_not_cost_the_others(settings: tuple) -> None:
    found, origins = settings

    def broken(words: Sequence[str]) -> str:
        raise OSError("no journal here")

    with zipfile.ZipFile(io.BytesIO(support_file(found, CHECKS, origins, run=broken))) as archive:
        assert archive.read("log.txt").decode() == "not there: no journal here\n"
        assert "python" in archive.read("doctor.txt").decode()


def test_the_file_is_its_owners_alone_and_overwrites_nothing(
    settings: tuple, tmp_path: Path
) -> None:
    found, origins = settings
    path = tmp_path / "device.zip"
    assert write_support(path, found, CHECKS, origins, run=told) == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(Conflict, match=r"device.zip is there already; name another file"):
        write_support(path, found, CHECKS, origins, run=told)
    assert path.read_bytes() == before
    with pytest.raises(StoreError):
        write_support(tmp_path / "none" / "device.zip", found, CHECKS, origins, run=told)
    assert list(tmp_path.glob("*.zip")) == [path]
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("api_key: abc123, next", "api_key: ***, next"),
        ('{"secret":"a b c","x":1}', '{"secret":***,"x":1}'),
        ("MQTT_PASSWORD='p w' x", "MQTT_PASSWORD=*** x"),
        ("https://me:pw@host/x", "https://me:***@host/x"),
        ("token expired", "token expired"),
        ("password was wrong", "password was wrong"),
        ("digest " + "0f" * 32, "digest " + "0f" * 32),
        ("2026-11-21 12:00:00", "2026-11-21 12:00:00"),
        ("-----BEGIN EC PRIVATE KEY-----\ncut off", "***"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out_and_the_rest_stays(
    text: str, scrubbed: str, settings: tuple
) -> None:
    assert scrubber(settings[0])(text) == scrubbed
