"""A user's own image files, read for prediction."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


class ImageFiles:
    """Iterate over batches `(N, C, H, W)` uint8 of image files; those that can't be read are left out.

    While it is iterated over, `read` and `unread` fill with the files that were and were not.

    Args:
        paths: Files of any format that Pillow knows.
        channels: 1 converts to grey, 3 to RGB.
        size: Height and width in pixels to which each image is resized (bilinear).
        batch_size: Images per batch.
    """

    def __init__(self, paths: list[Path], channels: int, size: tuple[int, int], batch_size: int = 256) -> None:
        self.paths, self.channels, self.size, self.batch_size = paths, channels, size, batch_size
        self.read: list[Path] = []
        self.unread: list[tuple[Path, str]] = []

    def __iter__(self) -> Iterator[Tensor]:
        self.read, self.unread = [], []
        images: list[Tensor] = []
        for path in self.paths:
            try:
                images.append(read_image(path, self.channels, self.size))
            # what Pillow's readers raise on damaged files of all its formats
            except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
                self.unread.append((path, _reason(path, error)))
                continue
            self.read.append(path)
            if len(images) == self.batch_size:
                yield torch.stack(images)
                images = []
        if images:
            yield torch.stack(images)


def read_image(path: Path, channels: int, size: tuple[int, int]) -> Tensor:
    """An image file as `(C, H, W)` uint8, upright, transparency on black.

    Raises:
        OSError: The file is missing, unreadable, damaged or no image.
        ValueError: `channels` is neither 1 nor 3.
    """
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(f"an image file can't give {channels} channels; allowed are 1 and 3")
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in ("I", "I;16", "I;16B", "F"):  # 16-bit grey: Pillow would clip it to 255
            grey = np.asarray(image, dtype=np.float64)
            image = Image.fromarray((grey / (257 if grey.max() > 255 else 1)).clip(0, 255).round().astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        image = image.convert(modes[channels])
        if image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if path.is_dir():
        return "a folder"
    if path.is_file() and path.stat().st_size == 0:
        return "0 bytes"
    return str(error).replace(f" {str(path)!r}", "") or type(error).__name__
