"""The handwritten digits that come inside scikit-learn: real data, nothing to download."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from datamodules.image_arrays import ImageArrays


class Digits(ImageArrays):
    """1,797 handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak 1998, UCI, https://doi.org/10.24432/C50P49).

    360 of them, drawn once and stratified, are the test images, whatever `split_seed` and `seed_everything`
    say. Pixels are stored as 0 to 255 (0 to 16 in the original), so that an ordinary image file fits.
    """

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        images, labels = self._part(0)
        return images, labels, [str(digit) for digit in range(10)]

    def load_test(self) -> tuple[Tensor, Tensor]:
        return self._part(1)

    @staticmethod
    def _part(which: int) -> tuple[Tensor, Tensor]:
        digits = load_digits()
        split = train_test_split(range(len(digits.target)), test_size=360, stratify=digits.target, random_state=0)
        chosen = torch.tensor(sorted(split[which]))
        images = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)
        return images[chosen, None], torch.from_numpy(digits.target)[chosen]
