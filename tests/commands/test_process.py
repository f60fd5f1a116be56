"""Commands in processes of their own: how they start, and end when they are interrupted."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tensorflow as tf

import tfconv
from tfconv.commands import process

ROOT = Path(__file__).resolve().parents[2]


def started(command, *folders, **environment):
    """Starts Python on a command; with what is in folders, and tfconv, to import."""
    path = map(str, filter(None, [*folders, ROOT, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **environment}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # of the tests
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(program):
    """Exit status, standard output and standard error of what was started."""
    printed = program.communicate(timeout=300)
    return program.returncode, *printed


INSTALLED = "import sys, tfconv_command; sys.exit(tfconv_command.main())"
WAYS = {"installed": ["-c", INSTALLED], "module": ["-m", "tfconv"]}


@pytest.fixture(params=["installed", pytest.param("module", marks=pytest.mark.late)])
def way(request):
    """How the command is started."""
    if request.param == "module" and sys.version_info < (3, 10):
        pytest.skip("before 3.10, Python does not say what it was started with")
    return WAYS[request.param]


@pytest.fixture
def fake(tmp_path):
    """Makes a package tensorflow of some lines, and returns the folder that it is in."""

    def make(lines):
        package = tmp_path / "fake" / "tensorflow"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("import os\n" + textwrap.dedent(lines))
        return package.parent

    return make


def test_status_json(way):
    """Without a line of TensorFlow's own."""
    code, out, err = ended(started([*way, "status", "--json"], TFCONV_NATIVE="0"))
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["tfconv"] == tfconv.__version__
    assert told["tensorflow"] == tf.__version__
    assert told["python"] == sys.version.split()[0]
    assert int(told["keras"].split(".")[0]) >= 2
    assert told["native"]["in_force"] == "portable"
    assert "TFCONV_NATIVE=0" in told["native"]["reason"]


ANSWERED_AT_ONCE = [
    ["--version"],
    ["--help"],
    *(
        [name, "--help"]
        for name in ("convert", "layers", "predict", "show", "compare", "build", "demo")
    ),
    [],
    ["paint"],
    ["layers", "Convolution4D"],
    ["compare", "Conv2D", "Convolution4D"],
    ["compare", "--csv", "nowhere/made.csv"],
    ["convert", "net.keras", "--to", "pdf"],
    ["convert", "nothing.keras", "--to", "onnx"],
    ["convert", __file__, "--to", "onnx"],
    ["convert", __file__, "--to", "onnx", "--keep-native"],
    ["inspect", "nothing.tflite"],
    ["profile", "nothing.keras"],
    ["profile", __file__],
    ["show", __file__, "--image", "nothing.png"],
    ["predict", "nothing.png", "--network", "RedNet50"],
    ["predict", __file__, "--network", "RedNet51"],
    ["evidence", "--markdown", "nowhere/made.md"],
    ["evidence", "--folder", __file__],
    ["build"],
    ["demo", "--output", __file__],
]


def test_answers_that_need_no_tensorflow(fake, tmp_path):
    """Nor do they import packages that take their time."""
    script = f"""
        import json, sys, tfconv_command
        for arguments in {ANSWERED_AT_ONCE!r}:
            sys.argv[1:] = arguments
            try:
                status = tfconv_command.main()
            except SystemExit as error:
                status = error.code
            print(flush=True)
            print("@@" + json.dumps([arguments, status]), flush=True)
        print(sorted({{"tensorflow", "keras", "numpy", "rich"}}.intersection(sys.modules)))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    folder = fake("raise AssertionError('TensorFlow was imported')")
    program = started([str(tmp_path / "script.py")], folder, CXX="no-such-compiler")
    code, out, err = ended(program)
    assert code == 0 and "Traceback" not in err, err
    assert out.splitlines()[-1] == "[]"
    told = [json.loads(line[2:]) for line in out.splitlines() if line.startswith("@@")]
    assert [arguments for arguments, _ in told] == ANSWERED_AT_ONCE
    for arguments, status in told:
        right = "--version" in arguments or "--help" in arguments
        assert (status == 0) == right and status in (0, 1, 2), arguments


def test_module_answers_without_tensorflow(fake):
    folder = fake("raise AssertionError('TensorFlow was imported')")
    code, out, err = ended(started([*WAYS["module"], "--version"], folder))
    if sys.version_info >= (3, 10):
        assert (code, out, err) == (0, f"tfconv {tfconv.__version__}\n", "")


NOISE = "os.write(2, b'oneDNN is on\\n')\n"


@pytest.mark.parametrize(
    "lines, message",
    [
        (NOISE + "raise ImportError('libstdc++ is too old')", "libstdc++ is too old"),
        (NOISE + "raise RuntimeError('no luck today')", "no luck today"),
        (NOISE + "os.write(2, b'needs AVX'); os.abort()", "needs AVX"),
        ("raise ModuleNotFoundError('none', name='tensorflow')", "pip install tensorflow"),
    ],
)
def test_tensorflow_that_does_not_start(way, fake, lines, message):
    """What it says while it starts is seen only if it does not get to its end."""
    code, out, err = ended(started([*way, "status"], fake(lines)))
    assert code != 0 and out == ""
    assert message in err
    assert ("oneDNN is on" in err) == ("oneDNN" in lines)


def test_interrupted_while_starting(way, fake):
    folder = fake(NOISE + "print('here', flush=True)\nimport time\ntime.sleep(60)")
    program = started([*way, "status"], folder)
    assert program.stdout.readline() == "here\n"
    program.send_signal(signal.SIGINT)
    assert ended(program) == (process.INTERRUPTED, "", "interrupted\n")


# What interrupts meet: code that clears away, finalizers that cannot raise, code that makes
# something else of them, and keys that are held down.
RUNNING = {
    "clears away": """
        try:
            wait()
        finally:
            time.sleep(0.2)
            print("cleared", flush=True)
    """,
    "finalizer": """
        class Resource:
            def __del__(self):
                wait()
        resource = Resource()
        del resource
        time.sleep(60)
    """,
    "other error": """
        try:
            wait()
        except BaseException as error:
            raise RuntimeError("failed") from error
    """,
    "failure": """
        from tfconv.commands.messages import fail
        try:
            wait()
        except BaseException as error:
            return fail("it failed.", error)
    """,
}


@pytest.mark.parametrize("what", RUNNING)
def test_interrupted_while_running(what, tmp_path):
    lines = f"""
import time

def wait():
    print("here", flush=True)
    time.sleep(60)

def main():
{textwrap.indent(textwrap.dedent(RUNNING[what]), "    ")}
"""
    (tmp_path / "victim.py").write_text(lines)
    folder = ROOT / "tfconv" / "commands"  # for `process` to be there without the package
    script = "import sys, types; sys.modules['tfconv'] = p = types.ModuleType('tfconv'); "
    script += f"p.__path__ = [{str(folder.parent)!r}]; "
    script += "from tfconv.commands.process import interruptible; sys.exit(interruptible('victim'))"
    program = started(["-c", script], tmp_path)
    assert program.stdout.readline() == "here\n"
    for _ in range(2):
        program.send_signal(signal.SIGINT)
    cleared = "cleared\n" if what == "clears away" else ""
    assert ended(program) == (process.INTERRUPTED, cleared, "interrupted\n")
