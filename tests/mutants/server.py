"""Runs tests again and again, with TensorFlow imported once.

A script, started in one of the environments: it imports TensorFlow, Keras and pytest, but not
tfconv, and forks for every request, so that each run imports the tfconv of that moment. Requests
are lines of JSON on standard input, answers on standard output:

    {"do": "collect", "arguments": [...]}                 -> the tests that pytest would run
    {"do": "measure", "files": [...], "tests": [...], "sources": [...]}
                                                          -> for each its seconds and lines
    {"do": "run", "files": [...], "tests": [...]}         -> the first test that fails
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import time
import traceback

ENDING = (signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class Tests:
    """A plugin of pytest: runs the wanted tests only, and notes what becomes of them."""

    def __init__(self, wanted=None):
        self.wanted = wanted
        self.collected, self.seconds, self.failed, self.skipped = [], {}, [], []

    def pytest_collection_modifyitems(self, items):
        if self.wanted is not None:
            items[:] = [item for item in items if item.nodeid in self.wanted]

    def pytest_collection_finish(self, session):
        self.collected = [item.nodeid for item in session.items]

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped.append(report.nodeid)


class Lines(Tests):
    """Notes which lines each test runs, in the programs that it starts too."""

    def __init__(self, wanted, sources, folder):
        import coverage

        super().__init__(wanted)
        settings = os.path.join(folder, "coveragerc")
        with open(settings, "w") as file:
            file.write(f"[run]\nparallel = true\ndata_file = {folder}/data\nsource =\n")
            file.writelines(f"  {os.path.abspath(path)}\n" for path in sources)
        os.environ["COVERAGE_PROCESS_START"] = settings
        self.measured = coverage.Coverage(config_file=settings)
        self.measured.start()

    def pytest_runtest_logstart(self, nodeid):
        self.measured.switch_context(nodeid)
        os.environ["COVERAGE_CONTEXT"] = nodeid

    def pytest_runtest_logfinish(self, nodeid):
        self.measured.switch_context("")

    def lines(self):
        self.measured.stop()
        self.measured.save()
        self.measured.combine()
        data, root = self.measured.get_data(), os.getcwd() + os.sep
        result = {nodeid: {} for nodeid in self.seconds}
        for path in data.measured_files():
            for line, contexts in data.contexts_by_lineno(path).items():
                for nodeid in filter(None, contexts):
                    result[nodeid].setdefault(path[len(root) :], []).append(line)
        return result


def answer(request):
    import pytest

    common = ["-q", "-p", "no:cacheprovider", "--tb=short"]
    if request["do"] == "collect":
        plugin = Tests()
        code = pytest.main([*common, "--collect-only", *request["arguments"]], plugins=[plugin])
        return {"code": int(code), "tests": plugin.collected}
    if request["do"] == "run":
        plugin = Tests(set(request["tests"]))
        code = pytest.main([*common, "-x", *request["files"]], plugins=[plugin])
        return {"code": int(code), "failed": plugin.failed, "ran": len(plugin.seconds)}
    with tempfile.TemporaryDirectory() as folder:
        plugin = Lines(set(request["tests"]), request["sources"], folder)
        pytest.main([*common, *request["files"]], plugins=[plugin])
        lines = plugin.lines()
    return {
        "tests": {
            nodeid: {"seconds": round(seconds, 3), "lines": lines[nodeid]}
            for nodeid, seconds in plugin.seconds.items()
        },
        "failed": plugin.failed,
        "skipped": plugin.skipped,
    }


def run_forked(request, log):
    """Answers in a process of its own, which may crash or hang."""
    handle, path = tempfile.mkstemp()
    os.close(handle)
    process = os.fork()
    if process == 0:
        try:
            os.setsid()
            for number in ENDING:
                signal.signal(number, signal.SIG_DFL)
            if sys.platform == "linux":  # ends with the server, whatever ends that
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            result = answer(request)
            with open(path, "w") as file:
                json.dump(result, file)
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=log)
            os._exit(1)
    end, parent = time.monotonic() + request["limit"], os.getppid()
    try:
        while os.waitpid(process, os.WNOHANG)[0] == 0:
            if time.monotonic() > end or os.getppid() != parent:
                return {"code": -1, "said": "no end after {} s".format(request["limit"])}
            time.sleep(0.02)
        with open(path) as file:
            return json.loads(file.read() or '{"code": -1, "said": "crashed"}')
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, 0)
        os.remove(path)


def main():
    root, answers = os.getcwd(), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path[0] = root  # not this folder
    os.environ.update(PYTHONPATH=root, PYTHONDONTWRITEBYTECODE="1", CUDA_VISIBLE_DEVICES="-1")
    sys.dont_write_bytecode = True
    import pytest  # noqa: F401
    import tensorflow as tf

    tf.keras.layers  # noqa: B018  (loaded when it is first asked for)
    assert "tfconv" not in sys.modules
    for number in ENDING:
        signal.signal(number, lambda *_: sys.exit())  # with what it has started
    log = open(sys.argv[1], "a")  # noqa: SIM115
    for line in sys.stdin:
        print(json.dumps(run_forked(json.loads(line), log)), file=answers, flush=True)


if __name__ == "__main__":
    main()
