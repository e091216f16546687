"""The small changes that `make mutants` makes to a source file, by cosmic-ray.

cosmic-ray finds the places and writes the changed source. Only operators that imitate
a slip of the hand are taken: a neighbouring comparison, a number one off, a negated
condition, an empty loop. `DropStatement` is ours: cosmic-ray removes no statement.
"""

import ast
import difflib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import (  # pyright: ignore[reportMissingImports]
    ast_nodes,
    get_ast,
)
from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]
from cosmic_ray.plugins import get_operator  # pyright: ignore[reportMissingImports]
from parso.python import tree  # pyright: ignore[reportMissingImports]

_COMPARISONS = "Lt_LtE LtE_Lt Gt_GtE GtE_Gt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
_ARITHMETIC = (
    "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul LShift_RShift"
    " RShift_LShift BitAnd_BitOr BitOr_BitAnd"
)
_OPERATORS = [
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISONS.split()),
    *(f"ReplaceBinaryOperator_{pair}" for pair in _ARITHMETIC.split()),
    *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not"),
    *("AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "NumberReplacer"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ZeroIterationForLoop"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
]


@dataclass(frozen=True)
class Mutant:
    """A source file with one change."""

    path: str
    source: str
    mutated: str

    @property
    def line(self) -> int:
        """The first changed line, from 1."""
        return int(self.diff.split("@@ -")[1].split()[0].partition(",")[0])

    @property
    def diff(self) -> str:
        """The change as a unified diff of no context."""
        before, after = self.source.splitlines(), self.mutated.splitlines()
        return "\n".join(
            difflib.unified_diff(before, after, self.path, self.path, "", "", 0, "")
        )


def sample(root: Path, path: str, count: int, seed: int) -> list[Mutant]:
    """`count` mutants of a file (all if it has fewer), the same for the same source."""
    source = (root / path).read_text(encoding="utf-8")
    nodes, before = list(ast_nodes(get_ast(source))), _program(source)
    kinds = []
    chooser, chosen = random.Random(f"{seed} {path}"), []
    for operator in _operators():
        positions = sum(len([*operator.mutation_positions(node)]) for node in nodes)
        if positions:
            occurrences = [(operator, number) for number in range(positions)]
            chooser.shuffle(occurrences)
            kinds.append(occurrences)
    # A kind is drawn first: a file has far more numbers than comparisons.
    while kinds and len(chosen) < count:
        occurrences = chooser.choice(kinds)
        operator, number = occurrences.pop()
        mutated = mutate_code(source, operator, number) or ""
        if _program(mutated) not in (before, ""):
            chosen.append(Mutant(path, source, mutated))
        kinds = [occurrences for occurrences in kinds if occurrences]
    return chosen


def _operators() -> list[Any]:
    return [DropStatement(), *(get_operator(f"core/{name}")() for name in _OPERATORS)]


def _program(source: str) -> str:
    """What runs of a source: no annotations, decorators or type checkers' imports."""
    try:
        return ast.dump(_Running().visit(ast.parse(source)))
    except SyntaxError:  # it could not even be imported
        return ""


class _Running(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns, node.decorator_list = None, []
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = []
        return self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        # `*` and `/` change no call of the tests.
        places = [*node.posonlyargs, *node.args]
        bare: list[ast.expr | None] = [None] * (len(places) - len(node.defaults))
        node.kw_defaults = [*bare, *node.defaults, *node.kw_defaults]
        node.kwonlyargs = [*places, *node.kwonlyargs]
        node.posonlyargs, node.args, node.defaults = [], [], []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        # zip's check of what cannot happen.
        return None if node.arg == "strict" else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if "TYPE_CHECKING" in ast.dump(node.test):
            return ast.Pass()
        return self.generic_visit(node)


class DropStatement:
    """Replaces a call, a raise or an assignment to a part of an object by `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "simple_stmt" and _has_effect(node.children[0]):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        first = node.get_first_leaf()
        dropped = tree.Keyword("pass", first.start_pos, first.prefix)
        node.children[0] = dropped
        return node


def _has_effect(statement: Any) -> bool:
    if statement.type in ("atom_expr", "power"):
        return statement.get_last_leaf().value == ")"
    if statement.type == "expr_stmt":
        target, operator = statement.children[:2]
        return operator.type == "operator" and (
            operator.value != "=" or target.type in ("atom_expr", "power")
        )
    return statement.type in ("raise_stmt", "del_stmt")
