"""What the build makes of a small tree of sources, and what it says when it cannot.

CMake and Ninja build it as they do the real one.
"""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.building.small_tree import (
    A_CPU,
    B_CPU,
    OP_UNIT,
    OPS,
    OTHERS,
    ROOT,
    SOURCES,
    call,
    exported,
    write,
    write_program,
)


def test_module_needs_the_standard_library_only():
    code = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('b', sys.argv[1]); "
        "m = u.module_from_spec(s); sys.modules['b'] = m; s.loader.exec_module(m); "
        "print(m.package_version())"
    )
    command = [sys.executable, "-I", "-S", "-c", code, ROOT / "tfconv" / "_build.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", done.stdout.strip())


@pytest.mark.late
def test_what_changed_is_built_again(tree, monkeypatch, capsys):
    steps = []
    first = tree.build(progress=lambda *step: steps.append(step))
    assert set(first.compiled) == A_CPU | B_CPU | OPS | OTHERS
    done, totals = [step[0] for step in steps], {step[1] for step in steps}
    assert done == [*range(1, len(steps) + 1)] and totals == {len(steps)}
    assert first.library == tree.library and all(path.is_file() for path in first.files)
    assert call(tree.library, "tfconv_value") == 1 and call(tree.library, "tfconv_xla") == 5
    assert first.info["tf_version"] == "9.9.1" and first.info["cuda_archs"] == []
    assert first.info["sources_hash"] == tree.module.sources_hash(tree.sources)
    lite = tree.output.parent / "libtfconv_lite.so"
    assert call(lite, "tfconv_lite_value") == 71
    assert "tfconv_other" not in exported(lite) and "tfconv_lite" not in exported(tree.library)
    assert (tree.root / "my objects" / "compile_commands.json").is_file()
    assert capsys.readouterr().err == ""

    before = tree.library.stat().st_mtime_ns
    second = tree.build(progress=lambda *step: pytest.fail(str(step)))
    assert second.compiled == () and second.info == first.info
    assert tree.library.stat().st_mtime_ns == before

    write(tree.sources, {"a/a.h": "#define A_VALUE 3\n"})
    third = tree.build()
    assert set(third.compiled) == A_CPU | {OP_UNIT}
    assert third.info["sources_hash"] != first.info["sources_hash"]
    assert call(tree.library, "tfconv_value") == 3
    write(tree.sources, {"b/b_cpu.cc": SOURCES["b/b_cpu.cc"] + "// a comment\n", "c/c_op.cc": ""})
    assert tree.compiled() == B_CPU | {OP_UNIT}
    exports = tree.sources / "lite" / "tfconv_lite.lds"
    exports.write_text(exports.read_text().replace("tfconv_lite_*", "tfconv_*"))
    assert tree.compiled(verbose=True) == set() and "tfconv_other" in exported(lite)
    assert "-shared" in capsys.readouterr().err

    tree.library.write_bytes(b"damaged")
    lite.unlink()
    assert tree.compiled() == set() and call(tree.library, "tfconv_value") == 3
    assert lite.is_file()

    # Kernels know no TensorFlow.
    assert tree.compiled(config=tree.config("9.10.0")) == OPS
    assert tree.compiled() == set()
    monkeypatch.setenv("TFCONV_CXXFLAGS", "-DMORE=1")
    assert tree.compiled() == A_CPU | B_CPU | OPS | OTHERS


@pytest.mark.late
def test_another_version_of_the_compiler_compiles_all(tree, monkeypatch):
    compiler = tree.root / "g++"
    script = '[ "$1" = --version ] && echo g++ {} && exit\nexec /usr/bin/env g++ "$@"'
    monkeypatch.setenv("CXX", write_program(compiler, script.format(1)))
    everything = tree.compiled()
    assert everything and tree.compiled() == set()
    write_program(compiler, script.format(2))
    assert tree.compiled() == everything


@pytest.mark.late
def test_warnings(tree, monkeypatch):
    unused = {"b/b_cpu.cc": SOURCES["b/b_cpu.cc"] + "static int unused() { return 0; }\n"}
    write(tree.sources, unused)
    assert "-Wunused-function" in tree.build().warnings
    assert tree.build().warnings == ""
    monkeypatch.setenv("TFCONV_WERROR", "1")
    assert re.match(r"cc/b/b_cpu.cc \[\w+\] failed:\n(.*\n)*.*unused", tree.fails())
    tree.restored("b/b_cpu.cc")
    assert B_CPU <= tree.compiled()
    monkeypatch.delenv("TFCONV_WERROR")
    assert tree.compiled() == set()


def test_builds_at_the_same_time_share_the_work(tree):
    results = []
    threads = [threading.Thread(target=lambda: results.append(tree.build(jobs=1))) for _ in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(result.compiled) > 0 for result in results) == [False, False, True]
    assert len({result.info["library_sha256"] for result in results}) == 1


# What goes wrong.


@pytest.mark.late
def test_failures_leave_the_library_of_before(tree, monkeypatch):
    first = tree.build()
    files = {path: path.read_bytes() for path in tree.output.parent.rglob("*") if path.is_file()}

    write(tree.sources, {"a/a_op.cc": SOURCES["a/a_op.cc"] + "int broken() { return no_such; }\n"})
    message = tree.fails()
    assert message.startswith(f"{OP_UNIT} failed:\n")
    assert "cc/a/a_op.cc:3:" in message and "no_such" in message
    assert re.search(f"Command, in {tree.root}/my objects:\n  \\S+g?\\+\\+ .*unity_0\\S+", message)

    tree.restored("a/a_op.cc")
    monkeypatch.setenv("TFCONV_LDFLAGS", "-lno_such_library_of_tfconv")
    assert re.match(r"libtfconv_\w+.so failed:\n(.*\n)*.*no_such_library", tree.fails())
    monkeypatch.delenv("TFCONV_LDFLAGS")

    def interrupt(done, total, what):
        raise KeyboardInterrupt

    write(tree.sources, {"a/a.h": "#define A_VALUE 4\n"})
    with pytest.raises(KeyboardInterrupt):
        tree.build(progress=interrupt)
    found = {path: path.read_bytes() for path in tree.output.parent.rglob("*") if path.is_file()}
    assert found == files
    assert tree.build().info["library_sha256"] != first.info["library_sha256"]
    assert call(tree.library, "tfconv_value") == 4


