"""Image files, read as a network takes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

Fit = Literal["crop", "pad", "stretch"]
# what Pillow's readers raise on damaged files of all its formats
UNREADABLE = (OSError, ValueError, SyntaxError, RuntimeError, MemoryError, Image.DecompressionBombError)
SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class ImageFiles:
    """Iterate over batches `(N, C, H, W)` uint8 of image files; those that can't be read are left out.

    While it is iterated over, `read` and `unread` fill with the files that were and were not.

    Args:
        paths: Files of any format that Pillow knows.
        channels: 1 converts to grey, 3 to RGB.
        size: Height and width in pixels to which each image is resized.
        batch_size: Images per batch.
        fit: See `read_image`.
    """

    def __init__(
        self, paths: list[Path], channels: int, size: tuple[int, int], batch_size: int = 256, fit: Fit = "stretch"
    ) -> None:
        self.paths, self.channels, self.size, self.batch_size, self.fit = paths, channels, size, batch_size, fit
        self.read: list[Path] = []
        self.unread: list[tuple[Path, str]] = []

    def __iter__(self) -> Iterator[Tensor]:
        self.read, self.unread = [], []
        images: list[Tensor] = []
        for path in self.paths:
            try:
                images.append(torch.from_numpy(read_image(path, self.channels, self.size, self.fit)))
            except UNREADABLE as error:
                self.unread.append((path, reason_of(path, error)))
                continue
            self.read.append(path)
            if len(images) == self.batch_size:
                yield torch.stack(images)
                images = []
        if images:
            yield torch.stack(images)


def read_image(
    file: Path | BinaryIO, channels: int, size: tuple[int, int], fit: Fit = "stretch", suffix: str = ""
) -> np.ndarray:
    """An image file as `(C, H, W)` uint8: upright, resized (bilinear, over all pixels), transparency on black.

    Of several images in a file it is the first one; of 16 bits the upper 8.

    Args:
        file: A path, or a file that is open.
        channels: 1 converts to grey, 3 to RGB.
        size: Height and width in pixels.
        fit: `crop` cuts off what is too much of the longer side, on both ends alike; `pad` keeps all and fills the rest
            with black; `stretch` changes the proportions.
        suffix: The end of the file's name, `.png` say, when a file that is of another format is to be refused.

    Raises:
        OSError: The file is missing, unreadable, damaged or no image.
        ValueError: `channels` is neither 1 nor 3, or the file is not of the format that its name says.
    """
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(f"an image file can't give {channels} channels; allowed are 1 and 3")
    with Image.open(file) as opened:
        named = Image.registered_extensions().get(suffix.lower())
        if suffix and named and not _same_format(named, opened.format):
            raise ValueError(f"a {opened.format} file by the name of {suffix}")
        opened.draft(modes[channels], (2 * max(size), 2 * max(size)))  # a large JPEG is decoded at a part of its size
        image = ImageOps.exif_transpose(opened)
        if image.mode in SIXTEEN_BIT:  # Pillow would clip it to 255
            grey = np.asarray(image).astype(np.float64)
            image = Image.fromarray((grey / 257).clip(0, 255).round().astype(np.uint8))
        elif image.mode == "F":
            image = Image.fromarray(np.nan_to_num(np.asarray(image)).clip(0, 255).round().astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        pixels = np.array(_fitted(image.convert(modes[channels]), size, fit))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    if fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _same_format(named: str, found: str | None) -> bool:
    # photographs of several pictures, as telephones make them, are called .jpg; a bitmap's relatives share its name
    return named == found or {named, found} in ({"JPEG", "MPO"}, {"BMP", "DIB"})


def reason_of(path: Path, error: Exception) -> str:
    """Why a file could not be read, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if path.is_dir():
        return "a folder"
    if path.is_file() and path.stat().st_size == 0:
        return "0 bytes"
    text = str(error).replace(f" {str(path)!r}", "")
    return "no image" if text.startswith("cannot identify image file") else text or type(error).__name__


def known_fit(fit: Fit) -> Fit:
    """The way of fitting, or a ValueError that says which there are."""
    if fit not in get_args(Fit):
        raise ValueError(f"data.fit: {fit!r} is unknown; allowed are {', '.join(get_args(Fit))}")
    return fit
