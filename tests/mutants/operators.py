"""The small changes that are made to the code, one at a time.

Cosmic Ray's operators as far as they resemble mistakes, and more of the same interface: a guard
that is missing, a call that is forgotten, a limit, a lock or a step of a counter that is lost.
"""

import re

import parso
from cosmic_ray.operators.boolean_replacer import AddNot
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import IfStmt, Keyword, WhileStmt, WithStmt

COMPARISONS = {
    "Lt": ("LtE", "GtE"),
    "LtE": ("Lt", "Gt"),
    "Gt": ("GtE", "LtE"),
    "GtE": ("Gt", "Lt"),
    "Eq": ("NotEq",),
    "NotEq": ("Eq",),
    "Is": ("IsNot",),
    "IsNot": ("Is",),
}
ARITHMETIC = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul",
              "BitOr_BitAnd", "BitAnd_BitOr")  # fmt: skip
OTHERS = ("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceBreakWithContinue",
          "ReplaceContinueWithBreak", "ReplaceUnaryOperator_Delete_Not",
          "ReplaceUnaryOperator_Delete_USub", "NumberReplacer", "ZeroIterationForLoop")  # fmt: skip
LOCK = re.compile(r"\s*self\._(lock|condition)\s*")
AUGMENTED = {"+=": ("-=", "="), "-=": ("+=", "="), "|=": ("=",), "&=": ("=",)}


def _code(text, prefix=" "):
    """A node for a piece of code, after the blanks of what it replaces."""
    return parso.parse(prefix + text)


class _Replacing(Operator):
    """Replaces what ``replacements`` finds in a node: (list of children, index, new code)."""

    def replacements(self, node):
        raise NotImplementedError

    def mutation_positions(self, node):
        for children, index, _ in self.replacements(node):
            yield children[index].start_pos, children[index].end_pos

    def mutate(self, node, index):
        children, place, text = list(self.replacements(node))[index]
        children[place] = _code(text, children[place].get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls):
        return ()


class RemoveStatement(_Replacing):
    """A call, an assignment to an attribute or an item, a raise or a del is forgotten."""

    def replacements(self, node):
        if node.type != "simple_stmt":
            return
        statement = node.children[0]
        assigns = statement.type == "expr_stmt" and (
            (statement.children[0].type != "name" and "=" in statement.get_code())
            or getattr(statement.children[1], "value", "") in AUGMENTED
        )
        calls = statement.type == "atom_expr" and statement.children[-1].type == "trailer"
        if assigns or calls or statement.type in ("raise_stmt", "del_stmt"):
            yield node.children, 0, "pass"


class CatchLess(_Replacing):
    """One kind of exception is not caught."""

    def replacements(self, node):
        if node.type == "except_clause":
            caught = node.children[1]
            several = caught.type == "atom" and caught.children[1].type == "testlist_comp"
            children = caught.children[1].children if several else node.children
            for index in range(0, len(children), 2) if several else (1,):
                yield children, index, "ZeroDivisionError"


class FixCondition(_Replacing):
    """A guard always holds, or never."""

    def replacements(self, node):
        if isinstance(node, IfStmt) or node.type == "comp_if":
            for index, child in enumerate(node.children[:-1]):
                if isinstance(child, Keyword) and child.value in ("if", "elif"):
                    yield node.children, index + 1, "True"
                    yield node.children, index + 1, "False"


class NegateLoopOrChoice(AddNot):
    """``while not ...`` and ``x if not ... else y``."""

    NODE_TYPES = (WhileStmt,)

    def mutation_positions(self, node):
        for start, end in super().mutation_positions(node):
            if node.get_leaf_for_position(start).parent.type not in ("comparison", "not_test"):
                yield start, end


class RemoveOperand(Operator):
    """One side of ``and`` or ``or`` is missing."""

    def mutation_positions(self, node):
        if node.type in ("and_test", "or_test"):
            for operand in node.children[::2]:
                yield operand.start_pos, operand.end_pos

    def mutate(self, node, index):
        place = 2 * index
        del node.children[max(place - 1, 0) : place + 1 + (place == 0)]
        return node

    @classmethod
    def examples(cls):
        return ()


class UnlimitMinMax(Operator):
    """``min`` or ``max`` gives one of its arguments, whichever it is."""

    def mutation_positions(self, node):
        for argument in self._arguments(node):
            yield argument.start_pos, argument.end_pos

    def mutate(self, node, index):
        return _code(f"({list(self._arguments(node))[index].get_code().strip()})")

    @staticmethod
    def _arguments(node):
        if node.type != "atom_expr" or len(node.children) != 2:
            return ()
        name, trailer = node.children
        if getattr(name, "value", "") not in ("min", "max") or len(trailer.children) != 3:
            return ()
        arguments = trailer.children[1]
        if arguments.type != "arglist" or any(a.type == "argument" for a in arguments.children):
            return ()
        return [a for a in arguments.children if a.type != "operator"]

    @classmethod
    def examples(cls):
        return ()


class RemoveLock(_Replacing):
    """What a lock protects is done without it."""

    def replacements(self, node):
        if isinstance(node, WithStmt) and LOCK.fullmatch(node.children[1].get_code()):
            yield node.children, 0, "if"

    def mutate(self, node, index):
        node.children[0].value = "if"
        node.children[1] = _code("True")
        return node


class ChangeAugmented(_Replacing):
    """A counter counts down, or is set instead of counting."""

    def replacements(self, node):
        if node.type == "expr_stmt":
            for other in AUGMENTED.get(getattr(node.children[1], "value", ""), ()):
                yield node.children, 1, other


OPERATORS = (
    *(
        get_operator(f"core/ReplaceComparisonOperator_{old}_{new}")()
        for old, others in COMPARISONS.items()
        for new in others
    ),
    *(get_operator(f"core/ReplaceBinaryOperator_{names}")() for names in ARITHMETIC),
    *(get_operator(f"core/{name}")() for name in OTHERS),
    RemoveStatement(),
    CatchLess(),
    FixCondition(),
    NegateLoopOrChoice(),
    RemoveOperand(),
    UnlimitMinMax(),
    RemoveLock(),
    ChangeAugmented(),
)
