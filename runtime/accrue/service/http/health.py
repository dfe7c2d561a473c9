"""What a supervisor and Prometheus ask."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accrue import __version__
from accrue.service.access import VIEWER
from accrue.service.daemon import Device
from accrue.service.http.table import Call, File, Table, require
from accrue.vision.live import PLAYING
from accrue.vitals import read_vitals

table = Table()
METRICS_MEDIA = "text/plain; version=0.0.4; charset=utf-8"
HELP = {
    "accrue_frames_total": "Frames looked at, by camera and gate.",
    "accrue_answers_total": "Times that the answer of a camera became this one.",
    "accrue_stage_seconds_total": "Seconds spent in a stage.",
    "accrue_stage_frames_total": "Frames that went through a stage.",
    "accrue_changes_total": "Entries of the journal since the start, by verb.",
    "accrue_errors_total": "Rounds of the watching loop that failed.",
    "accrue_preview_frames_total": "Frames made into pictures for those who look on.",
    "accrue_http_requests_total": "Answers, by method and status.",
    "accrue_webhook_events_total": "Events for the webhook, by what became of them.",
    "accrue_mqtt_events_total": "Events for MQTT, by what became of them.",
}


@dataclass(frozen=True)
class Health:
    """`reason` says why it is not `ok`."""

    ok: bool
    reason: str


@table.add("GET", "/healthz", None, rooted=True)
def healthz(call: Call) -> Health:
    """Whether the process answers."""
    return Health(True, "")


@table.add("GET", "/readyz", None, rooted=True, also={503: "It does not answer for cameras yet."})
def readyz(call: Call) -> Health:
    """Whether the device watches: encoder and database are open, and its loop comes round."""
    reason = call.device.ready
    call.answer.status = 503 if reason else 200
    return Health(not reason, reason)


@table.add("GET", "/metrics", None, rooted=True, media=METRICS_MEDIA)
def metrics(call: Call) -> File:
    """Figures for Prometheus. From another machine they need the token of a viewer."""
    if not _is_loopback(call.address):
        require(VIEWER, call.grant)
    return File(METRICS_MEDIA, exposition(call.device).encode())


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def exposition(device: Device) -> str:
    """All figures in Prometheus' text format."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str) -> None:
        lines.append(f"# HELP {name} {text}")
        lines.append(f"# TYPE {name} {kind}")

    def gauge(name: str, text: str, value: float) -> None:
        family(name, "gauge", text)
        lines.append(f"{name} {_number(value)}")

    family("accrue_info", "gauge", "Version, encoder and board.")
    serving, manifest = device.box.serving, device.box.bundle.manifest
    labels = {"version": __version__, "encoder": manifest.name, "serves": serving.candidate}
    labels["board"] = device.board.name if device.board else ""
    lines.append(f"accrue_info{_labels(labels)} 1")
    gauge("accrue_ready", "Whether the device watches.", float(not device.ready))
    gauge("accrue_uptime_seconds", "Since the start.", time.time() - device.started_at)
    gauge("process_resident_memory_bytes", "Memory of the process.", _resident_bytes())
    lines += _board(device)
    with device.reading() as box:
        rows = box.classes()
    gauge("accrue_classes", "Classes that are known.", len(rows))
    gauge("accrue_shots", "Shots that they were taught with.", sum(row.shots for row in rows))
    cameras = device.cameras()
    if cameras:
        for name, text in (
            ("accrue_camera_playing", "Whether a camera gives frames."),
            ("accrue_camera_dropped_frames", "Frames that a newer one replaced unseen."),
            ("accrue_camera_opened", "Times that a camera was opened."),
        ):
            family(name, "gauge", text)
            for camera in cameras:
                value = {
                    "accrue_camera_playing": float(camera.state == PLAYING),
                    "accrue_camera_dropped_frames": float(camera.dropped),
                    "accrue_camera_opened": float(camera.opened),
                }[name]
                lines.append(f"{name}{_labels({'camera': str(camera.n)})} {_number(value)}")
    told = ""
    for (name, pairs), value in sorted(device.figures.all().items()):
        if name != told:
            family(name, "counter", HELP.get(name, name))
            told = name
        lines.append(f"{name}{_labels(dict(pairs))} {_number(value)}")
    return "\n".join(lines) + "\n"


def _board(device: Device) -> Iterator[str]:
    """What the sensors of the board say, where it has them."""
    vitals = read_vitals(device.board)
    for name, text, label, values in (
        ("accrue_temperature_celsius", "Of a thermal zone.", "zone", vitals.celsius),
        ("accrue_power_watts", "Of a power rail.", "rail", vitals.watts),
        (
            "accrue_board_alarms",
            "Under-voltage and over-current since the start, where there was any.",
            "alarm",
            vitals.alarms,
        ),
    ):
        if values:
            yield f"# HELP {name} {text}"
            yield f"# TYPE {name} gauge"
            # Some boards have two zones of one name; a figure may be told once alone.
            for one, value in dict(values).items():
                yield f"{name}{_labels({label: one})} {_number(value)}"
    if device.board and device.board.sensors.throttles:
        yield "# HELP accrue_throttling Throttling devices of the board that are on."
        yield "# TYPE accrue_throttling gauge"
        yield f"accrue_throttling {len(vitals.throttling)}"


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (name, value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\""))
        for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _resident_bytes() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
