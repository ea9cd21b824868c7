"""`datamodules.MNIST`: any set in the four IDX files, fetched when there is none, refused when damaged."""

import gzip
import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import datamodules.mnist
from datamodules import MNIST
from datamodules.mnist import read_idx
from tests.conftest import make_idx_set, write_idx

FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]
NOWHERE = "http://127.0.0.1:9/"  # the port of the discard service, which nothing listens on


def load(folder: Path | str, **options: Any) -> MNIST:
    """The set in a folder, ready for training and testing; nothing is fetched."""
    data = MNIST(str(folder), **{"batch_size": 8, "mirrors": [], **options})
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def refusal(folder: Path | str, kind: type[Exception] = ValueError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listing(folder: Path) -> list[str]:
    """The files a user sees."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


# ---- sets that are there


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_images_and_labels_come_as_the_files_hold_them(suffix: str) -> None:
    data = load(make_idx_set(Path("set"), suffix=suffix))
    assert data.images.shape == (60, 1, 12, 12)
    assert data.test_images.shape == (30, 1, 12, 12)
    assert data.labels.tolist() == [0, 1, 2] * 20
    assert data.test_labels.tolist() == [0, 1, 2] * 10
    for images, labels in ((data.images, data.labels), (data.test_images, data.test_labels)):
        # make_idx_set paints the column of the class in 250, on noise below 60
        assert torch.equal(images[:, 0, 0].argmax(1), labels)
        assert (images[torch.arange(len(labels)), 0, :, labels] == 250).all()


def test_pixels_lie_in_rows_as_in_the_format() -> None:
    images = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    write_idx(Path("a"), images)
    assert read_idx(Path("a"), 3).tolist() == images.tolist()


def test_another_set_brings_its_own_classes_and_size() -> None:
    data = load(make_idx_set(Path("fashion"), classes=range(5), size=20))
    assert (data.in_channels, data.image_size, data.num_classes) == (1, (20, 20), 5)
    assert data.class_names == ["0", "1", "2", "3", "4"]


def test_labels_that_count_from_1_are_classes_from_0_under_their_own_names() -> None:
    data = load(make_idx_set(Path("emnist"), classes=(1, 2, 3), prefix="emnist-letters-"), prefix="emnist-letters")
    assert data.class_names == ["1", "2", "3"]
    assert data.labels.tolist() == [0, 1, 2] * 20
    assert data.test_labels.tolist() == [0, 1, 2] * 10


def test_classes_missing_in_the_test_set_keep_the_numbers_of_training() -> None:
    folder = make_idx_set(Path("set"), classes=(3, 5, 9))
    write_idx(folder / FILES[3], np.resize([9, 3], 30))
    assert load(folder).test_labels.tolist() == [2, 0] * 15


@pytest.mark.parametrize(("old", "new"), [("-idx", ".idx"), ("t10k", "test")])
def test_the_other_usual_names_of_the_files_are_known(old: str, new: str) -> None:
    folder = make_idx_set(Path("set"), suffix="")
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace(old, new))
    assert len(load(folder).labels) == 60


def test_a_file_beside_its_gzipped_twin_is_one_file() -> None:
    folder = make_idx_set(Path("set"))
    make_idx_set(folder, suffix="")
    assert len(load(folder).labels) == 60


def test_a_prefix_chooses_one_of_several_sets() -> None:
    folder = make_idx_set(Path("emnist"), classes=(0, 1), prefix="emnist-digits-")
    make_idx_set(folder, classes=(1, 2, 3), prefix="emnist-letters-")
    assert load(folder, prefix="emnist-digits").num_classes == 2
    assert load(folder, prefix="emnist-letters").num_classes == 3
    text = refusal(folder)
    assert text.startswith("data.data_dir: emnist holds several sets (emnist-digits-train-images-idx3-ubyte.gz, emn")
    assert text.endswith("choose one with data.prefix")


@pytest.mark.parametrize("name", ["with a space", "größe-数字", "a+b[1]"])
def test_the_folder_may_have_any_name(name: str) -> None:
    assert len(load(make_idx_set(Path("in") / name)).labels) == 60


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make_idx_set(tmp_path / "sets")
    assert len(load("~/sets").labels) == 60


def test_a_complete_read_only_folder_is_enough_and_nothing_is_written_into_it() -> None:
    folder = make_idx_set(Path("set"))
    folder.chmod(0o555)
    try:
        assert len(load(folder, mirrors=[NOWHERE]).labels) == 60
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    finally:
        folder.chmod(0o755)


def test_plain_mnist_can_be_chosen_beside_another_set() -> None:
    folder = make_idx_set(Path("sets"))
    make_idx_set(folder, classes=(1, 2, 3, 4), prefix="emnist-letters-")
    assert load(folder).num_classes == 3


def test_a_folder_with_the_name_of_a_file_is_no_file() -> None:
    folder = make_idx_set(Path("set"), suffix="")
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
        (folder / path.name).mkdir()
    assert len(load(folder).labels) == 60


# ---- files that are missing or damaged


@pytest.mark.parametrize(("name", "part"), list(zip(FILES, datamodules.mnist.PARTS, strict=True)))
def test_the_one_file_that_is_missing_is_named(name: str, part: str) -> None:
    folder = make_idx_set(Path("set"))
    (folder / name).unlink()
    assert refusal(folder, FileNotFoundError) == f"data.data_dir: set has no file for the {part} (such as set/{name})"


def test_a_prefix_that_no_file_has_is_named() -> None:
    text = refusal(make_idx_set(Path("set")), FileNotFoundError, prefix="kmnist")
    assert text == (
        "data.data_dir: set has no file for the train images (such as set/kmnist-train-images-idx3-ubyte.gz)"
    )


def header(*dims: int, kind: int = 8) -> bytes:
    return bytes((0, 0, kind, len(dims))) + b"".join(dim.to_bytes(4, "big") for dim in dims)


DAMAGED = {
    "0 bytes": (b"", "not an IDX file"),
    "cut gzip": (gzip.compress(header(60, 12, 12) + bytes(8640))[:-20], "a damaged gzip file"),
    "flipped gzip": (b"\x1f\x8b" + bytes(50), "a damaged gzip file"),
    "text": (b"<html>404 Not Found</html>", "not an IDX file of bytes in 3 dimensions"),
    "labels for images": (header(60) + bytes(60), "not an IDX file of bytes in 3 dimensions"),
    "floats": (header(60, 12, 12, kind=13) + bytes(4 * 8640), "not an IDX file of bytes"),
    "cut": (header(60, 12, 12) + bytes(8000), "8016 bytes where its header (60x12x12) says 8656"),
    "too long": (header(60, 12, 12) + bytes(8641), "8657 bytes where its header (60x12x12) says 8656"),
    "nothing in it": (header(0, 12, 12), "16 bytes where its header (0x12x12)"),
    "absurd": (header(65536, 65536, 1), "16 bytes where its header (65536x65536x1) says 4294967312"),
}


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_named_with_what_is_wrong(damage: str, suffix: str) -> None:
    folder = make_idx_set(Path("set"), suffix=suffix)
    path, (content, why) = folder / f"train-images-idx3-ubyte{suffix}", DAMAGED[damage]
    path.write_bytes(content)
    text = refusal(folder)
    assert text.startswith(f"{path}: ")
    assert why in text


@pytest.mark.parametrize(("name", "images"), [(FILES[1], FILES[0]), (FILES[3], FILES[2])])
def test_labels_must_be_as_many_as_images(name: str, images: str) -> None:
    folder = make_idx_set(Path("set"))
    write_idx(folder / name, np.zeros(29))
    count = 60 if name == FILES[1] else 30
    assert refusal(folder) == f"{folder / name}: 29 labels for the {count} images of {images}"


@pytest.mark.parametrize("strange", [7, 200, 0])
def test_a_test_label_that_training_does_not_know_is_refused(strange: int) -> None:
    folder = make_idx_set(Path("set"), classes=(1, 2, 3))
    write_idx(folder / FILES[3], np.array([1, 2, 3] * 9 + [1, 2, strange]))
    assert refusal(folder) == f"{folder / FILES[3]}: label {strange} is not in the training labels"


def test_a_file_in_place_of_the_folder_is_refused() -> None:
    Path("set").write_text("no folder", encoding="utf-8")
    assert refusal("set", NotADirectoryError) == "data.data_dir: set is a file, not a folder"


# ---- fetching


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four small files, taken for those that are published."""
    folder = make_idx_set(tmp_path / "published")
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    monkeypatch.setattr(datamodules.mnist, "SHA256", hashes)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirrors(tmp_path: Path, published: Path) -> Iterator[dict[str, str]]:
    """Addresses of a server: `good` has the files, `wrong` has others, `cut` half of each, `empty` none of them."""
    shutil.copytree(published, tmp_path / "served" / "good")
    make_idx_set(tmp_path / "served" / "wrong", classes=(4, 5))
    (tmp_path / "served" / "empty").mkdir()
    (tmp_path / "served" / "cut").mkdir()
    for name in FILES:
        content = (published / name).read_bytes()
        (tmp_path / "served" / "cut" / name).write_bytes(content[: len(content) // 2])
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield {kind: f"http://127.0.0.1:{server.server_port}/{kind}/" for kind in ("good", "wrong", "cut", "empty")}
        server.shutdown()
        thread.join()


def test_an_empty_folder_is_filled_from_the_first_mirror(mirrors: dict[str, str], published: Path) -> None:
    data = load("new/folder", mirrors=[mirrors["good"], NOWHERE])
    assert listing(Path("new/folder")) == sorted(FILES)
    assert (data.images == load(published).images).all()


@pytest.mark.parametrize("first", ["wrong", "cut", "empty", "nowhere"])
def test_a_bad_mirror_is_left_for_the_next_and_leaves_nothing_behind(
    first: str, mirrors: dict[str, str], published: Path
) -> None:
    addresses = {**mirrors, "nowhere": NOWHERE}
    load("set", mirrors=[addresses[first], mirrors["good"].rstrip("/")])
    assert listing(Path("set")) == sorted(FILES)
    assert all((Path("set") / name).read_bytes() == (published / name).read_bytes() for name in FILES)


def test_files_of_another_content_are_refused_from_every_mirror(mirrors: dict[str, str]) -> None:
    text = refusal("set", ConnectionError, mirrors=[mirrors["wrong"], mirrors["cut"]])
    assert mirrors["wrong"] in text
    assert mirrors["cut"] in text
    assert "hash" in text
    assert listing(Path("set")) == []


def test_a_fetch_that_broke_off_is_taken_up_again(mirrors: dict[str, str], tmp_path: Path) -> None:
    last = tmp_path / "served" / "good" / FILES[3]
    last.rename(tmp_path / "hidden")
    refusal("set", ConnectionError, mirrors=[mirrors["good"]])
    assert listing(Path("set")) == sorted(FILES[:3])
    (tmp_path / "hidden").rename(last)
    load("set", mirrors=[mirrors["good"]])
    assert listing(Path("set")) == sorted(FILES)


@pytest.mark.parametrize("addresses", [[], [NOWHERE], [NOWHERE, NOWHERE]])
def test_without_a_network_the_message_says_what_to_do(addresses: list[str]) -> None:
    text = refusal("set", ConnectionError, mirrors=addresses)
    assert text.startswith("data.data_dir: can't fetch MNIST")
    assert all(name in text for name in FILES)
    assert "into set" in text
    assert "configs/cnn.yaml" in text
    assert listing(Path("set")) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # and leaves it open
def test_an_address_that_is_none_leaves_nothing_behind() -> None:
    refusal("set", ConnectionError, mirrors=["mirror.example/mnist"])
    assert listing(Path("set")) == []


def test_a_set_with_a_prefix_is_never_fetched(mirrors: dict[str, str]) -> None:
    refusal("set", FileNotFoundError, prefix="kmnist", mirrors=[mirrors["good"]])
    assert not Path("set").exists()


def test_a_folder_that_can_not_be_made_is_named() -> None:
    Path("file").write_text("", encoding="utf-8")
    assert refusal("file/set", OSError).startswith("data.data_dir: can't write to file/set (")
