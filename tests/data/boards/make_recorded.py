"""Writes `recorded/*.json`: what each board tells of itself under each JetPack that it runs.

    python tests/data/boards/make_recorded.py

No board was at hand, so these are no recordings of one: every value stands in the tables below, and
the tables are from the vendor's documents and public reports (module numbers, SKUs, power modes,
names of files), not from `device_configs`, which they are held against. Replace a file by a true
recording where you have the board; tests/boards/test_recorded_boards.py reads both alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "recorded"
SOURCE = "written by hand from vendor documents and public reports; no board was at hand"

# JetPack: revision line, L4T, Python, glibc, os, CUDA, TensorRT (package, metadata), numpy,
# onnxruntime-gpu, cuda-bindings. FACTS: 6.0 = 36.3, 6.1 = 36.4, 6.2 = 36.4.3 to 36.5 ...
JETPACKS: dict[str, dict[str, str]] = {
    "6.0": {
        "release": "R36 (release), REVISION: 3.0",
        "package": "6.0+b106",
        "python": "3.10.12",
        "glibc": "2.35",
        "os": "22.04",
        "cuda": "12.2.12",
        "tensorrt": "8.6.2.3-1+cuda12.2",
        "metadata": "8.6.2",
        "numpy": "1.26.4",
        "ort": "",
        "bindings": "12.6.2",
    },
    "6.1": {
        "release": "R36 (release), REVISION: 4.0",
        "package": "6.1+b123",
        "python": "3.10.12",
        "glibc": "2.35",
        "os": "22.04",
        "cuda": "12.6.68",
        "tensorrt": "10.3.0.30-1+cuda12.5",
        "metadata": "10.3.0",
        "numpy": "1.26.4",
        "ort": "1.23.0",
        "bindings": "12.6.2",
    },
    "6.2": {
        "release": "R36 (release), REVISION: 4.3",
        "package": "6.2+b77",
        "python": "3.10.12",
        "glibc": "2.35",
        "os": "22.04",
        "cuda": "12.6.68",
        "tensorrt": "10.3.0.30-1+cuda12.5",
        "metadata": "10.3.0",
        "numpy": "1.26.4",
        "ort": "1.23.0",
        "bindings": "12.6.2",
    },
    "7.0": {
        "release": "R38 (release), REVISION: 2.0",
        "package": "7.0-b128",
        "python": "3.12.3",
        "glibc": "2.39",
        "os": "24.04",
        "cuda": "13.0.48",
        "tensorrt": "10.13.3.9-1+cuda13.0",
        "metadata": "10.13.3.9",
        "numpy": "2.2.6",
        "ort": "1.29.0",
        "bindings": "13.0.1",
    },
    "7.1": {
        "release": "R38 (release), REVISION: 4.0",
        "package": "7.1-b1",
        "python": "3.12.3",
        "glibc": "2.39",
        "os": "24.04",
        "cuda": "13.0.48",
        "tensorrt": "10.13.3.9-1+cuda13.0",
        "metadata": "10.13.3.9",
        "numpy": "2.2.6",
        "ort": "1.29.0",
        "bindings": "13.0.1",
    },
    "7.2": {
        "release": "R39 (release), REVISION: 2.0",
        "package": "7.2-b1",
        "python": "3.12.3",
        "glibc": "2.39",
        "os": "24.04",
        "cuda": "13.2.51",
        "tensorrt": "10.16.2.10-1+cuda13.2",
        "metadata": "10.16.2",
        "numpy": "2.4.6",
        "ort": "1.29.0",
        "bindings": "13.5.0",
    },
}
NANO_MODEL = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
NX_MODEL = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
AGX_MODEL = "NVIDIA Jetson AGX Orin Developer Kit"
THOR_MODEL = "NVIDIA Jetson AGX Thor Developer Kit"
# Board: module, carrier, model, memory in kB, cores, multiprocessors, modes of the plain and of the
# Super board (in the order of their ids) and the default of each, multiprocessors of a mode.
BOARDS: dict[str, dict[str, Any]] = {
    "jetson-orin-nano-4gb": {
        "module": "3767-0004",
        "carrier": "3768-0000",
        "model": NANO_MODEL,
        "kb": 3_680_000,
        "cores": 6,
        "sm": 4,
        "plain": ["10W", "7W_AI", "7W_CPU"],
        "default": "10W",
    },
    "jetson-orin-nano-8gb": {
        "module": "3767-0005",
        "carrier": "3768-0000",
        "model": NANO_MODEL,
        "kb": 7_749_632,
        "cores": 6,
        "sm": 8,
        "plain": ["15W", "7W"],
        "default": "15W",
        "super": ["15W", "25W", "MAXN_SUPER", "7W"],
        "super_default": "25W",
        "on": {"7W": 4},
    },
    "jetson-orin-nx-8gb": {
        "module": "3767-0001",
        "carrier": "3768-0000",
        "model": NX_MODEL,
        "kb": 7_749_632,
        "cores": 6,
        "sm": 8,
        "plain": ["MAXN", "10W", "15W", "20W"],
        "default": "15W",
        "super": ["MAXN_SUPER", "10W", "15W", "20W", "40W"],
        "super_default": "40W",
        "on": {"10W": 4, "15W": 4},
    },
    "jetson-orin-nx-16gb": {
        "module": "3767-0000",
        "carrier": "3768-0000",
        "model": NX_MODEL,
        "kb": 16_032_168,
        "cores": 8,
        "sm": 8,
        "plain": ["MAXN", "10W", "15W", "25W"],
        "default": "15W",
        "super": ["MAXN_SUPER", "10W", "15W", "25W", "40W"],
        "super_default": "40W",
        "on": {"10W": 4, "15W": 4},
    },
    "jetson-agx-orin-32gb": {
        "module": "3701-0004",
        "carrier": "3737-0000",
        "model": AGX_MODEL,
        "kb": 31_000_000,
        "cores": 8,
        "sm": 14,
        "plain": ["MAXN", "MODE_15W", "MODE_30W", "MODE_40W"],
        "default": "MODE_30W",
        "on": {"MODE_30W": 0},  # not known
    },
    "jetson-agx-orin-64gb": {
        "module": "3701-0005",
        "carrier": "3737-0000",
        "model": AGX_MODEL,
        "kb": 64_000_000,
        "cores": 12,
        "sm": 16,
        "plain": ["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"],
        "default": "MODE_30W",
        "on": {"MODE_15W": 6, "MODE_30W": 8},
    },
    "jetson-agx-thor": {
        "module": "3834-0008",
        "carrier": "4071-0000",
        "model": THOR_MODEL,
        "kb": 127_926_272,
        "cores": 14,
        "sm": 20,
        "plain": ["MAXN", "120W", "90W", "70W"],
        "default": "120W",
        "on": {"120W": 0},  # not known
        "chip": "tegra264",
    },
}
ORIN, THOR = ("6.0", "6.1", "6.2", "7.2"), ("7.0", "7.1", "7.2")
ZONES = {"cpu-thermal": 47_500, "gpu-thermal": 45_250, "soc0-thermal": 44_000, "tj-thermal": 47_500}


def jetson(board: str, jetpack: str, *, flashed_super: bool = False) -> dict[str, Any]:
    about, system = BOARDS[board], JETPACKS[jetpack]
    thor = about.get("chip") == "tegra264"
    modes = about["super" if flashed_super else "plain"]
    mode = about["super_default" if flashed_super else "default"]
    end = "-super" if flashed_super else ""
    conf = "jetson-agx-thor-devkit" if thor else "jetson-orin-nano-devkit"
    conf = "jetson-agx-orin-devkit" if "agx-orin" in board else conf
    part, sku = about["module"].split("-")
    python = ".".join(system["python"].split(".")[:2])
    venv = f"opt/accrue/venv/lib/python{python}/site-packages"
    dist = f"usr/lib/python{python}/dist-packages"
    files = {
        "proc/device-tree/model": about["model"] + (" Super" if flashed_super else "") + "\0",
        "proc/device-tree/compatible": "\0".join(
            (
                f"nvidia,p{about['carrier']}+p{about['module']}{end}",
                f"nvidia,p{about['module']}",
                f"nvidia,{about.get('chip', 'tegra234')}",
                "",
            )
        ),
        "proc/meminfo": f"MemTotal: {about['kb']} kB\nMemAvailable: {about['kb'] * 4 // 5} kB\n",
        "etc/nv_tegra_release": f"# {system['release']}, GCID: 1, BOARD: generic, EABI: aarch64\n",
        "etc/nv_boot_control.conf": f"TNSPEC {part}-300-{sku}-R.1-1-1-{conf}{end}-\n",
        "etc/os-release": f'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="{system["os"]}"\n',
        "etc/nvpmodel.conf": "".join(
            f"< POWER_MODEL ID={id} NAME={name} >\n" for id, name in enumerate(modes)
        ),
        "var/lib/nvpmodel/status": f"pmode:{modes.index(mode):04d}\n",
        "var/lib/dpkg/status": (
            "Package: nvidia-jetpack\nStatus: install ok installed\n"
            f"Version: {system['package']}\n\n"
            "Package: python3-libnvinfer\nStatus: install ok installed\n"
            f"Version: {system['tensorrt']}\n"
        ),
        "usr/local/cuda/version.json": json.dumps({"cuda": {"version": system["cuda"]}}),
        "sys/devices/system/cpu/present": f"0-{about['cores'] - 1}\n",
        "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
        "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
        "sys/class/hwmon/hwmon3/oc3_event_cnt": "0\n",
        **{
            f"sys/class/thermal/thermal_zone{n}/{key}": f"{value}\n"
            for n, (name, heat) in enumerate(ZONES.items())
            for key, value in (("type", name), ("temp", heat))
        },
        "sys/class/thermal/thermal_zone9/type": "cv0-thermal\n",  # off: its temp fails to read
        "sys/class/thermal/cooling_device2/type": "gpu-throttle-alert\n",
        "sys/class/thermal/cooling_device2/cur_state": "0\n",
        **(
            {
                "sys/class/hwmon/hwmon5/name": "ina238\n",
                "sys/class/hwmon/hwmon5/power1_input": "38500000\n",
                "sys/class/hwmon/hwmon5/in1_label": "VIN\n",
            }
            if thor
            else {
                "sys/class/hwmon/hwmon5/name": "ina3221\n",
                "sys/class/hwmon/hwmon5/in1_label": "VDD_IN\n",
                "sys/class/hwmon/hwmon5/in1_input": "5000\n",
                "sys/class/hwmon/hwmon5/curr1_input": "1280\n",
            }
        ),
    }
    packages = [
        ["numpy", system["numpy"], venv],
        ["onnxruntime-gpu" if system["ort"] else "onnxruntime", system["ort"] or "1.23.2", venv],
        ["cuda-bindings", system["bindings"], venv],
        ["tensorrt", system["metadata"], dist],
    ]
    on = about.get("on", {}).get(mode, about["sm"])
    gpu = ["TensorrtExecutionProvider", "CUDAExecutionProvider"] if system["ort"] else []
    return {
        "source": SOURCE,
        "machine": "aarch64",
        "python": system["python"],
        "glibc": system["glibc"],
        "cuda": {"name": "NVIDIA Thor", "compute_capability": "11.0"}
        | ({} if thor else {"name": "Orin", "compute_capability": "8.7"})
        | {"sm_count": on, "usable": True},
        "providers": [*gpu, "CPUExecutionProvider"],
        "packages": packages,
        "files": files,
    }


def plain(machine: str, os: str, files: dict[str, str], **more: Any) -> dict[str, Any]:
    """A computer that is no Jetson."""
    name, version = os.split("-")
    python = more.pop("python", "3.11.2")
    venv = f"opt/accrue/venv/lib/python{python.rpartition('.')[0]}/site-packages"
    return {
        "source": SOURCE,
        "machine": machine,
        "python": python,
        "glibc": more.pop("glibc", "2.36"),
        "cuda": None,
        "providers": ["CPUExecutionProvider"],
        "packages": [["numpy", "2.4.6", venv], ["onnxruntime", "1.31.1", venv]],
        "files": {"etc/os-release": f'ID={name}\nVERSION_ID="{version}"\n', **files},
        **more,
    }


def all_of_them() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for board in BOARDS:
        for jetpack in THOR if board == "jetson-agx-thor" else ORIN:
            found[f"{board}.{jetpack}"] = jetson(board, jetpack)
            if "super" in BOARDS[board] and jetpack in ("6.2", "7.2"):
                found[f"{board}.{jetpack}.super"] = jetson(board, jetpack, flashed_super=True)
    zone = "sys/class/thermal/thermal_zone0"
    found["arm64.debian-13"] = plain(
        "aarch64",
        "debian-13",
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
            "proc/meminfo": "MemTotal: 8183808 kB\nMemAvailable: 6291456 kB\n",
            f"{zone}/type": "cpu-thermal\n",
            f"{zone}/temp": "51200\n",
            "sys/class/hwmon/hwmon2/name": "rpi_volt\n",
            "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "0\n",
        },
        python="3.13.5",
        glibc="2.41",
    )
    memory = {"proc/meminfo": "MemTotal: 32000000 kB\nMemAvailable: 28000000 kB\n"}
    package = {f"{zone}/type": "x86_pkg_temp\n", f"{zone}/temp": "55000\n"}
    found["x86-cpu.debian-12"] = plain("x86_64", "debian-12", memory | package)
    rtx = plain("x86_64", "debian-12", memory | package)
    rtx["cuda"] = {
        "name": "NVIDIA GeForce RTX 4090",
        "compute_capability": "8.9",
        "sm_count": 128,
        "usable": True,
    }
    venv = rtx["packages"][0][2]
    rtx["packages"] += [["tensorrt-rtx", "1.7.1.1", venv], ["cuda-bindings", "13.0.1", venv]]
    found["x86-rtx.debian-12"] = rtx
    return found


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, about in all_of_them().items():
        (HERE / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")
