"""MNIST and every other image set in its file format (IDX), such as Fashion-MNIST, KMNIST and EMNIST."""

import gzip
import hashlib
import re
import socket
import zlib
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.hub import download_url_to_file

from datamodules.arrays import Sampler
from datamodules.augment import Augment
from datamodules.image_arrays import ImageArrays

# the four files as they are published, at https://yann.lecun.com/exdb/mnist
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://yann.lecun.com/exdb/mnist/",
)
PARTS = {
    "train images": r"train-images[.-]idx3-ubyte(\.gz)?",
    "train labels": r"train-labels[.-]idx1-ubyte(\.gz)?",
    "test images": r"(t10k|test)-images[.-]idx3-ubyte(\.gz)?",
    "test labels": r"(t10k|test)-labels[.-]idx1-ubyte(\.gz)?",
}


class MNIST(ImageArrays):
    """70,000 handwritten digits of 28 x 28 pixels (LeCun et al. 1998), or another set in the same four files.

    The official test set is the test set. When none of the four files is in `data_dir`, MNIST is fetched into
    it, checked by SHA-256 and moved into place whole. Number and names of the classes, image size and
    normalisation come from the files, so another set needs another `data_dir` and nothing else.

    Args:
        data_dir: Folder with the four IDX files, gzipped or not.
        prefix: Chooses one of several sets in the same folder by the start of their file names, for example
            `emnist-letters`. Without it, a set whose names have no prefix goes first.
        batch_size: Training images per step, over all devices together.
        val_fraction: Share of the training images that is held out for validation, in (0, 1).
        split_seed: Which images are held out.
        eval_batch_size: Images per batch in validation, test and prediction.
        augment: Random changes of the training images.
        mirrors: Addresses to fetch from, tried in this order.
        sampler: `balanced` trains with as many images of each class as of any other.
    """

    def __init__(
        self,
        data_dir: str = "data/mnist",
        prefix: str = "",
        batch_size: int = 256,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        eval_batch_size: int = 500,
        augment: Augment = Augment(),  # noqa: B008 (frozen)
        mirrors: list[str] = list(MIRRORS),  # noqa: B006 (read only)
        sampler: Sampler = "shuffle",
    ) -> None:
        super().__init__(batch_size, val_fraction, split_seed, eval_batch_size, augment, sampler)
        self.data_dir = Path(data_dir).expanduser()
        self.prefix = prefix
        self.mirrors = mirrors

    def prepare_data(self) -> None:
        if self.files is None:  # a user's own files are predicted without those of the training
            self._paths()

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        images, values = self._part("train")
        # EMNIST counts its letters from 1: the classes are the values that occur, in order
        classes, labels = values.unique(sorted=True, return_inverse=True)
        return images, labels, [str(value) for value in classes.tolist()]

    def load_test(self) -> tuple[Tensor, Tensor]:
        images, values = self._part("test")
        classes = torch.tensor([int(name) for name in self.class_names])
        labels = torch.searchsorted(classes, values).clamp(max=len(classes) - 1)
        strange = values[classes[labels] != values]
        if len(strange):
            raise ValueError(f"{self._paths()['test labels']}: label {int(strange[0])} is not in the training labels")
        return images, labels

    def _part(self, part: str) -> tuple[Tensor, Tensor]:
        paths = self._paths()
        images, labels = read_idx(paths[f"{part} images"], 3), read_idx(paths[f"{part} labels"], 1)
        if len(images) != len(labels):
            raise ValueError(
                f"{paths[f'{part} labels']}: {len(labels)} labels for the {len(images)} images of "
                f"{paths[f'{part} images'].name}"
            )
        return images[:, None], labels.long()

    def _paths(self) -> dict[str, Path]:
        """The four files; fetched first when there is none of them."""
        found = self._find()
        if not self.prefix and not all(found.values()) and self._is_mnist(found):
            found = self._fetch()
        for part, paths in found.items():
            if len(paths) > 1:
                raise ValueError(
                    f"data.data_dir: {self.data_dir} holds several sets ({', '.join(p.name for p in paths)}); "
                    "choose one with data.prefix"
                )
            if not paths:
                example = self.data_dir / (f"{self.prefix}-" * bool(self.prefix) + _example(part))
                raise FileNotFoundError(
                    f"data.data_dir: {self.data_dir} has no file for the {part} (such as {example})"
                )
        return {part: paths[0] for part, paths in found.items()}

    def _find(self) -> dict[str, list[Path]]:
        if self.data_dir.exists() and not self.data_dir.is_dir():
            raise NotADirectoryError(f"data.data_dir: {self.data_dir} is a file, not a folder")
        names = sorted(p.name for p in self.data_dir.iterdir() if p.is_file()) if self.data_dir.exists() else []
        found = {}
        for part, pattern in PARTS.items():
            start = re.escape(self.prefix)
            exact = [name for name in names if re.fullmatch(rf"{start}[-_.]?{pattern}", name)]
            matching = exact or [name for name in names if re.fullmatch(rf"{start}.*?{pattern}", name)]
            # a file and its gzipped twin are one
            matching = [name for name in matching if name.removesuffix(".gz") not in matching or name[-3:] != ".gz"]
            found[part] = [self.data_dir / name for name in matching]
        return found

    @staticmethod
    def _is_mnist(found: dict[str, list[Path]]) -> bool:
        """Whether all that is there is MNIST's own, as after a fetch that broke off."""
        return all(SHA256.get(path.name) == file_sha256(path) for paths in found.values() for path in paths)

    def _fetch(self) -> dict[str, list[Path]]:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            with FileLock(self.data_dir / ".fetching"):
                for name, sha256 in SHA256.items():
                    if not (self.data_dir / name).exists():
                        self._fetch_file(name, sha256)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            raise OSError(f"data.data_dir: can't write to {self.data_dir} ({error.strerror or error})") from error
        return self._find()

    def _fetch_file(self, name: str, sha256: str) -> None:
        print(f"fetching {name} into {self.data_dir}", flush=True)
        reasons = []
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(20)
        try:
            for mirror in self.mirrors:
                try:
                    # writes a temporary file in the same folder, checks its hash, and moves it into place
                    download_url_to_file(mirror.rstrip("/") + "/" + name, str(self.data_dir / name), sha256)
                    return
                except Exception as error:  # whatever goes wrong with one mirror, the next may do
                    reasons.append(f"{mirror}: {error}")
                    for partial in self.data_dir.glob(f"{name}.*.partial"):
                        partial.unlink()
        finally:
            socket.setdefaulttimeout(timeout)
        raise ConnectionError(
            f"data.data_dir: can't fetch MNIST ({'; '.join(reasons) or 'no mirrors'}): put {', '.join(SHA256)} into "
            f"{self.data_dir}, or run configs/cnn.yaml, which needs no download"
        )


def read_idx(path: Path, dims: int) -> Tensor:
    """A file of unsigned bytes in the IDX format, gzipped or not, as a uint8 tensor with `dims` dimensions.

    The format: two zero bytes, a byte for the type (8: unsigned), a byte for the number of dimensions, a
    big-endian 32-bit size for each, the values (https://yann.lecun.com/exdb/mnist).

    Raises:
        ValueError: The file is damaged, cut short, or of another kind.
        OSError: The file can't be read.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: a damaged gzip file ({error})") from error
    start = 4 + 4 * dims
    if len(data) < start or data[:4] != bytes((0, 0, 8, dims)):
        raise ValueError(f"{path}: not an IDX file of bytes in {dims} dimension{'s' * (dims > 1)} ({len(data)} bytes)")
    shape = np.frombuffer(data, ">u4", dims, offset=4).tolist()
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected or 0 in shape:
        raise ValueError(f"{path}: {len(data)} bytes where its header ({'x'.join(map(str, shape))}) says {expected}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _example(part: str) -> str:
    return next(n for n in SHA256 if re.fullmatch(PARTS[part], n))
