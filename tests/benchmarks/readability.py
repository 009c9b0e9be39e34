"""Measure how readable a checkout is.

    python tests/benchmarks/readability.py [CHECKOUT]

Prints statistics of `beamclip/`: file lengths, tiny functions, comments, dense expressions,
docstrings that do not begin with a verb, odd words, long lines. `first_step.py` counts the
functions and files between a command and its first training step.
"""

import argparse
import ast
import io
import re
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ODD_WORDS = re.compile(r"\b(mend\w*|beside|nobody|whoever|lies|stands)\b", re.IGNORECASE)
RIDDLE = re.compile(r"(What|Where|Which|Whether|How|Who\w*|When)\b")
DIRECTIVE = re.compile(r"#\s*(noqa|type:|pragma|fmt:)")


def main() -> None:
    """Print the table for the checkout named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", nargs="?", default=Path(__file__).parents[2], type=Path)
    checkout = parser.parse_args().checkout
    files = sorted((checkout / "beamclip").rglob("*.py"))
    for name, value in measure(checkout / "beamclip", files).items():
        print(f"{name:<58} {value}")


def measure(package: Path, files: list[Path]) -> dict[str, str]:
    """Return the rows of the table, name -> value as text."""
    texts = [file.read_text(encoding="utf-8") for file in files]
    trees = [ast.parse(text) for text in texts]
    lengths = [len(text.splitlines()) for text in texts if text.strip()]
    code_lines = sum(count_code_lines(text) for text in texts)
    functions = [node for tree in trees for node in ast.walk(tree) if is_function(node)]
    calls = Counter(name for tree in trees for name in names_used(tree))
    short = sum(body_length(function) <= 5 for function in functions)
    once = sum(calls[function.name] == 1 for function in functions)
    docs = [doc for tree in trees for doc in docstrings(tree)]
    riddles = sum(bool(RIDDLE.match(doc)) for doc in docs)
    lines = [line for text in texts for line in text.splitlines()]
    nodes = Counter(type(node).__name__ for tree in trees for node in ast.walk(tree))
    comprehensions = sum(
        nodes[kind] for kind in ("ListComp", "SetComp", "DictComp", "GeneratorExp")
    )
    parallel = sum(is_parallel(node) for tree in trees for node in ast.walk(tree))
    comments = sum(count_comments(text) for text in texts)
    odd = sum(len(ODD_WORDS.findall(text)) for text in texts)
    loose = [file for file in package.glob("*.py") if file.name != "__init__.py"]
    per_thousand = 1000 / code_lines
    return {
        "files": f"{len(files)}",
        "loose modules at the package root": f"{len(loose)}",
        "file length, median / max": f"{statistics.median(lengths):.0f} / {max(lengths)}",
        "functions of at most 5 lines": f"{100 * short / len(functions):.0f} %",
        "functions whose name is used in one place only": f"{100 * once / len(functions):.0f} %",
        "comments per 1,000 code lines": f"{comments * per_thousand:.0f}",
        "comprehensions per 1,000 code lines": f"{comprehensions * per_thousand:.0f}",
        "conditional expressions per 1,000 code lines": f"{nodes['IfExp'] * per_thousand:.0f}",
        "parallel assignments per 1,000 code lines": f"{parallel * per_thousand:.1f}",
        "docstrings that open with What/Where/Whether/How": f"{100 * riddles / len(docs):.1f} %",
        '"mend", "beside", "nobody", "whoever", "lies", "stands"': f"{odd}",
        "lines over 100 characters": f"{100 * sum(len(x) > 100 for x in lines) / len(lines):.1f} %",
        "code lines": f"{code_lines:,}",
    }


def is_function(node: ast.AST) -> bool:
    """Return whether the node defines a function or method."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def body_length(function: ast.AST) -> int:
    """Return the lines of a function without its signature and docstring."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    if not body:
        return 0
    return body[-1].end_lineno - body[0].lineno + 1


def names_used(tree: ast.AST) -> Iterator[str]:
    """Yield every name and attribute that is read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Yield the docstrings of modules, classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef) or is_function(node):
            doc = ast.get_docstring(node)
            if doc:
                yield doc


def is_parallel(node: ast.AST) -> bool:
    """Return whether the node assigns several values in one statement: `a, b = x, y`."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def count_code_lines(text: str) -> int:
    """Return the lines that hold code: no blank lines, comments or docstrings."""
    lines = set()
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in skip or token.type == tokenize.ENDMARKER:
            continue
        if token.type == tokenize.STRING and token.line.strip().startswith(('"""', "'''", 'r"""')):
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def count_comments(text: str) -> int:
    """Return the number of comment lines that are no directives for tools."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(t.type == tokenize.COMMENT and not DIRECTIVE.match(t.string) for t in tokens)


if __name__ == "__main__":
    main()
