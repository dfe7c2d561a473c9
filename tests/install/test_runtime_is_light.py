"""The installed runtime: small, without torch, importable as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 250 * 10**6
FORBIDDEN = (
    *("torch", "onnx", "tensorrt", "tensorrt_rtx", "cuda"),
    *("scipy", "cv2", "tokenizers", "accrue_export"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the locked runtime, as `pip install --target` leaves it."""
    target = tmp_path_factory.mktemp("runtime")
    locked = ["--require-hashes", "-r", str(ROOT / "requirements" / "runtime.txt")]
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*command, "--target", str(target), *locked], check=True)
    shutil.copytree(ROOT / "runtime" / "accrue", target / "accrue")
    for cache in list(target.rglob("__pycache__")):
        shutil.rmtree(cache)
    return target


@pytest.mark.slow
def test_it_is_at_most_250_mb_with_all_it_depends_on(installed: Path) -> None:
    size = sum(path.stat().st_size for path in installed.rglob("*") if path.is_file())
    assert size <= LIMIT_BYTES, f"{size / 1e6:.0f} MB"
    print(f"installed runtime: {size / 1e6:.0f} MB")


@pytest.mark.slow
def test_every_module_imports_where_torch_onnx_and_tensorrt_are_absent(installed: Path) -> None:
    code = f"""
import importlib, pkgutil, sys
EXTRA = {{  # parts that need an extra, by what is then missing
    "accrue.service.http": ("starlette", "anyio", "uvicorn"),
    "accrue.service.console": ("starlette", "anyio", "jinja2"),
    "accrue.sync": ("paho", "cryptography"),
    "accrue.service": ("paho", "cryptography"),
    "accrue.cli": ("paho", "cryptography"),
}}
sys.path[:0] = [{str(installed)!r}]
import accrue
assert accrue.__file__.startswith({str(installed)!r}), accrue.__file__
for module in pkgutil.walk_packages(accrue.__path__, "accrue."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        part = next((name for name in EXTRA if module.name.startswith(name)), None)
        assert part is not None, (module.name, error)
        assert error.name.partition(".")[0] in EXTRA[part], (module.name, error)
for part in ("box", "watch", "daemon", "access"):
    assert f"accrue.service.{{part}}" in sys.modules, part
found = [name for name in {FORBIDDEN!r} if name in sys.modules]
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
