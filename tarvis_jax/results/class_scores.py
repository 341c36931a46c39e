"""From class logits to class scores."""

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float64."""
    exp = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def best_class(logits: np.ndarray) -> tuple[int, float]:
    """Class id 1..K and its softmax probability of class logits [1 + K], column 0 = background."""
    scores = softmax(logits)
    class_id = 1 + int(np.argmax(scores[1:]))
    return class_id, float(scores[class_id])
