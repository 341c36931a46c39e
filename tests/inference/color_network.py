"""A stand-in for the network, and videos for it: a frame's colors say which object is where."""

import numpy as np

from tarvis_jax.compiled import Programs
from tarvis_jax.inference import predictor
from tarvis_jax.inference.predictor import ClassClip, Predictor
from tarvis_jax.model.config import ModelConfig

SIZE = (64, 64)  # a multiple of 64, so that no padding touches the stripes


_PROGRAMS = Programs()  # of all of them: what one has compiled serves the others


def _take(logits, indices):
    return logits[indices]


class ColorNetwork(Predictor):
    """Objects are stripes of a color: red 100 is one, red 200 another; queries come in a random order."""

    def __init__(self):  # no network, only the functions that bring logits to pixels
        self.config, self.device = ModelConfig(), None
        self._matmul_precision = None
        self.programs = _PROGRAMS
        self._take = self._jit(_take)
        self._upsample_masks = self._jit(predictor._upsample_masks)
        self._rng = np.random.default_rng(0)
        self.clips, self.batches = [], []

    def _logits(self, images, red):
        return np.where(images[:, 2::4, 2::4, 0] == red, 1.0, -1.0).astype(np.float32)

    def segment_classes(self, images, dataset, place=None):
        self.clips.append(images)
        order = self._rng.permutation(3)
        masks = np.stack([self._logits(images, red) for red in (100, 200, 250)])[order]
        classes = np.asarray([[0, 9, 0, 0], [0, 0, 0, 9], [9, 0, 0, 0]], np.float32)[order]
        semantic = np.stack([self._logits(images, 0), self._logits(images, 100), -self._logits(images, 0)])
        return ClassClip(classes, masks, semantic, len(images))

    def segment_clips(self, images, dataset, place):
        step = place.length - place.overlap
        firsts = range(0, len(images) - place.overlap, step)
        self.batches.append(len(firsts))
        return [self.segment_classes(images[first : first + place.length], dataset) for first in firsts]

    def segment_objects(self, images, inputs, place=None):
        """Follows the color under the first pixel of an object's mask, or under its point."""
        self.clips.append(inputs)
        out = []
        for row in range(len(inputs.ids)):
            if inputs.is_point[row]:
                y, x = (inputs.points_yx[row] * images.shape[1:3]).astype(int)
                red = images[inputs.point_frames[row], y, x, 0]
            else:
                red = images[..., 0][inputs.masks[row]].max()
            out.append(self._logits(images, red))
        return np.stack(out)


def video(num_frames, first=0, last=None):
    """Stripe 100 at the left, stripe 200 further right from frame `first` to `last`."""
    for index in range(num_frames):
        frame = np.zeros((*SIZE, 3), np.uint8)
        frame[:, 8:16, 0] = 100
        if first <= index < (num_frames if last is None else last):
            frame[:, 40:56, 0] = 200
        yield frame


def stripe(start, stop):
    mask = np.zeros(SIZE, bool)
    mask[:, start:stop] = True
    return mask
