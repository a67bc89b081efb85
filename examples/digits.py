"""A parameter sweep on real data: which C and gamma suit a support vector machine?

Cross-validates scikit-learn's SVC on the handwritten digits that ship with it (1,797 images of
8 x 8 pixels), one call on the cluster for each point of a grid. Ends in a table and a plot.

Usage: python digits.py [--out DIR] [--folds N]
Needs scikit-learn and matplotlib, also on the nodes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import qsub_py

C_VALUES = [0.1, 1.0, 10.0, 100.0]
GAMMAS = [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def accuracy(c: float, gamma: float, folds: int) -> float:
    """Return the mean accuracy (0 to 1) of an SVC with these parameters; runs on a node."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    images, labels = load_digits(return_X_y=True)
    return float(cross_val_score(SVC(C=c, gamma=gamma), images, labels, cv=folds).mean())


def with_progress(values: Iterable[float], total: int) -> list[float]:
    """Collect the values and draw a bar on a terminal meanwhile."""
    collected: list[float] = []
    for value in values:
        collected.append(value)
        if sys.stderr.isatty():
            filled = 30 * len(collected) // total
            bar = "#" * filled + "." * (30 - filled)
            print(f"\r[{bar}] {len(collected)}/{total}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return collected


def print_table(scores: dict[tuple[float, float], float]) -> None:
    best = max(scores, key=lambda point: scores[point])
    print("accuracy".rjust(10) + "".join(f"gamma={gamma:g}".rjust(14) for gamma in GAMMAS))
    for c in C_VALUES:
        cells = (f"{scores[c, g]:.4f}" + ("*" if (c, g) == best else " ") for g in GAMMAS)
        print(f"C={c:g}".rjust(10) + "".join(cell.rjust(14) for cell in cells))
    print(f"best: C={best[0]:g}, gamma={best[1]:g}, accuracy {scores[best]:.4f}")


def write_csv(scores: dict[tuple[float, float], float], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["C", "gamma", "accuracy"])
        writer.writerows((c, gamma, score) for (c, gamma), score in scores.items())


def plot(scores: dict[tuple[float, float], float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    grid = [[scores[c, gamma] for gamma in GAMMAS] for c in C_VALUES]
    image = axes.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(GAMMAS)), [f"{gamma:g}" for gamma in GAMMAS])
    axes.set_yticks(range(len(C_VALUES)), [f"{c:g}" for c in C_VALUES])
    axes.set(xlabel="gamma", ylabel="C", title="SVC on the digits: accuracy by cross-validation")
    for (row, line), (column, _) in itertools.product(enumerate(grid), enumerate(GAMMAS)):
        color = "black" if line[column] > 0.6 else "white"
        axes.text(column, row, f"{line[column]:.3f}", ha="center", va="center", color=color)
    figure.colorbar(image, label="accuracy")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cross-validate an SVC over a grid.")
    parser.add_argument("--out", type=Path, default=Path("."), help="directory for the files")
    parser.add_argument("--folds", type=int, default=5, help="folds of the cross-validation")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    points = list(itertools.product(C_VALUES, GAMMAS))
    values = qsub_py.map(
        accuracy, *zip(*points, strict=True), [args.folds] * len(points), name="digits", time="10m"
    )
    print(f"job {values.job}: {len(points)} tasks", file=sys.stderr)
    scores = dict(zip(points, with_progress(values, len(points)), strict=True))

    print_table(scores)
    write_csv(scores, args.out / "digits.csv")
    plot(scores, args.out / "digits.png")
    print(f"written: {args.out / 'digits.csv'}, {args.out / 'digits.png'}", file=sys.stderr)


if __name__ == "__main__":
    main()
