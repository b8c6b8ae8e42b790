"""The tasks: read one source file, parse it, measure it.

There are two, so that both kinds of function are at work. `analyse_small_file` is an `async def` and runs on the
worker's event loop; `analyse_large_file` is a `def` and runs on one of the worker's threads. The line between them is
drawn by size: a small file is parsed in a few milliseconds, and the loop can spare those. A large one takes up to
half a second, in which the loop could do nothing else.
"""

import ast
import asyncio
from dataclasses import dataclass
from pathlib import Path

SMALL = 8 * 1024
"""Files of fewer bytes are small."""

TOP = 10
"""How many functions a file reports. The final table has as many, and all of them may come from one file."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function as the index knows it.

    Attributes:
        name: Qualified within its file: `Class.method`, `outer.inner`.
        lines: From `def` to the last line of the body.
        complexity: See `decisions`.
    """

    path: str
    name: str
    line: int
    lines: int
    complexity: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a task returns about a file that it could read."""

    path: str
    lines: int
    classes: int
    functions: int
    complexity: int
    longest: Function | None
    most_complex: list[Function]


@dataclass(frozen=True, slots=True)
class Unparsable:
    """What a task returns about a file that is not valid Python. That is a finding, and no failure of the task."""

    path: str
    reason: str


async def analyse_small_file(path: str) -> Report | Unparsable:
    """Read in a thread, because a disk may be slow, and analyse on the event loop."""
    source = await asyncio.to_thread(Path(path).read_bytes)
    return analyse(path, source)


def analyse_large_file(path: str) -> Report | Unparsable:
    """Do both where this runs, which is a thread."""
    return analyse(path, Path(path).read_bytes())


def analyse(path: str, source: bytes) -> Report | Unparsable:
    """Measure one source file."""
    try:
        # Bytes, not text: then Python itself finds out the encoding.
        tree = ast.parse(source)
    except SyntaxError as error:
        return Unparsable(path, error.msg)
    count = Count(path)
    count.everything_in(tree, "")
    return Report(
        path=path,
        lines=len(source.splitlines()),
        classes=count.classes,
        functions=len(count.functions),
        complexity=sum(function.complexity for function in count.functions),
        longest=max(count.functions, key=lambda function: function.lines, default=None),
        most_complex=sorted(count.functions, key=lambda function: -function.complexity)[:TOP],
    )


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LEAVES = (ast.Name, ast.Constant, ast.expr_context)
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


def decisions(node: ast.AST) -> int:
    """Return how many times the way parts at this node.

    The cyclomatic complexity of a function is 1 and what its nodes add: 1 for each `if`, `elif`, conditional
    expression, `for`, `while`, `except` and `case`, for each `for` and `if` of a comprehension, and for each operand
    of `and` and `or` after the first. `else`, `finally`, `with` and `assert` add nothing.
    """
    if isinstance(node, BRANCHES):
        return 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return 0


class Count:
    """Counts the classes and functions of a file, and the decisions of each function.

    A nested function has a complexity of its own, which is no part of the outer one's. A lambda belongs to the function
    that it stands in.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.classes = 0
        self.functions: list[Function] = []
        self._decisions = 0

    def everything_in(self, node: ast.AST, scope: str) -> None:
        """Count what is below a node. `scope` is the name of what it stands in, with a dot at the end."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, LEAVES):
                continue
            if isinstance(child, FUNCTIONS):
                self._function(child, scope)
            elif isinstance(child, ast.ClassDef):
                self.classes += 1
                self.everything_in(child, f"{scope}{child.name}.")
            else:
                self._decisions += decisions(child)
                self.everything_in(child, scope)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: str) -> None:
        outer, self._decisions = self._decisions, 0
        self.everything_in(node, f"{scope}{node.name}.")
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        function = Function(self.path, scope + node.name, node.lineno, lines, 1 + self._decisions)
        self.functions.append(function)
        self._decisions = outer
