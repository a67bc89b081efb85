"""scikit-learn's own grid search on the cluster: two lines more than without.

Looks for the C and gamma of a support vector machine on the handwritten digits that ship with
scikit-learn. GridSearchCV is called as ever; joblib, by which it runs its fits, hands them to the
nodes. The same two lines serve everything with an `n_jobs`: cross_val_score, RandomForest,
BaggingClassifier, and joblib.Parallel itself.

Usage: python joblib_grid.py [--folds N]
Needs scikit-learn, also on the nodes.
"""

from __future__ import annotations

import argparse

import joblib
import numpy
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import qsub_py

GRID = {"C": [0.1, 1.0, 10.0, 100.0], "gamma": [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Search a grid on the cluster.")
    parser.add_argument("--folds", type=int, default=5, help="folds of the cross-validation")
    folds = parser.parse_args().folds

    images, labels = load_digits(return_X_y=True)
    search = GridSearchCV(SVC(), GRID, cv=folds)

    qsub_py.register_joblib()
    # What each fit needs: keywords of qsub_py.Executor. n_jobs: all the slots there are.
    with joblib.parallel_config("qsub", cpus=1, time="10m"):
        search.fit(images, labels)

    scores = numpy.array(search.cv_results_["mean_test_score"])
    for c, row in zip(GRID["C"], scores.reshape(len(GRID["C"]), -1), strict=True):
        print(f"C={c:<6g}", *(f"{score:.4f}" for score in row))
    print(f"best: {search.best_params_}, accuracy {search.best_score_:.4f}")


if __name__ == "__main__":
    main()
