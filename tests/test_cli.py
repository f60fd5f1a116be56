"""The command line."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import tfconv
from tfconv import _build, catalog, catalog_tables, cli, demo, evidence, export, testing
from tfconv._compat import keras
from tfconv.commands import build, compare, process
from tfconv.commands import status as status_command
from tfconv.commands.arguments import check_layers, layer_names

ROOT = Path(__file__).resolve().parents[1]


# Processes of their own.


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


@pytest.fixture(params=WAYS)
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
    *([name, "--help"] for name in ("convert", "layers", "show", "compare", "build", "demo")),
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


# Commands in this process.


def test_status_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["status"]) == 0
    printed = capsys.readouterr().out
    for word in ("TensorFlow", tf.__version__, "Keras", "CPU", "native library", "ops in force"):
        assert word in printed
    assert tfconv.native_status().in_force in printed


def test_layers_json(capsys):
    assert cli.main(["layers", "--json"]) == 0
    rows = {row["family"]: row for row in json.loads(capsys.readouterr().out)}
    listed = [name for row in rows.values() for name in row["layers"]]
    assert sorted(listed) == sorted(tfconv.layers.__all__)
    assert rows["Involution"]["ranks"] == [1, 2, 3]
    assert rows["DeformableConv"]["replaces"] == ["Conv2D"]
    assert rows["CondDense"]["replaces"] == ["Dense"]
    assert all(row["source"] for row in rows.values())


@pytest.mark.parametrize("width", [70, 200])
def test_layers_table(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["layers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for family in catalog.families():
        first, second = (line for line in lines if line.split()[:1] == [family.family])
        assert first.split()[1].strip(",") == str((family.ranks or ["any"])[0])
        assert second.split()[1:] == [str(n or "-") for n in family.checks.values()]
    for check in testing.CHECKS:
        assert any(check.name in line for line in lines)
    assert "python -m tfconv layers --check" in lines[-1]


def test_layers_chosen(capsys):
    """By the names of families and of layers, in any case."""
    assert cli.main(["layers", "conv2d", "CondDense", "Conv", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["family"] for row in rows] == ["CondDense", "Conv"]
    assert rows[1]["layers"] == ["Conv1D", "Conv2D", "Conv3D"]
    assert rows[1]["checks"]["output shape"] >= 3
    assert rows[1]["failures"] == {}


def test_layers_unknown(capsys):
    assert cli.main(["layers", "CondDense", "Convolution4D"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Received: 'Convolution4D'" in printed.err
    assert "SplitTransformMerge" in printed.err


def test_names_that_are_known_without_tensorflow():
    """They are those that the commands take."""
    assert layer_names() == tfconv.layers.__all__
    families = {catalog.family_name(name) for name in tfconv.layers.__all__}
    assert families.isdisjoint(compare.OTHERS)
    assert {each.name for each in evidence.candidates()} == {*families, *compare.OTHERS}
    for name in itertools.chain(tfconv.layers.__all__, families, compare.OTHERS):
        check_layers([name.upper()], compare.OTHERS)
        assert evidence.candidates([name.upper()])


def test_layers_are_checked(capfd):
    """All checks of a small layer, and not a word but the answer."""
    assert cli.main(["layers", "WeightedSum", "--check", "--json"]) == 0
    printed = capfd.readouterr()
    (row,) = json.loads(printed.out)
    assert "Saved" not in printed.err
    went_through = [name for name, count in row["checks"].items() if count]
    assert len(went_through) >= len(testing.CHECKS) - 1
    assert row["failures"] == {name: [] for name in went_through}


def test_layers_that_fail(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    seen = []

    def quick_look(case):
        """Fails for the first."""
        print("noise of Python")
        os.write(2, b"noise of C++")
        seen.append(case)
        assert len(seen) > 1, "the first is bad"

    def other(case):
        """Is for the second only."""

    checks = (testing.Check(quick_look), testing.Check(other, lambda case: not case.any_size))
    monkeypatch.setattr(testing, "CHECKS", checks)
    assert cli.main(["layers", "CondDense", "--check"]) == 1
    printed = capfd.readouterr()
    cases = [case for case in testing.layer_cases() if case.layer_class is tfconv.CondDense]
    assert seen == cases
    row = next(line for line in printed.out.splitlines() if line.startswith("CondDense"))
    assert row.split() == ["CondDense", f"{len(cases) - 1}/{len(cases)}", "-"]
    assert "1  quick look  Fails for the first." in printed.out
    words = " ".join(printed.out.split())
    assert "check `quick look` failed for CondDense(units=5" in words
    assert "AssertionError: the first is bad" in words
    assert "noise" not in printed.out + printed.err
    assert cli.main(["layers", "CondDense", "--check", "--json"]) == 0  # the second time round


@pytest.mark.parametrize(
    "names, listed",
    [
        (["Conv1D", "DepthwiseConv1D", "Conv2D"], "Conv1D, 2D, DepthwiseConv1D"),
        (["Conv2DTranspose", "Conv3DTranspose"], "Conv2DTranspose, 3D"),
        (["Dense"], "Dense"),
        ([], ""),
    ],
)
def test_listed(names, listed):
    assert catalog_tables.listed(names) == listed


@pytest.mark.parametrize(
    "source, cited",
    [
        (
            "Li et al., A Title, with a Comma, arXiv:2103.06255, equation 4",
            "Li et al., arXiv:2103.06255",
        ),
        ("arXiv:1904.04971, section 3", "arXiv:1904.04971"),
        ("LeCun, A Report, 1989", "LeCun, A Report, 1989"),
    ],
)
def test_cited(source, cited):
    assert catalog_tables.cited(source) == cited


@pytest.mark.parametrize(
    "found, stale, others, reason",
    [
        (None, False, [], "there is no library yet"),
        (None, False, ["2.99"], "there is a library for TensorFlow 2.99 only"),
        ("libtfconv_ops.so", True, [], "its sources have changed"),
        ("libtfconv_ops.so", False, [], None),
    ],
)
def test_status_says_when_to_build(capsys, monkeypatch, found, stale, others, reason):
    info = {"tf_version": tf.__version__, "compiler_version": "g++ 1", "date": "today"}
    answer = None if found is None else (Path(found), info)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TFCONV_NATIVE", "0")
    monkeypatch.setattr(_build, "find_library", lambda version: answer)
    monkeypatch.setattr(_build, "built_versions", lambda: others)
    monkeypatch.setattr(_build, "is_stale", lambda info: stale)
    rebuild = status_command.collect_status()["rebuild"]
    assert (rebuild or "").startswith(reason or "")
    assert (rebuild is None) == (reason is None)
    assert cli.main(["status"]) == 0
    printed = capsys.readouterr().out
    (advice,) = (line for line in printed.splitlines() if line.startswith("to do"))
    assert ("python -m tfconv build" in advice) == (reason is not None)
    assert ("g++ 1" in printed) == (found is not None)


@pytest.mark.parametrize(
    "in_force, switch, reason",
    [("native", "1", None), ("portable", "1", "it cannot be used"), ("portable", "0", None)],
)
def test_status_of_a_library_that_cannot_be_used(monkeypatch, in_force, switch, reason):
    monkeypatch.setenv("TFCONV_NATIVE", switch)
    monkeypatch.setattr(_build, "is_stale", lambda info: False)
    found = SimpleNamespace(in_force=in_force)
    assert status_command._why_rebuild(found, (Path("lib.so"), {})) == reason


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


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Takes the place of the build: does what a test says, and remembers its arguments."""
    config = _build.TensorFlowConfig(tf.__version__, (), (), tf.sysconfig.get_include())
    monkeypatch.setattr(_build, "tensorflow_config", lambda: config)
    monkeypatch.setattr(_build, "default_build_dir", lambda: tmp_path / "objects")
    library = tmp_path / _build.LIBRARY_NAME
    library.touch()
    calls = []

    def prepare(error=None, warnings="", verified=True):
        result = _build.BuildResult(library, {}, (), ("cc/a.cc", "cc/b.cc"), warnings, 3.0)

        def run(**arguments):
            calls.append(arguments)
            if error is not None:
                raise _build.BuildError(error)
            arguments["progress"](1, 1, "cc/a.cc")
            return result

        monkeypatch.setattr(_build, "build", run)
        if verified:
            monkeypatch.setattr(build, "_verify", lambda library: 0)
        return calls

    return prepare


