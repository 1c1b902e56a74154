"""Which functions of Python's standard library are documented alike? TF-IDF and nearest neighbours over docstrings.

First map: each item counts the words of a share of the docstrings. Reduce: the weight of each word.
Second map: each item finds the nearest neighbours of its share. Both maps use the same Pods.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from kubefunc import Pool, remote

SHARES = 8
SHORTEST = 100  # characters; shorter texts say too little
NEIGHBOURS = 3
SHOWN = ["argparse.ArgumentParser", "asyncio.locks.Semaphore", "gzip.open", "json.dumps", "shutil.copytree"]

pool = Pool(max_workers=2, preload=["sklearn.feature_extraction.text"])


@remote(packages=["scikit-learn"], pool=pool)
def count_words(texts: list[str]) -> csr_matrix:
    """A row for each text, a column for each word."""
    return HashingVectorizer(stop_words="english", alternate_sign=False, norm=None).transform(texts)


@remote(packages=["scikit-learn"], pool=pool)
def nearest(share: csr_matrix, documents: csr_matrix) -> NDArray[np.intp]:
    """For each row of the share, the documents that are most similar to it, itself included."""
    similarity = (share @ documents.T).toarray()
    return np.argsort(-similarity, axis=1, kind="stable")[:, : NEIGHBOURS + 1]


def docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of each class and function in a module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{child.name}", ast.get_docstring(child) or ""
            yield from docstrings(child, f"{name}.{child.name}")


def library() -> dict[str, str]:
    """The docstrings of the standard library, by name."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if not {"test", "tests", "idle_test", "site-packages"}.intersection(parts):
            module = ".".join(parts).removesuffix(".__init__")
            found.update(docstrings(ast.parse(path.read_bytes()), module))
    return {name: text for name, text in found.items() if len(text) >= SHORTEST}


def main() -> None:
    documents = library()
    names, texts = list(documents), list(documents.values())
    shares = np.array_split(np.arange(len(texts)), SHARES)

    with pool:
        counts = vstack(list(count_words.map([texts[row] for row in share] for share in shares)))
        weights = TfidfTransformer().fit_transform(counts)
        found = np.vstack(list(nearest.map((weights[share] for share in shares), kwargs={"documents": weights})))

    # Plain calls run here: one process must find the same.
    alone = TfidfTransformer().fit_transform(count_words(texts))
    if not np.array_equal(found, nearest(alone, alone)):
        raise SystemExit("one process finds other neighbours")

    print(f"{len(texts):,} docstrings; one process finds the same neighbours")
    for name in SHOWN:
        others = [names[row] for row in found[names.index(name)] if names[row] != name]
        print(f"{name}: {', '.join(others[:NEIGHBOURS])}")


if __name__ == "__main__":
    main()
