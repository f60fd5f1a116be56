"""What commands take and refuse, and how they end."""

from pathlib import Path

import pytest

import tfconv
from tfconv import cli, demo
from tfconv.commands import process
from tfconv.commands import status as status_command


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required"),
        (["paint"], "invalid choice"),
        (["status", "--yaml"], "unrecognized arguments"),
        (["build", "--jobs", "0"], "must be at least 1"),
        (["build", "--jobs", "two"], "invalid integer value"),
        (["demo", "--epochs", "-1"], "must be at least 1"),
        (["demo", "--seed", "-1"], "must be from 0"),
        (["demo", "--output"], "expected one argument"),
        (["convert", "net.keras"], "required: --to"),
        (["convert", "net.keras", "--to", "pdf"], "invalid choice"),
        (["convert", "net.keras", "--to", "tflite", "--opset", "15"], "--opset: not allowed"),
        (["convert", "net.keras", "--to", "onnx", "--keep-native"], "--keep-native: not allowed"),
        (["convert", "net.keras", "--to", "saved_model", "--data", "x"], "--data: not allowed"),
        (["convert", "net.keras", "--to", "onnx", "--quantize", "int8"], "with --to onnx"),
        (["convert", "net.keras", "--to", "onnx", "--opset", "8"], "--opset: invalid choice"),
        (["inspect"], "required: PATH"),
    ],
)
def test_bad_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["--version"])
    assert error.value.code == 0
    assert tfconv.__version__ in capsys.readouterr().out


def test_demo_gets_its_arguments(monkeypatch):
    given = []
    monkeypatch.setattr(demo, "run", lambda *its: given.append(its))
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", "--output", "there", "--epochs", "3", "--seed", "4"]) == 0
    assert given == [(Path("demo-output"), 15, 0), (Path("there"), 3, 4)]


def test_interrupt(capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(status_command, "collect_status", interrupt)
    assert cli.main(["status"]) == process.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err
