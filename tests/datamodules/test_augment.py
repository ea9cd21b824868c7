"""`datamodules.Augment`: how far an image is moved, turned and scaled, measured on the image itself."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import Augment

HEIGHT, WIDTH = 24, 40  # not square: pixels must stay square when they are turned


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(count: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Images `(N, 2, H, W)` whose pixels hold their own x and y, counted from the centre."""
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    return torch.stack([x, y]).double().expand(count, 2, height, width)


def measured(augment: Augment, count: int = 500) -> tuple[Tensor, Tensor]:
    """The affine map of each image: where its centre comes from `(N, 2)`, and its matrix `(N, 2, 2)`, in pixels."""
    out = augment(coordinates(count), generator())
    middle = out[:, :, HEIGHT // 2 - 1 : HEIGHT // 2 + 1, WIDTH // 2 - 1 : WIDTH // 2 + 1]
    along_x = (middle[..., 1] - middle[..., 0]).mean(2)
    along_y = (middle[:, :, 1] - middle[:, :, 0]).mean(2)
    return middle.mean((2, 3)), torch.stack([along_x, along_y], dim=2)


def test_nothing_happens_when_all_is_0() -> None:
    x = torch.rand(3, 1, 5, 7, generator=generator())
    assert torch.equal(Augment()(x), x)
    assert not Augment().active


@pytest.mark.parametrize("options", [{"shift": 0.1}, {"rotate": 5}, {"scale": 0.2}])
def test_something_happens_when_one_is_set(options: dict[str, float]) -> None:
    assert Augment(**options).active
    assert not torch.equal(Augment(**options)(coordinates(1), generator()), coordinates(1))


def test_shift_moves_by_up_to_its_share_of_each_side_and_turns_nothing() -> None:
    centre, matrix = measured(Augment(shift=0.1))
    for axis, side in ((0, WIDTH), (1, HEIGHT)):
        assert centre[:, axis].abs().max() <= 0.1 * side + 1e-6
        assert centre[:, axis].max() > 0.095 * side
        assert centre[:, axis].min() < -0.095 * side
    assert torch.allclose(matrix, torch.eye(2).double(), atol=1e-6)


def test_where_an_image_moves_away_its_edge_is_repeated() -> None:
    x = torch.rand(300, 1, 8, 8, dtype=torch.float64, generator=generator(1))
    out = Augment(shift=0.25)(x, generator())
    assert out.amax() <= x.amax()
    assert out.amin() >= x.amin() > 0  # no black corners


def test_rotate_turns_by_up_to_its_angle_and_keeps_pixels_square() -> None:
    centre, matrix = measured(Augment(rotate=30))
    assert torch.allclose(matrix @ matrix.mT, torch.eye(2).double(), atol=1e-6)
    assert torch.allclose(matrix.det(), torch.ones(1).double(), atol=1e-6)
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    assert 29 < angle.max() <= 30 + 1e-6
    assert -30 - 1e-6 <= angle.min() < -29
    assert centre.abs().max() < 1e-6


def test_scale_zooms_both_sides_alike() -> None:
    centre, matrix = measured(Augment(scale=0.2))
    zoom = 1 / matrix[:, 0, 0]
    assert 1.19 < zoom.max() <= 1.2 + 1e-6
    assert 0.8 - 1e-6 <= zoom.min() < 0.81
    assert torch.allclose(matrix, torch.eye(2).double() / zoom.view(-1, 1, 1), atol=1e-6)
    assert centre.abs().max() < 1e-6


def test_all_together_stay_within_their_bounds() -> None:
    _, matrix = measured(Augment(shift=0.05, rotate=45, scale=0.1))
    zoom = matrix.det().rsqrt()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    assert 0.9 - 1e-6 <= zoom.min() < zoom.max() <= 1.1 + 1e-6
    assert angle.abs().max() <= 45 + 1e-6
    square = matrix * zoom.view(-1, 1, 1)
    assert torch.allclose(square @ square.mT, torch.eye(2).double(), atol=1e-6)


def test_a_quarter_turn_of_a_wide_image_is_the_hand_turned_image() -> None:
    x = torch.zeros(1, 1, 5, 9, dtype=torch.float64)
    x[0, 0, 2, 4:7] = torch.tensor([1.0, 2.0, 3.0])  # a bar from the centre to the right
    many = Augment(rotate=180)(x.expand(4000, 1, 5, 9), generator())
    up, down = torch.zeros(5, 9).double(), torch.zeros(5, 9).double()
    up[[2, 1, 0], 4] = torch.tensor([1.0, 2.0, 3.0]).double()
    down[[2, 3, 4], 4] = torch.tensor([1.0, 2.0, 3.0]).double()
    for turned in (up, down):  # of 4,000 angles one is within a quarter of a degree
        assert (many[:, 0] - turned).abs().amax((1, 2)).min() < 0.05


def test_each_image_of_a_batch_is_changed_in_its_own_way() -> None:
    out = Augment(shift=0.1, rotate=10)(coordinates(8), generator())
    assert len({tuple(image.flatten().tolist()) for image in out}) == 8


def test_the_same_generator_gives_the_same_images() -> None:
    augment, x = Augment(shift=0.1, rotate=10, scale=0.1), coordinates(4)
    torch.manual_seed(1)
    first = augment(x, generator(3))
    torch.manual_seed(2)
    assert torch.equal(augment(x, generator(3)), first)
    assert not torch.equal(augment(x, generator(4)), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 5, 7), (1, 3, 1, 1)])
