"""A grid search of scikit-learn on its digits, through any backend of joblib."""

from __future__ import annotations

from typing import Any

from benchmarks.contender import seconds

_WORKERS = 2
_FOLDS = 3
#: A fit of an SVC takes about so many times what one of naive Bayes takes.
_LONGER = 10


def grid(n: int, backend: str) -> dict[str, float]:
    """Time a search of about n fits of some milliseconds, and one of fewer that take longer."""
    import joblib
    import numpy
    from sklearn.naive_bayes import GaussianNB
    from sklearn.svm import SVC

    points = max(n // _FOLDS, 1)
    short = GaussianNB(), {"var_smoothing": numpy.logspace(-9, 0, points)}
    few = max(points // _LONGER, 1)
    long = SVC(gamma=1e-3), {"C": numpy.logspace(-1, 2, few)}
    with joblib.parallel_config(backend, n_jobs=_WORKERS):
        _search(GaussianNB(), {"var_smoothing": [1e-9, 1e-8]})  # imports, in both workers
        return {"grid_short": _search(*short), "grid_long": _search(*long)}


def _search(model: Any, parameters: dict[str, Any]) -> float:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV

    images, labels = load_digits(return_X_y=True)
    search = GridSearchCV(model, parameters, cv=_FOLDS, refit=False)
    return seconds(lambda: search.fit(images, labels))
