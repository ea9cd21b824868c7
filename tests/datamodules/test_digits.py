"""`datamodules.Digits`: the 1,797 digits of scikit-learn, of which 360 are for testing."""

from collections import Counter

import torch
from lightning.pytorch import seed_everything
from sklearn.datasets import load_digits
from torch import Tensor

from datamodules import Digits


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_training_and_test_images_together_are_the_whole_set_once() -> None:
    images, labels, _ = Digits().load_train()
    test_images, test_labels = Digits().load_test()
    digits = load_digits()
    original = (digits.images * 255 / 16).round().astype("uint8")
    found = Counter(zip(keys(torch.cat([images, test_images])), torch.cat([labels, test_labels]).tolist(), strict=True))
    assert found == Counter(zip([image.tobytes() for image in original], digits.target.tolist(), strict=True))
    assert len(test_labels) == 360
    assert not set(keys(images)) & set(keys(test_images))


def test_the_test_images_are_the_same_whatever_the_seeds() -> None:
    seed_everything(1, verbose=False)
    first, labels = Digits(split_seed=1).load_test()
    seed_everything(2, verbose=False)
    second, again = Digits(split_seed=2).load_test()
    assert torch.equal(first, second)
    assert torch.equal(labels, again)


def test_every_class_has_its_share_of_the_test_images() -> None:
    _, labels = Digits().load_test()
    share = load_digits().target
    for digit in range(10):
        assert abs(int((labels == digit).sum()) - 360 * (share == digit).mean()) < 1


def test_pixels_run_from_0_to_255_in_17_steps() -> None:
    images, _, _ = Digits().load_train()
    assert images.dtype == torch.uint8
    assert images.unique().tolist() == [round(step * 255 / 16) for step in range(17)]


def test_the_network_is_told_what_the_digits_are() -> None:
    data = Digits()
    assert (data.in_channels, data.image_size, data.num_classes) == (1, (8, 8), 10)
    assert data.class_names == list("0123456789")


def test_1221_digits_are_trained_on_216_validated_and_360_tested() -> None:
    data = Digits(batch_size=1, eval_batch_size=1)
    data.setup("fit")
    data.setup("test")
    assert len(data.train_dataloader()) == 1221  # 1,437 - round(0.15 * 1,437)
    assert len(data.val_dataloader()) == 216
    assert len(data.test_dataloader()) == 360