def test_shape_and_dtype_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    out = Augment(shift=0.1, rotate=10, scale=0.1)(torch.ones(shape, dtype=dtype), generator())
    assert out.shape == shape
    assert out.dtype == dtype
    assert torch.allclose(out, torch.ones(()).to(dtype))  # an even image stays one


def test_the_images_given_are_left_as_they_are() -> None:
    x = torch.rand(2, 1, 8, 8, generator=generator())
    before = x.clone()
    Augment(rotate=90)(x, generator())
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": 1.5}, "data.augment.shift: 1.5 is outside [0, 1]"),
        ({"shift": -0.1}, "data.augment.shift: -0.1 is outside [0, 1]"),
        ({"rotate": 181}, "data.augment.rotate: 181 is outside [0, 180]"),
        ({"scale": 2}, "data.augment.scale: 2 is outside [0, 1]"),
        ({"scale": math.nan}, "data.augment.scale: nan is outside [0, 1]"),
    ],
)
def test_impossible_ranges_are_refused_by_the_name_of_their_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Augment(**options)


def test_flips_mirror_about_every_second_image_along_their_axis_and_exactly() -> None:
    stored = coordinates(400)
    for flip, axes in (("horizontal", [True, False]), ("vertical", [False, True]), ("both", [True, True])):
        out = Augment(flip=flip)(stored, generator())  # type: ignore[arg-type]
        for axis, is_flipped in enumerate(axes):
            signs = (out[:, axis] * stored[:, axis]).sign().flatten(1).mean(1)
            assert set(signs.round(decimals=9).tolist()) == ({-1.0, 1.0} if is_flipped else {1.0})
            assert torch.allclose(out[:, axis].abs(), stored[:, axis].abs(), atol=1e-6)
            assert 0.4 < (signs < 0).double().mean() < 0.6 or not is_flipped
    # each axis by itself
    out = Augment(flip="both")(stored, generator())
    assert len((out * stored).sign().flatten(2).mean(2).round().unique(dim=0)) == 4


def test_a_crop_keeps_its_share_of_the_area_within_the_image_and_fills_the_whole() -> None:
    out = Augment(crop=0.25)(coordinates(500), generator())
    assert out[:, 0].abs().max() <= (WIDTH - 1) / 2 + 1e-9
    assert out[:, 1].abs().max() <= (HEIGHT - 1) / 2 + 1e-9
    _, matrix = measured(Augment(crop=0.25))
    assert matrix[:, 0, 1].abs().max() < 1e-9
    area = matrix[:, 0, 0] * matrix[:, 1, 1]
    assert area.min() > 0.24
    assert area.min() < 0.3
    assert area.max() <= 1 + 1e-9
    whole = matrix[(matrix.diagonal(dim1=1, dim2=2) < 0.99).all(1)]
    ratio = whole[:, 0, 0] / whole[:, 1, 1]  # in units of each side
    assert 0.74 < ratio.min() < 0.8
    assert 1.28 < ratio.max() < 1.34


