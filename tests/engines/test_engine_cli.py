"""`accrue engine` on a machine without a GPU, as an operator and a script see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from accrue.cli.main import main
from accrue.device import describe
from accrue.vision.engines import CANDIDATES

pytestmark = pytest.mark.skipif(
    describe().gpu is not None, reason="asks what happens without a GPU; here is one"
)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def accrue(
    tmp_path: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """One call of the command; keywords are environment variables."""
    monkeypatch.setenv("ACCRUE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ACCRUE_BUNDLE", str(tiny_bundle))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))

    def run(*words: object, **variables: str) -> Done:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as left:
                main([str(word) for word in words])
        assert isinstance(left.value.code, int)
        return Done(left.value.code, *capsys.readouterr())

    return run


def test_status_prints_the_chain_with_a_reason_for_each(accrue: Run, tmp_path: Path) -> None:
    """The last line of it serves, and nothing is written by looking."""
    found = accrue("engine", "status")
    assert (found.returncode, found.stderr) == (0, "")
    chain = {line.split()[0]: line.split(maxsplit=1)[1] for line in found.stdout.splitlines()[6:]}
    assert list(chain) == list(CANDIDATES)
    assert chain["tensorrt"] == chain["tensorrt-rtx"] == "no NVIDIA GPU was found"
    assert chain["onnx-cpu"] == "serves"
    assert not (tmp_path / "state").exists()


def test_status_for_machines_has_the_chain_and_the_device(accrue: Run) -> None:
    found = json.loads(accrue("engine", "status", "--json").stdout)
    assert found["serves"] == "onnx-cpu"
    assert [step["candidate"] for step in found["chain"]] == list(CANDIDATES)
    assert [step["serves"] for step in found["chain"]] == [False] * 4 + [True]
    assert [step["filter"] for step in found["chain"]] == ["gpu", "gpu", "setting", "gpu", None]
    assert found["device"]["gpu"] is None
    assert found["engines"] == found["unreadable"] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["build", "--flavour", "tensorrt"], 1, "no tensorrt engine can be built here: no NVIDIA"),
        (["build", "--flavour", "onnx"], 2, "--flavour is 'onnx'; expected tensorrt or tensorrt-"),
        (["build", "--precision", "int8"], 2, "--precision is 'int8'; expected fp16 or fp32"),
        (["build", "--batch", "8"], 2, "--batch is '8'; expected three whole numbers: LEAST,BEST,"),
        (["build", "--batch", "8,1,1"], 2, "batch profile is 8,1,1; expected 1 <= LEAST <= BEST"),
        (["verify"], 3, "no engine for this encoder and device in "),
    ],
)
def test_what_cannot_be_done_is_one_line_with_its_exit_code(
    accrue: Run, words: list[str], code: int, message: str
) -> None:
    done = accrue("engine", *words)
    assert done.returncode == code
    assert done.stderr.startswith(f"accrue: {message}")
    assert done.stdout == ""


def test_cleaning_an_empty_folder_removes_nothing(accrue: Run) -> None:
    done = accrue("engine", "clean", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["removed"] == []


def test_a_setting_that_cannot_be_met_is_said_on_stderr_and_the_answer_comes(
    accrue: Run, photo_file: Callable[..., Path]
) -> None:
    """stdout is the same as ever."""
    photo = photo_file()
    plain = accrue("predict", photo, "--json")
    wanted = accrue("predict", photo, "--json", ACCRUE_ENCODER="onnx-cuda")
    assert plain.stderr == ""
    assert wanted.stderr == (
        "accrue: no NVIDIA GPU was found; serving with ONNX Runtime on the CPU\n"
    )
    assert wanted.stdout == plain.stdout
    assert wanted.returncode == 0


def test_a_realisation_that_is_none_is_refused_with_the_list(accrue: Run) -> None:
    done = accrue("engine", "status", ACCRUE_ENCODER="gpu")
    assert done.returncode == 2
    assert "encoder is 'gpu' (environment ACCRUE_ENCODER); expected auto, tensorrt," in done.stderr


def test_the_engines_stand_where_the_setting_says(accrue: Run, tmp_path: Path) -> None:
    found = accrue("engine", "status", ACCRUE_ENGINES=str(tmp_path / "elsewhere"))
    assert f"engines   {tmp_path}/elsewhere\n" in found.stdout