OURS = 'case "$*" in *" -c /"*"/my sources/"*) {} ;; *) exec g++ "$@" ;; esac'


@pytest.mark.parametrize(
    ("script", "match", "without"),
    [
        (
            OURS.format("echo from x; echo a.cc:1: error: the first; seq 100 180; exit 1"),
            r"cc/\S+ .*failed:\n  a.cc:1: error: the first\n(.*\n)*  128\n  ... 52 more lines\n",
            "from x|129",
        ),
        (
            OURS.format("kill -9 $$"),
            r"cc/\S+ .*failed:\n(.*\n)*The compiler was killed.* TFCONV_JOBS=1",
            "error",
        ),
        (
            'case $1 in -*) exec g++ "$@" ;; *) echo out of luck; exit 1 ;; esac',
            r"Configuring the build failed \(exit status 1\):\n(.*\n)*.*CXX",
            "a_op",
        ),
    ],
)
def test_compilers_that_fail(tree, monkeypatch, script, match, without):
    monkeypatch.setenv("CXX", write_program(tree.root / "bin" / "g++-that-fails", script))
    message = tree.fails(jobs=1)
    assert re.match(match, message), message
    assert not re.search(without, message.partition("Command")[0])


def test_missing_programs(tree, monkeypatch):
    module, tools = tree.module, tree.root / "tools"
    tools.mkdir()
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: "/nowhere")
    for compiler in ("no-such-compiler", "g++ '-DNAME=1"):
        monkeypatch.setenv("CXX", compiler)
        with pytest.raises(
            module.CompilerNotFoundError, match=f"Received: CXX={re.escape(compiler)}\n"
        ):
            tree.build()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(module.CompilerNotFoundError) as caught:
        tree.build()
    assert "apt-get install g++" in str(caught.value)
    assert "portable ops serve" in str(caught.value)
    write_program(tools / "g++", "echo 1")
    assert re.match(r"cmake, which builds .*\n.*pip install cmake ninja", tree.fails())
    write_program(tools / "cmake", "")
    assert "ninja, which builds" in tree.fails()


@pytest.mark.parametrize("apple", [False, True])
def test_flags_of_linkers(tree, apple):
    """Apple's linker knows none of those of GNU's, and tells by itself what is missing."""
    folder = tree.root / "configured"
    folder.mkdir()
    variables = {"APPLE": "1"} if apple else {}
    compiler = tree.module.find_compiler()
    tree.module.Ninja(folder, tree.sources, compiler, variables, config=tree.config())
    flags = re.findall(r"-Wl,[\w-]+", (folder / "build.ninja").read_text())
    assert ("-Wl,-z" in flags) == ("-Wl,--gc-sections" in flags) == (not apple)


def test_what_cannot_be_built(tree, monkeypatch):
    with pytest.raises(ValueError, match="jobs .* Received: 0"):
        tree.build(jobs=0)
    for value in ("0", "-1", "many"):
        monkeypatch.setenv("TFCONV_JOBS", value)
        assert re.search(f"TFCONV_JOBS.* Received: '{value}'", tree.fails())
    monkeypatch.setenv("TFCONV_JOBS", "7")
    assert tree.module.default_jobs() == 7
    monkeypatch.delenv("TFCONV_JOBS")
    assert tree.module.default_jobs() >= 1
    tree.output.parent.mkdir()
    tree.output.touch()
    assert re.search("Cannot write to the build folders: .*tf-9.9", tree.fails())
    monkeypatch.setattr(sys, "platform", "win32")
    assert re.search("not built on Windows.*portable ops serve", tree.fails())


def test_files_are_replaced_whole_or_not_at_all(tree):
    path = tree.root / "file"
    path.write_text("old")
    with pytest.raises(TypeError):
        tree.module._write_json(path, {"first": 1, "second": object()})
    with pytest.raises(FileNotFoundError):
        tree.module._publish(tree.root / "no such library", path)
    assert path.read_text() == "old" and not list(tree.root.glob(".file*"))


@pytest.mark.parametrize(
    ("outcome", "status", "out", "err"),
    [
        (
            None,
            0,
            "  [1/1] a step\n  lib.so for TensorFlow 9.9.1: 2 compiled, 3.0 s\n",
            "a warning\n",
        ),
        ("BuildError", 1, "", "tfconv: the native ops could not be built.\nout of luck\n"),
        ("KeyboardInterrupt", 130, "", ""),
    ],
)
def test_program(tree, monkeypatch, capsys, outcome, status, out, err):
    """`python tfconv/_build.py`."""
    module = tree.module

    def stand_in(progress):
        if outcome is not None:
            raise {"BuildError": module.BuildError}.get(outcome, KeyboardInterrupt)("out of luck")
        progress(1, 1, "a step")
        info = {"tf_version": "9.9.1"}
        return module.BuildResult(Path("lib.so"), info, (), ("a", "b"), "a warning", 3.0)

    monkeypatch.setattr(module, "build", stand_in)
    assert module.main() == status
    assert tuple(capsys.readouterr()) == (out, err)
