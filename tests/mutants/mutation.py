"""Mutants of a module: its source in, one changed function each out.

Only the bodies of functions are changed: no constants, defaults and signatures, whose values are
decisions, and nothing that only logs. A mutant is put into place by replacing the code of functions
that are already imported.
"""

import difflib
import gc
import inspect
from dataclasses import dataclass
from types import CodeType, FunctionType

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from tests.mutants.operators import OPERATORS


@dataclass(frozen=True)
class Mutant:
    """One change of one function."""

    path: str
    """Of the module, relative to the repository."""
    function: str
    """Qualified name, without the module."""
    lines: tuple[int, int]
    """First and last line of the statement that is changed."""
    old: str
    new: str
    source: str
    """The whole module, changed."""

    @property
    def where(self) -> str:
        """Which function, for people and for the list of explained survivors."""
        return f"{self.path} {self.function}"


def mutants_of(path, source):
    """All mutants of a module."""
    tree = get_ast(source)
    bodies = dict(_bodies(tree))
    seen = {source}
    found = []
    for operator in OPERATORS:
        occurrence = -1
        for node in ast_nodes(tree):
            for start, _ in operator.mutation_positions(node):
                occurrence += 1
                function = _function_at(bodies, start)
                lines = _statement(node, start)
                if function is None or lines is None:
                    continue
                mutated = mutate_code(source, operator, occurrence)
                if mutated is None or mutated in seen or not _compiles(mutated, path):
                    continue
                seen.add(mutated)
                found.append(Mutant(path, function, lines, *_change(source, mutated), mutated))
    return sorted(found, key=lambda mutant: mutant.lines)


class Functions:
    """The imported functions of one module."""

    def __init__(self, file, source):
        self._file = str(file)
        self._codes = self._codes_of(source)
        self._imported = {}
        for thing in gc.get_objects():
            if type(thing) is FunctionType and thing.__code__.co_filename == self._file:
                self._imported.setdefault(_key(thing.__code__), []).append(thing)

    def put_in_place(self, mutant):
        """Give the changed functions of a mutant to this process; False if nothing changes."""
        changed = {
            key: code
            for key, code in self._codes_of(mutant.source).items()
            if _does(code) != _does(self._codes[key])
        }
        for key, code in changed.items():
            for function in self._imported.get(key, ()):
                function.__code__ = code
        return bool(changed)

    def _codes_of(self, source):
        return {_key(code): code for code in _function_codes(compile(source, self._file, "exec"))}


def _does(code):
    """What a code object does, wherever its lines are."""
    constants = tuple(
        _does(c) if isinstance(c, CodeType) else (type(c), repr(c)) for c in code.co_consts
    )
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_exceptiontable


def _key(code):
    return code.co_qualname, code.co_firstlineno


def _function_codes(code):
    """The code of functions at the top of a module and of methods; nested ones are inside."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & inspect.CO_OPTIMIZED:
                yield constant
            else:  # the body of a class
                yield from _function_codes(constant)


def _compiles(source, path):
    try:
        compile(source, path, "exec")
    except SyntaxError:
        return False
    return True


def _bodies(node, prefix=""):
    """(qualified name, body) of functions that are not inside others."""
    for child in getattr(node, "children", ()):
        if child.type == "funcdef":
            yield f"{prefix}{child.name.value}@{child.start_pos[0]}", child.children[-1]
        elif child.type == "classdef":
            yield from _bodies(child, f"{prefix}{child.name.value}.")
        else:
            yield from _bodies(child, prefix)


def _function_at(bodies, position):
    for name, body in bodies.items():
        if body.start_pos <= position < body.end_pos:
            return name.partition("@")[0]
    return None


def _statement(node, start):
    """The lines of the smallest statement, or of a compound one's header; None where it logs."""
    while node.parent is not None and node.type != "simple_stmt":
        parent = node.parent
        if parent.type in ("suite", "file_input") or node.type in ("if_stmt", "while_stmt",
                "for_stmt", "with_stmt", "try_stmt", "funcdef", "classdef"):  # fmt: skip
            return start[0], start[0]
        node = parent
    if node.get_code(include_prefix=False).startswith("log."):
        return None
    return node.start_pos[0], node.end_pos[0] - (node.end_pos[1] == 0)


def _change(source, mutated):
    """The changed lines before and after, each as one line."""
    old, new = [], []
    for line in difflib.ndiff(source.splitlines(), mutated.splitlines()):
        if line.startswith("- "):
            old.append(line[2:].strip())
        elif line.startswith("+ "):
            new.append(" ".join(line[2:].split()))
    return " ".join(old), " ".join(new)
