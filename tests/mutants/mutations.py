"""The mutants of a source file: everything that one small change could make of it."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

KINDS = ("operator", "comparison", "constant", "statement", "arguments")

BINARY = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
COMPARISONS = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
DROPPED = (
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Return),
    *(ast.Raise, ast.Delete, ast.Assert, ast.Break, ast.Continue),
)
NO_CODE = {"annotation", "returns", "type_comment"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change to one file.

    Attributes:
        path: The file, below the repository's root.
        kind: One of `KINDS`.
        scope: Functions and classes around it, joined by dots.
        lines: First and last line of the statement's own code, without the statements in it.
        start: Where the change begins, in bytes.
        end: Where it ends.
        replacement: What stands there instead.
        was: The statement's own code.
        now: The same with the change.
        number: How many changes of the same look stand before it in the file.
    """

    path: str
    kind: str
    scope: str
    lines: tuple[int, int]
    start: int
    end: int
    replacement: str
    was: str
    now: str
    number: int = 0

    @property
    def key(self) -> str:
        """Its identity: the same as long as the code is, wherever in the file it stands."""
        parts = (self.path, self.scope, self.was, self.now, str(self.number))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]

    def mutated(self, source: bytes) -> bytes:
        return source[: self.start] + self.replacement.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        was, now = (text.decode().splitlines() for text in (source, self.mutated(source)))
        return "\n".join(difflib.unified_diff(was, now, self.path, self.path, n=2, lineterm=""))


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a file."""
    found, counts = [], {}
    for mutant in _Finder(path, source).mutants():
        look = (mutant.scope, mutant.was, mutant.now)
        counts[look] = counts.get(look, -1) + 1
        found.append(dataclasses.replace(mutant, number=counts[look]))
    return found


def draw(root: Path, folders: list[str], seed: int, count: int) -> list[Mutant]:
    """Mutants of all kinds in equal parts, in the order of the folders.

    A mutant is drawn for what it is, not for its place in a list: where sources change, the others
    stay the same.
    """

    def rank(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.key}".encode()).hexdigest()

    everything, sources = [], {}
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            sources[path] = file.read_bytes()
            everything += mutants_of(path, sources[path])
    drawn = set()
    for number, kind in enumerate(KINDS):
        share = (count + number) // len(KINDS)
        ranked = sorted((m for m in everything if m.kind == kind), key=rank)
        drawn.update(itertools.islice((m for m in ranked if _compiles(m, sources)), share))
    return [mutant for mutant in everything if mutant in drawn]


def _compiles(mutant: Mutant, sources: dict[str, bytes]) -> bool:
    try:
        compile(mutant.mutated(sources[mutant.path]), mutant.path, "exec")
    except SyntaxError:
        return False
    return True


class _Finder:
    def __init__(self, path: str, source: bytes):
        self.path, self.source = path, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def mutants(self) -> Iterator[Mutant]:
        yield from self._block(ast.parse(self.source), ())

    def _block(self, parent: ast.AST, scope: tuple[str, ...]) -> Iterator[Mutant]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.stmt):
                yield from self._statement(node, scope)
            elif isinstance(node, (ast.ExceptHandler, getattr(ast, "match_case", ()))):
                yield from self._block(node, scope)

    def _statement(self, node: ast.stmt, scope: tuple[str, ...]) -> Iterator[Mutant]:
        if _without_effect(node):
            return
        first, last = _own_lines(node)
        start = self.starts[first - 1]
        end = self._end(node) if last == node.end_lineno else self.starts[last]
        inner = scope
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = (*scope, node.name)
        for kind, where, until, replacement in self._changes(node):
            code = self.source[start:where] + replacement.encode() + self.source[until:end]
            was, now = (_flat(text.decode()) for text in (self.source[start:end], code))
            lines, name = (first, last), ".".join(inner)
            yield Mutant(self.path, kind, name, lines, where, until, replacement, was, now)
        yield from self._block(node, inner)

    def _changes(self, node: ast.stmt) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, DROPPED):
            yield "statement", self._position(node.lineno, node.col_offset), self._end(node), "pass"
        if not isinstance(node, ast.Raise):  # the rest of it is the text of an error
            for part in _expressions(node):
                yield from self._changes_of_expression(part)

    def _changes_of_expression(self, node: ast.expr) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            yield self._between("operator", node.left, node.right, BINARY[type(node.op)])
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:]):
                yield self._between("operator", left, right, BINARY[type(node.op)])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            start = self._position(node.lineno, node.col_offset)
            yield "operator", start, start + (4 if isinstance(node.op, ast.Not) else 1), ""
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, right, op in zip(sides, sides[1:], node.ops):
                yield self._between("comparison", left, right, COMPARISONS[type(op)])
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            yield "constant", *self._span(node), repr(_other(node.value))
        elif isinstance(node, ast.Call):
            for one, two in zip(node.args, node.args[1:]):
                start, end = self._span(one)[0], self._span(two)[1]
                texts = [self.source[slice(*self._span(part))].decode() for part in (one, two)]
                between = self.source[self._span(one)[1] : self._span(two)[0]].decode()
                if texts[0] != texts[1] and not isinstance(two, ast.Starred):
                    yield "arguments", start, end, texts[1] + between + texts[0]

    def _between(self, kind, left, right, change):
        start, end = self._span(left)[1], self._span(right)[0]
        found = re.search(
            change[0] if change[0][0].isalpha() else re.escape(change[0]),
            self.source[start:end].decode(),
        )
        return kind, start + found.start(), start + found.end(), change[1]

    def _position(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def _end(self, node) -> int:
        return self._position(node.end_lineno, node.end_col_offset)

    def _span(self, node) -> tuple[int, int]:
        return self._position(node.lineno, node.col_offset), self._end(node)


def _without_effect(node: ast.stmt) -> bool:
    """Docstrings, and what says names only."""
    if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.JoinedStr)):
        return True
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return True
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__"


def _own_lines(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, without the statements in it."""
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    if not body:
        return node.lineno, node.end_lineno
    first, inside = _first_line(node), getattr(body[0], "pattern", body[0])
    return first, max(node.lineno, _first_line(inside) - 1)


def _first_line(node: ast.AST) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """All expressions in a statement that are run with it: no texts, no annotations."""
    for name, value in ast.iter_fields(node):
        if name in NO_CODE:
            continue
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, ast.AST) or isinstance(part, (ast.stmt, ast.JoinedStr)):
                continue
            if isinstance(part, (ast.ExceptHandler, getattr(ast, "match_case", ()))):
                continue
            if isinstance(part, ast.expr):
                yield part
            yield from _expressions(part)


def _other(value):
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 2 or 1.0


def _flat(code: str) -> str:
    return " ".join(code.split())
