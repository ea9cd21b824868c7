"""scikit-learn's handwritten digits as image files in folders: real files to try `ImageFolder` with."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from PIL import Image

from datamodules.digits import Digits
from datamodules.image_folder import ImageFolder
from datamodules.image_lists import Listed


class DigitImages(ImageFolder):
    """The images of `datamodules.Digits` as PNG files, `root/train/DIGIT/` and `root/test/DIGIT/`.

    They are written when there is no such folder. The test images are those of `Digits`.
    """

    def __init__(self, root: str = "data/digits", size: int = 16, channels: Literal[1, 3] = 1, **kwargs: Any) -> None:
        super().__init__(root, size=size, channels=channels, **kwargs)

    def list_images(self) -> Listed:
        if not self.root.exists():
            self.root.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root.parent / f".{self.root.name}.lock"):
                if not self.root.exists():  # another process may have written it meanwhile
                    write_digits(self.root)
        return super().list_images()


def write_digits(folder: Path) -> int:
    """Write the digits as PNG files of 8 x 8 pixels, and say how many.

    Raises:
        FileExistsError: There is something by the name of the folder.
        OSError: It can't be written.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, count = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)), 0
    try:
        digits = Digits()
        for name, (images, labels) in (("train", digits.load_train()[:2]), ("test", digits.load_test())):
            for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                path = part / name / str(label) / f"{number:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[0].numpy()).save(path)
                count += 1
        part.chmod(0o755)
        part.rename(folder)  # whole, or not at all
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count
