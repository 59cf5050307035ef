"""Fit a model of one's own on the data set: here the curve from the design, by ridge regression.

    python examples/train_another_model.py results/demo/data/dataset.json

``Dataset`` gives any array of the shards (frames, solid, quarter, curve_stress ...) at the places
of the split that every model is scored on.
"""

import sys

import numpy as np

from crumple.dataset import Dataset
from crumple.metrics import nrmse


def main(manifest: str, ridge: float = 100.0) -> float:
    """Return the median error (NRMSE) of held-out curves."""
    data = Dataset(manifest)
    inputs, curves = {}, {}
    for part, places in data.split.items():
        quarter = data.read("quarter", places).reshape(len(places), -1).astype(float)
        inputs[part] = np.column_stack([quarter, np.ones(len(places))])
        curves[part] = data.read("frame_stress", places)
    x, y = inputs["train"], curves["train"]
    dual = np.linalg.solve(x @ x.T + ridge * np.eye(len(x)), y)
    predicted = inputs["validation"] @ (x.T @ dual)
    error = float(np.median(nrmse(predicted, curves["validation"])))
    baseline = float(
        np.median(nrmse(np.tile(y.mean(0), (len(predicted), 1)), curves["validation"]))
    )
    print(f"{len(x)} training designs; NRMSE of {len(predicted)} held-out curves, median: ", end="")
    print(f"ridge regression {100 * error:.1f} %, mean curve {100 * baseline:.1f} %")
    return error


if __name__ == "__main__":
    main(sys.argv[1])
