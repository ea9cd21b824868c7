"""`datamodules.files`: a user's image files, whatever they are, as the network wants them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.files import ImageFiles, read_image

GREY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)  # three rows of four pixels
RGB = np.stack([GREY, GREY[::-1], np.full_like(GREY, 7)], axis=2)
LUMA = np.array([299, 587, 114]) / 1000  # ITU-R 601-2


def save(image: Image.Image, name: str = "a.png", **options: object) -> Path:
    path = Path(name)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def pixels(path: Path, channels: int = 1, size: tuple[int, int] = (3, 4)) -> Tensor:
    image = torch.from_numpy(read_image(path, channels, size))
    assert image.dtype == torch.uint8
    assert image.shape == (channels, *size)
    return image


def same(image: Tensor, expected: np.ndarray, within: int = 0) -> bool:
    return bool((image.int() - torch.from_numpy(expected.astype(np.int32))).abs().max() <= within)


def test_a_grey_image_comes_as_it_is_stored() -> None:
    path = save(Image.fromarray(GREY))
    assert same(pixels(path), GREY[None])
    assert same(pixels(path, channels=3), np.stack([GREY] * 3))


def test_a_colour_image_comes_as_it_is_stored_or_as_its_luma() -> None:
    path = save(Image.fromarray(RGB))
    assert same(pixels(path, channels=3), RGB.transpose(2, 0, 1))
    assert same(pixels(path), (RGB @ LUMA)[None], within=1)


def test_a_palette_gives_its_colours() -> None:
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 1, 0]))
    image.putpalette([250, 0, 10, 0, 200, 20])
    expected = np.array([[[250, 0], [0, 250]], [[0, 200], [200, 0]], [[10, 20], [20, 10]]])
    assert same(pixels(save(image), channels=3, size=(2, 2)), expected)


def test_black_and_white_becomes_0_and_255() -> None:
    image = Image.fromarray(GREY > 100)
    assert same(pixels(save(image)), 255 * (GREY > 100)[None])


def test_transparency_lies_on_black() -> None:
    alpha = np.array([[0, 255, 128, 255]] * 3, dtype=np.uint8)
    path = save(Image.fromarray(np.dstack([RGB, alpha])))
    expected = RGB * (alpha[..., None] / 255)
    assert same(pixels(path, channels=3), expected.transpose(2, 0, 1), within=1)


def test_a_transparent_palette_entry_is_black() -> None:
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([250, 250, 250, 100, 100, 100])
    assert same(pixels(save(image, transparency=0), size=(1, 2)), np.array([[[0, 100]]]))


def test_16_bit_grey_is_brought_to_8_bits_and_not_clipped() -> None:
    wide = GREY.astype(np.uint16) * 257  # the whole range, 0 to 65,535
    wide[0, 0] = 65535
    expected = GREY.copy()
    expected[0, 0] = 255
    assert same(pixels(save(Image.fromarray(wide))), expected[None])


def test_an_image_lies_as_its_exif_orientation_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = save(Image.fromarray(GREY), exif=exif)
    assert same(pixels(path, size=(4, 3)), np.rot90(GREY, -1)[None])


def test_another_size_is_resampled_and_keeps_its_brightness_and_sides() -> None:
    half = np.zeros((20, 40), dtype=np.uint8)
    half[:, 20:] = 200
    image = pixels(save(Image.fromarray(half)), size=(6, 8))[0]
    assert image.float().mean() == pytest.approx(100, abs=1)
    assert (image[:, :3] == 0).all()
    assert (image[:, 5:] == 200).all()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.gif", "a.webp", "a.jpg", "picture"])
def test_the_format_is_told_by_the_content(name: str) -> None:
    flat = Image.fromarray(np.full((3, 4), 90, dtype=np.uint8))
    options = {"format": "PNG"} if "." not in name else {}
    assert same(pixels(save(flat, name, **options)), np.full((1, 3, 4), 90), within=2)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"^an image file can't give {channels} channels; allowed are 1 and 3$"):
        read_image(save(Image.fromarray(GREY)), channels, (3, 4))


def broken_files() -> dict[str, str]:
    """Files that can't be read, and a word of the reason that the user is to be given."""
    whole = save(Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8))).read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    Path("text.png").write_text("this is no image", encoding="utf-8")
    Path("empty.png").write_bytes(b"")
    Path("folder.png").mkdir()
    return {
        "cut.png": "truncated",
        "text.png": "no image",
        "empty.png": "0 bytes",
        "missing.png": "no such file",
        "folder.png": "a folder",
    }


def test_what_can_not_be_read_is_left_out_with_a_reason_and_the_rest_keeps_its_order() -> None:
    good = [save(Image.fromarray(np.full((3, 4), 50 * i, dtype=np.uint8)), f"{i}.png") for i in (2, 0, 4, 1)]
    broken = broken_files()
    paths = [good[0], *map(Path, broken), *good[1:]]
    files = ImageFiles(paths, 1, (3, 4), batch_size=3)
    batches = list(files)
    assert [len(batch) for batch in batches] == [3, 1]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == [100, 0, 200, 50]
    assert files.read == good
    assert [path for path, _ in files.unread] == list(map(Path, broken))
    for path, reason in files.unread:
        assert broken[path.name] in reason
        assert "\n" not in reason
        assert path.name not in reason  # the caller names the file


def test_going_through_the_files_again_starts_anew() -> None:
    files = ImageFiles([save(Image.fromarray(GREY)), Path("missing.png")], 1, (3, 4))
    list(files)
    list(files)
    assert len(files.read) == len(files.unread) == 1


def test_nothing_to_read_gives_no_batch() -> None:
    assert list(ImageFiles([Path("missing.png")], 1, (3, 4))) == []


def test_a_full_last_batch_is_not_followed_by_an_empty_one() -> None:
    path = save(Image.fromarray(GREY))
    assert [len(batch) for batch in ImageFiles([path] * 4, 3, (3, 4), batch_size=2)] == [2, 2]
