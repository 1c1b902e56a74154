"""joblib, scikit-learn and Dask on a real cluster: the caller's own code travels, the libraries are in the image."""

from __future__ import annotations

import os
import sys
from typing import Any

import dask
import dask.array
import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score

import kubefunc.dask
from tests.cluster.cluster import Cluster
from tests.cluster.images import image_with
from tests.cluster.spaces import Space
from tests.plugins.tasks import Mine, fail, where

pytestmark = pytest.mark.filterwarnings("default")
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def image(hermetic: Cluster, calling: Space) -> str:
    """An image that has what is installed here, on the node."""
    name, archive = image_with(["joblib", "scikit-learn", "dask"], PYTHON)
    hermetic.import_image(archive)
    return name


def test_scikit_learn_runs_unchanged(image: str) -> None:
    """Cross-validation and a grid search give the scores that they give here."""
    data, y = make_classification(n_samples=200, random_state=0)
    model = LogisticRegression()
    here = cross_val_score(model, data, y, cv=3, n_jobs=1)
    with joblib.parallel_config("kubefunc", n_jobs=3, image=image):
        np.testing.assert_array_equal(cross_val_score(model, data, y, cv=3), here)
        search = GridSearchCV(model, {"C": [0.01, 1.0]}, cv=2).fit(data, y)
    assert search.score(data, y) > 0.8


def test_joblib_sends_arrays_by_value_and_raises_what_tasks_raise(image: str, tmp_path: Any) -> None:
    """A memmap of this machine is an array in the Pod; each batch has its own Pod."""
    mapped = np.memmap(tmp_path / "mapped", dtype=float, shape=(300, 1000), mode="w+")
    mapped[:] = 1
    with joblib.parallel_config("kubefunc", n_jobs=2, image=image):
        results = joblib.Parallel(batch_size=1)(joblib.delayed(where)(array) for array in (mapped, np.ones(5)))
        with pytest.raises(Mine):
            joblib.Parallel(batch_size=1)(joblib.delayed(fail)(n) for n in range(4))
    assert len({pod for pod, _ in results}) == 2
    assert os.uname().nodename not in {pod for pod, _ in results}
    assert [total for _, total in results] == [300_000.0, 5.0]


def test_dask_computes_a_graph(image: str) -> None:
    """What one Job gives goes to the next."""
    x = dask.array.ones((100, 100), chunks=(50, 50))
    [total] = dask.compute((x + x.T).sum(), scheduler=kubefunc.dask.get, num_workers=4, image=image)
    assert total == 20_000
