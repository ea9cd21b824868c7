"""`runs.places`: files inside installed packages."""

import sys
from pathlib import Path

import pytest
from jsonargparse import Namespace

from runs.errors import UserError
from runs.places import real_path, with_real_paths


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that breaks when it is imported, with two files in it."""
    folder = tmp_path / "site packages" / "some_weights"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemError\n")
    (folder / "inner" / "model.safetensors").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_a_file_of_a_package_that_is_not_imported(package: Path) -> None:
    found = real_path("package:some_weights/inner/model.safetensors")
    assert found == package / "inner" / "model.safetensors"
    assert real_path("package:some_weights") == package
    assert "some_weights" not in sys.modules


def test_other_paths_stay_what_they_are() -> None:
    assert real_path("a b/c.pt") == Path("a b/c.pt")
    assert real_path("~/c.pt") == Path.home() / "c.pt"


def test_wherever_it_stands_in_a_config(package: Path) -> None:
    place = "package:some_weights/inner"
    config = Namespace(model=Namespace(init_args=Namespace(folder=place, lr=0.1)), more=[{"a": place}, None], x="y")
    found = with_real_paths(config)
    inner = str(package / "inner")
    assert found == Namespace(
        model=Namespace(init_args=Namespace(folder=inner, lr=0.1)), more=[{"a": inner}, None], x="y"
    )
    assert config.model.init_args.folder == place, "the config itself says the name that is right everywhere"


def test_what_is_not_there_is_one_line_with_the_key(package: Path) -> None:
    with pytest.raises(UserError) as told:
        with_real_paths(Namespace(model=Namespace(init_args=Namespace(folder="package:some_weights/iner/model.safe"))))
    start = "model.folder: package:some_weights/iner/model.safe: no such file in the package; did you mean "
    assert str(told.value) == f"{start}'inner/model.safetensors'?"
    for name in ("no_such_package/x", "sys/x", "../x", ""):
        with pytest.raises(UserError, match=r"^package:.*: no package '.*' is installed here"):
            real_path(f"package:{name}")
