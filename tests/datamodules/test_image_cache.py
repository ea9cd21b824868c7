"""`datamodules.image_cache`: decoded once, and anew when and only when the content changes."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.image_cache import Cached, ImageCache

ROOT, FOLDER = Path("images"), Path("the cache")


def save(name: str, value: int, size: tuple[int, int] = (4, 3)) -> None:
    path = ROOT / name
    path.parent.mkdir(exist_ok=True)
    Image.new("L", size, value).save(path)


def opened(*names: str, **options: int) -> Cached:
    return ImageCache(FOLDER, ROOT, 1, (options.get("side", 3), 4), "stretch").open(names)


def values(cached: Cached) -> list[int]:
    assert (cached.pixels == cached.pixels[:, :, :1, :1]).all()
    return cached.pixels[:, 0, 0, 0].tolist()


def decoded(capsys: pytest.CaptureFixture[str]) -> int:
    return sum(int(line.split()[0]) for line in capsys.readouterr().out.splitlines())


def age(*names: str) -> None:
    """Make files look as if they were written long ago."""
    for name in names:
        os.utime(ROOT / name, (1e9, 1e9))


def test_files_are_decoded_once_and_again_when_they_change(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", 10)
    save("b.png", 20)
    age("a.png", "b.png")
    assert values(opened("a.png", "b.png")) == [10, 20]
    assert decoded(capsys) == 2
    assert values(opened("a.png", "b.png")) == [10, 20]
    assert decoded(capsys) == 0
    save("b.png", 30)  # the same size in bytes, another time
    assert values(opened("a.png", "b.png")) == [10, 30]
    assert decoded(capsys) == 1
    save("c.png", 40)
    assert values(opened("a.png", "b.png", "c.png")) == [10, 30, 40]
    assert values(opened("c.png")) == [40]
    assert decoded(capsys) == 1
    assert len(list(FOLDER.glob("*/pixels-*.npy"))) == 1, "what is out of date is removed"


def test_a_file_that_is_touched_or_renamed_is_not_decoded_again(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", 10)
    opened("a.png")
    decoded(capsys)
    os.utime(ROOT / "a.png", (1e9, 2e9))
    assert values(opened("a.png")) == [10]
    (ROOT / "a.png").rename(ROOT / "z.png")
    assert values(opened("z.png")) == [10]
    assert decoded(capsys) == 0


def test_a_file_that_changes_within_the_clock_s_tick_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", 10)
    now = time.time()
    os.utime(ROOT / "a.png", (now, now))
    opened("a.png")
    size = (ROOT / "a.png").stat().st_size
    save("a.png", 11)
    os.utime(ROOT / "a.png", (now, now))
    assert (ROOT / "a.png").stat().st_size == size
    assert values(opened("a.png")) == [11]


def test_other_settings_have_a_cache_of_their_own() -> None:
    save("a.png", 10)
    assert opened("a.png").pixels.shape == (1, 1, 3, 4)
    assert opened("a.png", side=6).pixels.shape == (1, 1, 6, 4)
    assert len(list(FOLDER.glob("*/index.json"))) == 2


def test_sums_are_those_of_the_pixels() -> None:
    random = np.random.default_rng(0).integers(0, 256, (2, 3, 4), dtype=np.uint8)
    ROOT.mkdir()
    for name, pixels in zip("ab", random, strict=True):
        Image.fromarray(pixels).save(ROOT / f"{name}.png")
    found = opened("a.png", "b.png")
    wide = random.astype(np.int64)
    assert found.sums[:, 0, 0].tolist() == wide.sum((1, 2)).tolist()
    assert found.sums[:, 0, 1].tolist() == (wide**2).sum((1, 2)).tolist()


def test_files_that_can_not_be_used_are_named_and_looked_at_again_when_they_are_mended() -> None:
    save("a.png", 10)
    whole = (ROOT / "a.png").read_bytes()
    for name, content in (("cut.png", whole[:50]), ("empty.png", b""), ("text.jpg", b"hello"), ("not.jpg", whole)):
        (ROOT / name).write_bytes(content)
    names = ("a.png", "cut.png", "empty.png", "gone.png", "not.jpg", "text.jpg")
    found = opened(*names)
    assert values(found) == [10, 0, 0, 0, 0, 0]
    assert found.reasons.pop("cut.png")
    assert found.reasons == {
        "empty.png": "0 bytes",
        "gone.png": "no such file",
        "not.jpg": "a PNG file by the name of .jpg",
        "text.jpg": "no image",
    }
    (ROOT / "cut.png").write_bytes(whole)
    save("gone.png", 7)
    found = opened(*names)
    assert values(found) == [10, 10, 0, 7, 0, 0]
    assert sorted(found.reasons) == ["empty.png", "not.jpg", "text.jpg"]


@pytest.mark.parametrize("harm", ["index", "pixels", "sums"])
def test_a_damaged_cache_is_made_anew(harm: str) -> None:
    save("a.png", 10)
    opened("a.png")
    (file,) = FOLDER.glob(f"*/{harm}*")
    file.write_bytes(file.read_bytes()[: -file.stat().st_size // 2])
    assert values(opened("a.png")) == [10]


def test_a_cache_that_can_only_be_read_is_used_and_one_that_can_not_be_made_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save("a.png", 10)
    age("a.png")
    opened("a.png")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    # as root, whom the tests may run as, everything can be written
    monkeypatch.setattr("datamodules.image_cache.FileLock", refuse)
    assert values(opened("a.png")) == [10]
    with pytest.raises(OSError, match=r"^data.cache_dir: can't write to the cache \(Permission denied\)$"):
        opened("a.png", side=8)


def test_a_cache_that_does_not_fit_on_the_disk_is_refused_before_it_is_begun() -> None:
    save("a.png", 10)
    with pytest.raises(OSError, match=r"^data.cache_dir: the cache needs [\d,.]+ GB for 1 images, and [\d,.]+ are"):
        opened("a.png", side=10**14)


def test_an_image_cut_in_the_middle_of_its_making_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    save("a.png", 10)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("datamodules.image_cache.read_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opened("a.png")
    assert not list(FOLDER.glob("*/*.npy")) + list(FOLDER.glob("*/.pixels*"))
    assert values(opened("a.png")) == [10]
