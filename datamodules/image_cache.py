"""Images of files, decoded once: bytes in a file that is mapped into memory, and shared by all processes."""

import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from datamodules.files import UNREADABLE, Fit, read_image, reason_of

FORMAT = 1
CHUNK = 32  # files that a thread takes at a time
FRESH = 2 * 10**9  # ns; a file that is so young may be written again within the same tick of the file system's clock


@dataclass(frozen=True)
class Cached:
    """Decoded images.

    Args:
        pixels: `(N, C, H, W)` uint8, mapped; 0 for files that can't be used.
        sums: `(N, C, 2)` float64: of an image's pixels, and of their squares.
        hashes: The SHA-256 of each file's content; empty for one that is missing.
        reasons: Why files can't be used, by their path.
    """

    pixels: np.ndarray
    sums: np.ndarray
    hashes: list[str]
    reasons: dict[str, str]


class ImageCache:
    """A folder with the images of a root, brought to one size.

    It is known by the content of the files: after a change only what is new is decoded. Whether a file has changed is
    seen from its size and time; where these have, from its content.

    Args:
        folder: Where caches are.
        root: What the paths are relative to.
        channels: 1 or 3.
        size: Height and width in pixels.
        fit: How an image is brought to that size, see `read_image`.
        threads: That decode at the same time (Pillow lets others work meanwhile).
    """

    def __init__(
        self, folder: Path, root: Path, channels: int, size: tuple[int, int], fit: Fit, threads: int = 1
    ) -> None:
        self.root, self.channels, self.size, self.fit, self.threads = root, channels, size, fit, threads
        settings = json.dumps([FORMAT, str(root.resolve()), channels, size, fit])
        self.folder = folder / f"images-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def open(self, paths: Sequence[str]) -> Cached:
        """The images of these files, from the cache where it has them.

        Raises:
            OSError: The cache's folder can't be written, or there is not enough room.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            lock.acquire()
        except OSError as error:
            # one that is complete needs no writing
            if (found := self._read(paths, hashing=False)) is not None:
                return found
            reason = error.strerror or error
            raise OSError(f"data.cache_dir: can't write to {self.folder.parent} ({reason})") from error
        try:
            return self._read(paths) or self._build(paths)
        finally:
            lock.release()

    # ---- what is there

    def _index(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
            if index.get("format") == FORMAT:
                return index
        return {}

    def _read(self, paths: Sequence[str], hashing: bool = True) -> Cached | None:
        """The cache as it is, if it has these files with this content and no others."""
        index = self._index()
        if not index or index["paths"] != list(paths):
            return None
        stats = [self._stat(path) for path in paths]
        changed = [i for i, stat in enumerate(stats) if not _same(index, i, stat)]
        if changed:
            if not hashing or self._hashes([paths[i] for i in changed]) != [index["hashes"][i] for i in changed]:
                return None
            self._write_index(index | {"stats": stats, "written": time.time_ns()})
        return self._load(index)

    def _load(self, index: dict[str, Any]) -> Cached | None:
        shape = (len(index["paths"]), self.channels, *self.size)
        with suppress(OSError, ValueError, EOFError):
            # copied when written to, which nobody does: torch takes no array that forbids it
            pixels = np.load(self.folder / f"pixels-{index['key']}.npy", mmap_mode="c")
            sums = np.load(self.folder / f"sums-{index['key']}.npy")
            if pixels.shape == shape and len(sums) == len(pixels):
                return Cached(pixels, sums, index["hashes"], index["reasons"])
        return None

    def _stat(self, path: str) -> list[int]:
        try:
            found = os.stat(self.root / path)
        except OSError:
            return [-1, 0]
        return [found.st_size, found.st_mtime_ns]

    def _hashes(self, paths: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(lambda path: _hashed(self.root / path)[0], paths, chunksize=CHUNK))

    # ---- what is made

    def _build(self, paths: Sequence[str]) -> Cached:
        start, shape = time.monotonic(), (len(paths), self.channels, *self.size)
        needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"data.cache_dir: {self.folder.parent} needs {needed / 1e9:,.1f} GB for {len(paths):,} images, and "
                f"{free / 1e9:,.1f} are free"
            )
        stats = [self._stat(path) for path in paths]  # before reading: what changes meanwhile is found the next time
        part = self.folder / f".pixels-{os.getpid()}.npy"
        try:
            made = _Decoding(self, paths, np.lib.format.open_memmap(part, "w+", np.uint8, shape), self._known())
            made.run()
            key = hashlib.sha256("".join(made.hashes).encode()).hexdigest()[:16]
            np.save(self.folder / f"sums-{key}.npy", made.sums)
            part.replace(self.folder / f"pixels-{key}.npy")
            index = {"format": FORMAT, "root": str(self.root), "key": key, "written": time.time_ns()}
            index |= {"paths": list(paths), "stats": stats, "hashes": made.hashes, "reasons": made.reasons}
            self._write_index(index)
        except OSError as error:
            raise OSError(f"data.cache_dir: can't write to {self.folder} ({error.strerror or error})") from error
        finally:
            part.unlink(missing_ok=True)
        for file in self.folder.glob("*.npy"):
            if key not in file.name:
                with suppress(OSError):  # in use, where a file that is can't be removed
                    file.unlink()
        if made.decoded:
            size, seconds = f"{needed / 1e6:,.1f} MB", time.monotonic() - start
            print(f"{made.decoded:,} images decoded into {self.folder} ({size}, {seconds:.1f} s)", flush=True)
        found = self._load(index)
        assert found is not None
        return found

    def _known(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """Pixels and sums of what an older cache has, by content and suffix."""
        index = self._index()
        if not index or (found := self._load(index)) is None:
            return {}
        known = {}
        for i, path in enumerate(index["paths"]):
            if path not in found.reasons:
                known[found.hashes[i], _suffix(path)] = (found.pixels[i], found.sums[i])
        return known

    def _write_index(self, index: dict[str, Any]) -> None:
        part = self.folder / f".index-{os.getpid()}.json"
        part.write_text(json.dumps(index), encoding="utf-8")
        part.replace(self.folder / "index.json")


class _Decoding:
    """Images on their way into a cache; `pixels` is filled, and the rest beside it."""

    def __init__(self, cache: ImageCache, paths: Sequence[str], pixels: np.ndarray, known: dict[Any, Any]) -> None:
        self.cache, self.paths, self.pixels, self.known = cache, paths, pixels, known
        self.sums = np.zeros((len(paths), cache.channels, 2))
        self.hashes = [""] * len(paths)
        self.reasons: dict[str, str] = {}
        self.decoded = 0

    def run(self) -> None:
        count = len(self.paths)
        chunks = [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
        said, pool = time.monotonic(), ThreadPoolExecutor(self.cache.threads)
        try:
            for number, decoded in enumerate(pool.map(lambda chunk: sum(map(self._fill, chunk)), chunks), 1):
                self.decoded += decoded
                if time.monotonic() - said > 10:
                    said = time.monotonic()
                    print(f"{number * CHUNK:,} of {count:,} images decoded", file=sys.stderr, flush=True)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, not what is still to be decoded
        self.pixels.flush()  # type: ignore[attr-defined]
        self.reasons = dict(sorted(self.reasons.items()))

    def _fill(self, i: int) -> bool:
        """Decode a file, or copy what was decoded before; whether it was decoded."""
        cache, path = self.cache, self.cache.root / self.paths[i]
        self.hashes[i], content = _hashed(path)
        if (before := self.known.get((self.hashes[i], _suffix(self.paths[i])))) is not None:
            self.pixels[i], self.sums[i] = before
            return False
        try:
            file = io.BytesIO(content) if content else path
            image = read_image(file, cache.channels, cache.size, cache.fit, _suffix(self.paths[i]))
        except UNREADABLE as error:
            self.reasons[self.paths[i]] = reason_of(path, error)
            return False
        self.pixels[i] = image
        flat = image.reshape(cache.channels, -1).astype(np.int64)
        self.sums[i] = np.stack((flat.sum(1), (flat * flat).sum(1)), 1)
        return True


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _same(index: dict[str, Any], i: int, stat: list[int]) -> bool:
    unread = stat[0] >= 0 and not index["hashes"][i]  # which may be allowed by now
    return not unread and index["stats"][i] == stat and stat[1] < index["written"] - FRESH


def _hashed(path: Path) -> tuple[str, bytes]:
    """The SHA-256 of a file's content, and the content; nothing of one that can't be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return "", b""
    return hashlib.sha256(content).hexdigest(), content
