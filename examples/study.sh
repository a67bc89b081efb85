#!/bin/sh
# A study from end to end, on scikit-learn's handwritten digits: a sweep, what failed run again,
# more points where it looks good, a table and a plot.
#   ./study.sh [DIRECTORY]     (the files are written there)
# Needs scikit-learn and matplotlib, and a node: qnode start
set -e
python=${PYTHON:-python3}
mkdir -p "${1:-.}"
cd "${1:-.}"

# What one task does: learn from all folds but one, tell the accuracy on that one. The function gets
# the parameters by name; the items of what it returns are columns of the table.
cat > fit.py <<'END'
import numpy as np
from sklearn.svm import SVC


def fit(C, gamma, fold):
    folds = [np.load(f"fold-{n}.npz") for n in range(3)]
    test = folds.pop(fold)
    images = np.concatenate([fold["images"] for fold in folds])
    labels = np.concatenate([fold["labels"] for fold in folds])
    model = SVC(C=C, gamma=gamma).fit(images, labels)
    return {"accuracy": model.score(test["images"], test["labels"])}
END

make_folds() {
    "$python" - "$@" <<'END'
import sys
import numpy as np
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
for n in map(int, sys.argv[1:]):
    np.savez(f"fold-{n}.npz", images=images[n::3], labels=labels[n::3])
END
}

# 1. The sweep: 2 x 2 x 3 tasks. A file is missing, so they fail, and the third failure stops the rest.
make_folds 0 1
job=$(qsub --max-fails 2 --sweep C=1,10 --sweep gamma=0.0001,0.001 --sweep fold=0:2 fit.py:fit)
qwait "$job" || echo "job $job: $(qlog "$job" | grep -m 1 Error)"

# 2. The file is there now: what failed, and what was cancelled, runs again in the same job.
make_folds 2
qrerun "$job" --state F,CA
qwait "$job"

# 3. More points: another gamma for each C and fold. Only the new points run.
qsub --extend "$job" --sweep gamma=0.0003,0.001 --wait

# 4. The table, for other programs too, and the plot.
qresult "$job"
qresult "$job" --csv > digits.csv
qresult "$job" --plot x=gamma y=accuracy by=C -o digits.png
