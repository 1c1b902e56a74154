"""Find the best settings of a classifier for handwritten digits, by cross-validation.

Map: each item trains with one pair of settings on one fold of the data, and returns its score.
Reduce: the mean score of each pair, the best pair, and a picture: ``scores.png``.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from kubefunc import remote

C = [1.0, 10.0, 100.0]
GAMMA = [0.0001, 0.0003, 0.001, 0.003]
FOLDS = 5
PODS = 2  # each gets the packages once


@remote(packages="sync")
def accuracy(c: float, gamma: float, fold: int, images: NDArray[Any], digits: NDArray[Any]) -> float:
    """Train on all folds of the images but one, and test on that one."""
    train, test = list(StratifiedKFold(FOLDS).split(images, digits))[fold]
    model = SVC(C=c, gamma=gamma).fit(images[train], digits[train])
    return float(model.score(images[test], digits[test]))


def draw(scores: NDArray[Any], file: str) -> None:
    """Save a picture: the mean score of each pair of settings."""
    figure, axes = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
    axes.imshow(scores, cmap="Wistia")
    axes.set(title="mean accuracy", xlabel="gamma", ylabel="C")
    axes.set_xticks(range(len(GAMMA)), [f"{gamma:g}" for gamma in GAMMA])
    axes.set_yticks(range(len(C)), [f"{c:g}" for c in C])
    for (row, column), score in np.ndenumerate(scores):
        axes.text(column, row, f"{score:.4f}", ha="center", va="center")
    figure.savefig(file, dpi=100)


def main() -> None:
    bunch: Any = load_digits()
    data = {"images": bunch.data, "digits": bunch.target}
    results = accuracy.starmap(product(C, GAMMA, range(FOLDS)), kwargs=data, max_parallelism=PODS).result()

    scores = np.reshape(results, (len(C), len(GAMMA), FOLDS)).mean(axis=2)
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    print(f"{scores.size} pairs of settings, each trained on {FOLDS} folds of {len(bunch.data):,} images")
    print(f"best: C={C[row]:g}, gamma={GAMMA[column]:g}, accuracy {scores[row, column]:.10f}")

    # A plain call runs here: the best pair once more, on this machine.
    here = [accuracy(C[row], GAMMA[column], fold, **data) for fold in range(FOLDS)]
    print(f"trained on this machine: accuracy {np.mean(here):.10f}")
    draw(scores, "scores.png")


if __name__ == "__main__":
    main()
