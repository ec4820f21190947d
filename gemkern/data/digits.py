"""The handwritten digits that scikit-learn carries: 1,797 images of 8 x 8, nothing to download."""

from __future__ import annotations

import numpy as np

from gemkern.data.files import StrPath
from gemkern.data.randomness import Stream, random_numbers
from gemkern.data.split import Source, Split
from gemkern.data.splits import hold_out
from gemkern.errors import GemkernError

_CLASSES = 10
_BRIGHTEST = 16
_TEST_FRACTION = 0.2


def read(data_dir: StrPath | None = None) -> Source:
    """Return the digits as one channel of 0 to 255; a fixed fifth of every class is the test split.

    Args:
        data_dir: not used; the images come with scikit-learn.

    Raises:
        GemkernError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise GemkernError(
            "the data set 'digits' comes with scikit-learn, which is not installed: "
            "pip install gemkern[demo]"
        ) from error
    digits = load_digits()
    images = np.rint(digits.images * 255 / _BRIGHTEST)[:, None]
    everything = Split.from_arrays(images, digits.target)
    numbers = random_numbers(Stream.DIGITS_TEST_SET, seed=0)
    train, test = hold_out(everything, _CLASSES, _TEST_FRACTION, numbers)
    return Source(train, test, _CLASSES)
