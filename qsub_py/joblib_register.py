"""`register_joblib`: make the cluster known to joblib, whose import is left to its call."""

from __future__ import annotations


def register_joblib() -> None:
    """Make "qsub" a backend of joblib, and so of everything that has an `n_jobs`.

    ::

        qsub_py.register_joblib()
        with joblib.parallel_config("qsub", mem="4G", time="1h"):
            GridSearchCV(SVC(), grid, n_jobs=-1).fit(images, labels)

    The keywords are those of `Executor`. Raises ImportError where joblib is missing or too old.
    """
    try:
        import joblib
        from joblib.parallel import parallel_config as _  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"register_joblib() needs joblib 1.4 or later ({error});"
            " run: pip install 'qsub_py[joblib]'"
        ) from None
    from qsub_py.joblib_backend import QsubBackend

    joblib.register_parallel_backend("qsub", QsubBackend)