def test_build_without_compiler(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert cli.main(["build"]) == 1
    assert "CXX=no-such-compiler" in capsys.readouterr().err


def test_build_that_does_not_compile(capsys, stand_in):
    calls = stand_in(error="cc/empty.cc failed:\n  no luck today")
    assert cli.main(["build", "--jobs", "1"]) == 1
    said = capsys.readouterr().err
    assert "could not be built" in said and "cc/empty.cc failed:\n  no luck today" in said
    assert calls[0]["jobs"] == 1


def test_build_reports_a_library_that_does_not_load(capsys, stand_in, tmp_path):
    """An empty file is no library of the package."""
    stand_in(verified=False)
    assert cli.main(["build"]) == 1
    printed = capsys.readouterr()
    assert "the library was built, but" in printed.err
    assert f"{tmp_path / _build.LIBRARY_NAME}\n  2 compiled, 3 s\n" in printed.out


def test_build_tells_of_warnings_and_forces(capsys, stand_in, tmp_path):
    calls = stand_in(warnings="a.cc:1:1: warning: hardly anything")
    old = tmp_path / "objects" / "old.o"
    old.parent.mkdir()
    old.touch()
    assert cli.main(["build"]) == 0
    printed = capsys.readouterr()
    assert "The compiler had warnings" in printed.out and old.exists()
    assert "hardly anything" not in printed.out + printed.err
    assert cli.main(["build", "--force", "--verbose"]) == 0
    assert "The compiler had warnings" not in capsys.readouterr().out
    assert not old.exists()
    assert [call["verbose"] for call in calls] == [False, True]


@pytest.mark.parametrize(
    "told, message",
    [
        ({"in_force": "native", "library": "lib.so", "isa": "avx2"}, None),
        ({"in_force": "native", "library": "other.so", "isa": "avx2"}, "another one is loaded"),
        ({"in_force": "portable", "reason": "bad luck"}, "bad luck"),
        (None, "loading it failed"),
    ],
)
def test_verify(capsys, monkeypatch, told, message):
    script = "raise SystemExit('no')" if told is None else f"print('@@' + {json.dumps(told)!r})"
    monkeypatch.setattr(build, "_VERIFY", script)
    assert build._verify(Path("lib.so")) == (0 if message is None else 1)
    printed = capsys.readouterr()
    assert (message or "avx2") in (printed.err if message else printed.out)


@pytest.mark.parametrize("switch", ["0", "1"])
def test_verify_tells_what_keeps_the_library_out_of_use(capsys, monkeypatch, switch):
    told = {"in_force": "native", "library": "lib.so", "isa": "base"}
    monkeypatch.setattr(build, "_VERIFY", f"print('@@' + {json.dumps(told)!r})")
    monkeypatch.setenv("TFCONV_NATIVE", switch)
    assert build._verify(Path("lib.so")) == 0
    assert ("TFCONV_NATIVE=0 keeps it out of use" in capsys.readouterr().out) == (switch == "0")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A folder with a saved model, and examples for it."""
    folder = tmp_path_factory.mktemp("network")
    inputs = keras.Input((6, 5, 4), name="image")
    keras.Model(inputs, tfconv.Involution2D(3, groups=2)(inputs)).save(folder / "net.keras")
    images = np.ones([8, 6, 5, 4], np.float32)
    np.save(folder / "images.npy", images)
    np.savez(folder / "image.npz", image=images)
    np.savez(folder / "two.npz", image=images, scale=images)
    return folder


@pytest.fixture
def conversions(monkeypatch):
    """Puts other functions in place of the exports; returns their arguments as they are called."""
    calls = []

    def recorded(name):
        def convert(model, path, *positional, **named):
            assert model.layers[-1].groups == 2
            calls.append((name, path, positional, named))
            return f"report of {name}"

        return convert

    for name in ("to_tflite", "to_onnx", "to_saved_model"):
        monkeypatch.setattr(export, name, recorded(name), raising=False)
    return calls


def test_convert_gets_its_arguments(capsys, network, conversions):
    model, output = network / "net.keras", network / "other"
    options = ["--quantize", "mixed", "--keep-native", "--data", network / "two.npz"]
    for arguments in (
        ["tflite"],
        ["tflite", "--output", output, *options],
        ["onnx", "--opset", "13", "--data", network / "images.npy"],
        ["saved_model"],
        ["saved_model", "--output", output, "--keep-native"],
    ):
        assert cli.main(["convert", str(model), "--to", *map(str, arguments)]) == 0
        assert f"report of to_{arguments[0]}" in capsys.readouterr().out
    plain, mixed, onnx, saved, native = conversions
    default = {"quantize": None, "representative_data": None, "keep_native": False}
    assert plain == ("to_tflite", network / "net.tflite", (), default)
    data = mixed[3].pop("representative_data")
    assert mixed == ("to_tflite", output, (), {"quantize": "mixed", "keep_native": True})
    assert sorted(data) == ["image", "scale"]
    assert onnx[:3] == ("to_onnx", network / "net.onnx", (13,))
    assert onnx[3]["representative_data"].shape == (8, 6, 5, 4)
    assert saved == ("to_saved_model", network / "net", (), {"keep_native": False})
    assert native == ("to_saved_model", output, (), {"keep_native": True})


def test_convert_takes_an_only_array_by_any_name(network, conversions):
    data = str(network / "image.npz")
    command = ["convert", str(network / "net.keras"), "--to", "tflite", "--data", data]
    assert cli.main(command) == 0
    ((*_, named),) = conversions
    assert named["representative_data"].shape == (8, 6, 5, 4)


def test_convert_and_inspect(capsys, network, tmp_path):
    """What one writes the other reads; a file that is there stays unless told otherwise."""
    path = tmp_path / "net.tflite"
    command = ["convert", str(network / "net.keras"), "--to", "tflite", "--output", str(path)]
    path.write_text("mine")
    assert cli.main(command) == 1
    assert "--force overwrites it" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert cli.main([*command, "--force"]) == 0
    printed = capsys.readouterr()
    assert "CONV_2D" in printed.out
    assert list(tmp_path.iterdir()) == [path]
    assert cli.main(["inspect", str(path)]) == 0
    assert "involution2d" in capsys.readouterr().out
    assert cli.main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["operators"]["CONV_2D"] == 2
    assert facts["size"] == path.stat().st_size


@pytest.mark.parametrize(
    "model, options, message",
    [
        ("nothing.keras", [], "nothing.keras"),
        ("images.npy", [], "images.npy"),
        ("text.keras", [], "is there, but is no Keras file"),
        ("none.keras", [], "is there, but is empty"),
        ("folder.keras", [], "is there, but is a folder"),
        ("cut.keras", [], "is there, but is damaged or cut off"),
        ("image.npz", [], "is there, but is no Keras file: it has no config.json"),
        ("net.h5", [], "its name must end with .keras"),
        ("hdf5.keras", [], "its name must end with .h5"),
        ("net.keras", ["--quantize", "int8"], "`--data` is needed for --quantize int8"),
        ("net.keras", ["--data", "two.npz"], "`--data` needs"),
        ("net.keras", ["--data", "net.keras"], "config.json"),
        ("net.keras", ["--data", "empty.npz"], "`--data` must be"),
        ("net.keras", ["--data", "damaged.npz"], "`--data` must be"),
        ("net.keras", ["--data", "nothing.npz"], "nothing.npz"),
        ("net.keras", ["--output", "nowhere/net.tflite"], "`--output` must lie in a folder that"),
        ("net.keras", ["--output", "folder.keras", "--force"], "`--output` must be a file"),
    ],
)
def test_conversions_that_fail(capsys, monkeypatch, network, model, options, message):
    monkeypatch.chdir(network)
    Path("empty.npz").write_bytes(b"")
    np.savez_compressed("damaged.npz", image=np.random.default_rng(0).normal(size=1000))
    damaged = bytearray(Path("damaged.npz").read_bytes())
    damaged[64:4000] = bytes(len(damaged[64:4000]))
    Path("damaged.npz").write_bytes(damaged)
    Path("text.keras").write_text("text")
    Path("none.keras").touch()
    Path("folder.keras").mkdir(exist_ok=True)
    saved = Path("net.keras").read_bytes()
    Path("net.h5").write_bytes(saved)
    Path("cut.keras").write_bytes(saved[: len(saved) // 2])
    Path("hdf5.keras").write_bytes(b"\x89HDF\r\n\x1a\n" + saved)
    before = sorted(network.iterdir())
    assert cli.main(["convert", model, "--to", "tflite", *options]) == 1
    printed = capsys.readouterr()
    assert "nothing was converted" in printed.err and message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert sorted(network.iterdir()) == before


def test_nothing_to_inspect(capsys, tmp_path):
    assert cli.main(["inspect", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "there is nothing to inspect" in printed.err and f"'{tmp_path}'" in printed.err
    path = tmp_path / "net.keras"
    path.write_text("a model of Keras")
    assert cli.main(["inspect", str(path)]) == 1
    assert "`tfconv convert` converts" in capsys.readouterr().err


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