def picture(count: int = 64, channels: int = 3) -> Tensor:
    return (torch.rand(1, channels, 12, 16, generator=generator(3)) * 255).expand(count, -1, -1, -1)


CHANGES: list[dict[str, Any]] = [
    {"brightness": 0.3},
    {"contrast": 0.3},
    {"saturation": 0.5},
    {"hue": 0.1},
    {"rand_augment": 2, "magnitude": 12},
]


@pytest.mark.parametrize("options", CHANGES)
def test_colours_change_in_each_image_by_numbers_of_its_own_that_the_generator_gives(options: dict[str, Any]) -> None:
    augment, before = Augment(**options), torch.get_rng_state()
    out = augment(picture(), generator(5))
    assert out.shape == picture().shape
    assert out.min() >= 0
    assert out.max() <= 255
    assert len(out.flatten(1).unique(dim=0)) > 40
    assert torch.equal(out, augment(picture(), generator(5)))
    assert not torch.equal(out, augment(picture(), generator(6)))
    assert torch.equal(torch.get_rng_state(), before), "the training's own generator is left alone"


def test_brightness_multiplies_by_up_to_its_share_more_or_less() -> None:
    grey = torch.full((500, 1, 4, 4), 127.5)
    change = Augment(brightness=0.2)(grey, generator())[:, 0, 0, 0] - 127.5
    assert 0.19 * 127.5 < change.max() <= 0.2 * 127.5 + 1e-3
    assert -0.2 * 127.5 - 1e-3 <= change.min() < -0.19 * 127.5


def test_grey_images_have_neither_saturation_nor_hue_and_are_told_so() -> None:
    assert Augment(contrast=0.2, rand_augment=2)(picture(channels=1), generator()).shape == (64, 1, 12, 16)
    with pytest.raises(ValueError, match=r"^data.augment.saturation: images with 1 channels have none"):
        Augment(hue=0.1)(picture(channels=1), generator())


def test_rand_augment_draws_kinds_of_change_for_each_image_alone() -> None:
    # shifts move the mean of a corner, colours that of the whole: of one kind for the batch there would be few groups
    out = Augment(rand_augment=1, magnitude=15)(picture(300), generator())
    moved = (out - picture(300)).abs().mean((1, 2, 3))
    assert len(moved.round(decimals=3).unique()) > 15


def test_erasing_covers_a_rectangle_with_the_mean() -> None:
    x, labels = torch.ones(400, 3, 20, 20), torch.zeros(400, dtype=torch.int64)
    out, same = Augment(erase=0.5).finish(x, labels, 10, generator())
    share = (out[:, 0] == 0).float().mean((1, 2))
    assert torch.equal(same, labels)
    assert 0.42 < (share > 0).float().mean() < 0.58
    assert share[share > 0].min() > 0.01
    assert share.max() < 0.36
    hole = (out[int(share.argmax()), 0] == 0).nonzero()
    height, width = (hole.max(0).values - hole.min(0).values + 1).tolist()
    assert height * width == len(hole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": "left"}, "data.augment.flip: 'left' is unknown; allowed are none, horizontal, vertical, both"),
        ({"crop": 0.0}, "data.augment.crop: 0.0 is outside (0, 1]"),
        ({"hue": 0.6}, "data.augment.hue: 0.6 is outside [0, 0.5]"),
        ({"mixup": -1.0}, "data.augment.mixup: -1.0 is outside [0, inf]"),
        ({"cutmix": math.inf}, "data.augment.cutmix: inf is outside [0, inf]"),
    ],
)
def test_impossible_changes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Augment(**options)
