"""Lines of code in `src`, without blanks, comments and docstrings: in all, by package, longest modules.

python bench/count_code.py [--json]
"""

from __future__ import annotations

import ast
import io
import json
import statistics
import sys
import tokenize
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(text: str) -> int:
    """Lines on which a token stands that is neither a comment nor part of a docstring (pure)."""
    silent: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else []:
            value = getattr(one, "value", None)
            if isinstance(one, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                silent |= set(range(one.lineno, (one.end_lineno or one.lineno) + 1))
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SILENT and token.type != tokenize.ENDMARKER:
            found |= set(range(token.start[0], token.end[0] + 1))
    return len(found - silent)


def main() -> int:
    files = sorted(SOURCE.rglob("*.py"))
    counts = {path.relative_to(SOURCE): code_lines(path.read_text(encoding="utf-8")) for path in files}
    packages: Counter[str] = Counter()
    for path, lines in counts.items():
        packages[".".join(path.parts[:2]).removesuffix(".py")] += lines
    median = statistics.median(sum(1 for _ in (SOURCE / path).open(encoding="utf-8")) for path in counts)
    if "--json" in sys.argv:
        print(json.dumps({"all": sum(counts.values()), "packages": packages, "median_length": median}))
        return 0
    for name, lines in packages.most_common():
        print(f"{lines:8,}  {name}")
    print(f"{sum(counts.values()):8,}  in all; {len(counts)} modules, {median:.0f} lines in the median")
    for path, lines in sorted(counts.items(), key=lambda item: -item[1])[:8]:
        print(f"{lines:8,}  {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
