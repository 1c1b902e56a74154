"""How long are the functions of Python's standard library, and how many of them have a docstring?

Map: each item is a share of the source files and becomes a table of the functions in them.
Reduce: one table of all functions, a summary by package, and a picture: ``functions.png``.
"""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from kubefunc import remote

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
SHARES = 16
PODS = 2  # each installs pandas once


@remote(packages=["pandas"])
def table_of_functions(sources: dict[str, str]) -> pd.DataFrame:
    """One row for each function in these files, which are given by their paths."""
    rows = [
        {
            "package": path.partition("/")[0].removesuffix(".py"),
            "function": f"{path}:{node.lineno} {node.name}",
            "lines": (node.end_lineno or node.lineno) - node.lineno + 1,
            "documented": ast.get_docstring(node) is not None,
        }
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return pd.DataFrame(rows)


def library_sources() -> dict[str, str]:
    """The standard library's files, without its own tests and without installed packages."""
    paths = (path.relative_to(LIBRARY) for path in sorted(LIBRARY.rglob("*.py")))
    kept = [path for path in paths if not {"test", "tests", "idle_test", "site-packages"} & set(path.parts)]
    return {str(path): (LIBRARY / path).read_text(encoding="utf-8", errors="replace") for path in kept}


def summary(functions: pd.DataFrame) -> pd.DataFrame:
    """The packages with the most functions."""
    by_package = functions.groupby("package").agg(
        functions=("lines", "size"),
        median_lines=("lines", "median"),
        longest=("lines", "max"),
        documented=("documented", "mean"),
    )
    return by_package.nlargest(8, "functions")


def draw(functions: pd.DataFrame, packages: pd.DataFrame, file: str) -> None:
    """Save a picture: how long functions are, and how many have a docstring."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    functions["lines"].clip(upper=60).plot.hist(bins=30, ax=left)
    left.set(title="How long are functions?", xlabel="lines (the last bar: 60 and more)", ylabel="functions")
    packages["documented"].mul(100).iloc[::-1].plot.barh(ax=right)
    right.set(title="How many have a docstring?", xlabel="%", ylabel="")
    figure.savefig(file, dpi=100)


def main() -> None:
    sources = library_sources()
    paths = list(sources)
    shares = [{path: sources[path] for path in paths[share::SHARES]} for share in range(SHARES)]
    functions = pd.concat(table_of_functions.map(shares, max_parallelism=PODS), ignore_index=True)
    packages = summary(functions)

    median = functions["lines"].median()
    print(f"{len(functions):,} functions in {len(sources)} files; half of them have at most {median:.0f} lines")
    print(packages.to_string(float_format="{:.2f}".format))
    print("the longest:", *functions.nlargest(3, "lines")["function"], sep="\n  ")
    draw(functions, packages, "functions.png")


if __name__ == "__main__":
    main()
