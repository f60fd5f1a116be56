"""The tool's own tests: which mutants there are, and that a draw lasts."""

import pytest

from tests.mutants import mutations, sight
from tests.mutants.__main__ import ROOT, equivalents

TABLE = [
    ("a = b + c", ["a = b - c", "pass"]),
    ("a = (b) * -(c)", ["a = (b) + -(c)", "a = (b) * (c)", "pass"]),
    ("if not a or b is not c:\n    f()", ["if a or b is not c:", "if not a and b is not c:"]
     + ["if not a or b is c:", "pass"]),
    ("while a < b <= 1:\n    break", ["while a <= b <= 1:", "while a < b < 1:"]
     + ["while a < b <= 2:", "pass"]),
    ("return a not in b", ["return a in b", "pass"]),
    ("f(a, b, *c, d=True)", ["f(b, a, *c, d=True)", "f(a, b, *c, d=False)", "pass"]),
    ("@g(0.0)\ndef f(a: g(1) = 2) -> g(3):\n    '''Text 4.'''",
     ["@g(1.0) def f(a: g(1) = 2) -> g(3):", "@g(0.0) def f(a: g(1) = 3) -> g(3):"]),
    ("raise ValueError('a' + b, 1)", ["pass"]),
    ("a: g(1)", []),
    ("__all__ = [1]", []),
    ("a = f'{b + 1} é'; c = 1", ["pass", "a = f'{b + 1} é'; c = 2", "a = f'{b + 1} é'; pass"]),
]  # fmt: skip


@pytest.mark.parametrize("source, expected", TABLE)
def test_one_change_each(source, expected):
    found = mutations.mutants_of("a.py", source.encode())
    assert sorted(mutant.now for mutant in found) == sorted(expected)
    for mutant in found:
        text = mutant.mutated(source.encode()).decode()
        assert mutant.now in " ".join(text.split())


def test_a_draw_lasts_where_other_code_changes(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    code = "".join(f"def f{i}(a, b):\n    return g(a + {i}, b) > {i}\n" for i in range(30))
    (folder / "a.py").write_text(code)
    first = mutations.draw(tmp_path, ["a"], seed=0, count=22)
    assert sorted(mutant.kind for mutant in first) == sorted(
        [kind for kind in mutations.KINDS for _ in range(4)] + ["statement", "arguments"]
    )
    (folder / "a.py").write_text("def h():\n    pass\n\n\n" + code.replace("f7(a, b)", "f7(a, c)"))
    again = mutations.draw(tmp_path, ["a"], seed=0, count=22)
    assert [mutant.key for mutant in first] == [mutant.key for mutant in again]
    other = mutations.draw(tmp_path, ["a"], seed=1, count=22)
    assert {mutant.key for mutant in first} != {mutant.key for mutant in other}


def test_equivalents_are_mutants_of_the_code_as_it_is():
    for path, was, now in equivalents():
        found = mutations.mutants_of(path, (ROOT / path).read_bytes())
        assert (was, now) in {(mutant.was, mutant.now) for mutant in found}, (path, was)


def test_tests_that_run_a_line_come_first(tmp_path):
    source = "def f(a=1):\n    return a + 1\ndef h():\n    pass\nclass A:\n"
    source += "    def g(self):\n        return\n    b = 2\ndef i():\n    return 0\n"
    (tmp_path / "a.py").write_text(source)
    (tmp_path / "test_a.py").write_text("")
    seen = sight.Sight(tmp_path, ["."], tmp_path / "sight")
    lines = {"test_a.py::slow": [2], "test_a.py::fast": [2], "test_a.py::other": [7]}
    tests = {
        name: {"seconds": float(name.endswith("slow")), "lines": {"a.py": numbers}}
        for name, numbers in lines.items()
    }
    tests["test_a.py::skipped"] = {"seconds": 0.0, "lines": {}}
    seen.note("test_a.py", {"tests": tests, "failed": [], "skipped": ["test_a.py::skipped"]})
    again = sight.Sight(tmp_path, ["."], tmp_path / "sight")
    assert again.missing([*lines, "test_b.py::new"]) == {"test_b.py": ["test_b.py::new"]}
    found = mutations.mutants_of("a.py", source.encode())
    default, plus, attribute, never = (
        next(mutant for mutant in found if mutant.now.endswith(now))
        for now in ("(a=2):", "a - 1", "b = 3", "return 1")
    )
    for mutant in (default, plus):
        batches = again.batches(mutant, [*lines, "test_b.py::new"])
        assert sum(batches, []) == ["test_a.py::fast", "test_a.py::slow", "test_b.py::new"]
    several = [*lines, "test_a.py::skipped"]
    assert "test_a.py::skipped" not in sum(again.batches(plus, several), [])
    assert "test_a.py::skipped" in sum(again.batches(plus, several, elsewhere=True), [])
    assert again.seers(attribute) == {"test_a.py::other"}
    assert again.seers(never) == set()
    assert again.seers(never, elsewhere=True) == set(lines)
    (tmp_path / "a.py").write_text(source.replace("return 0", "return 1"))
    assert sight.Sight(tmp_path, ["."], tmp_path / "sight").seers(never) == set(lines)
