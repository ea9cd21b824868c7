"""`datamodules.image_lists`: which files are images of which class, whatever the folders look like."""

from pathlib import Path

import pytest

from datamodules.image_lists import Listed, list_folder, list_table


def touch(*names: str) -> None:
    for name in names:
        path = Path("my images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def rows(listed: Listed) -> list[tuple[str, str, str]]:
    return list(zip(listed.paths, listed.classes, listed.parts, strict=True))


def folder() -> Listed:
    return list_folder(Path("my images"))


def test_a_folder_is_a_class_with_all_that_is_below_it() -> None:
    touch(
        "cat/b.png", "cat/a.JPG", "cat/old/c.webp", "dög house/1 (2).jpeg", "cat/notes.txt", "cat/._a.jpg", ".x/d.png"
    )
    assert rows(folder()) == [
        ("cat/a.JPG", "cat", ""),
        ("cat/b.png", "cat", ""),
        ("cat/old/c.webp", "cat", ""),
        ("dög house/1 (2).jpeg", "dög house", ""),
    ]


def test_folders_for_parts_hold_folders_for_classes() -> None:
    touch("train/cat/a.png", "Validation/cat/b.png", "test/dog/c.png", "train/loose.png")
    found = folder()
    assert set(rows(found)) == {
        ("train/cat/a.png", "cat", "train"),
        ("Validation/cat/b.png", "cat", "val"),
        ("test/dog/c.png", "dog", "test"),
    }
    assert found.strays == ["train/loose.png"]


def test_a_class_may_be_called_train_among_others() -> None:
    touch("train/a.png", "car/b.png")
    assert [name for _, name, _ in rows(folder())] == ["car", "train"]


def test_a_single_folder_called_train_is_a_part() -> None:
    touch("train/car/a.png")
    assert rows(folder()) == [("train/car/a.png", "car", "train")]


def test_links_are_followed_and_circles_are_not() -> None:
    touch("cat/a.png")
    Path("elsewhere").mkdir()
    Path("elsewhere/b.png").touch()
    Path("my images/dog").symlink_to(Path("elsewhere").resolve())
    Path("my images/cat/again").symlink_to(Path("my images/cat").resolve())
    assert [path for path, *_ in rows(folder())] == ["cat/a.png", "dog/b.png"]


def test_what_is_no_set_of_images_is_told() -> None:
    with pytest.raises(ValueError, match=r"^data.root: no such folder: my images$"):
        folder()
    touch("a.png")
    with pytest.raises(ValueError, match=r"^data.root: no image in my images/CLASS/ .*; 1 lie in no class's folder$"):
        folder()
    with pytest.raises(ValueError, match=r"^data.root: no such folder: my image; did you mean 'my images'\?$"):
        list_folder(Path("my image"))
    with pytest.raises(ValueError, match=r"^data.root: a file, and no folder: my images/a.png"):
        list_folder(Path("my images/a.png"))
    touch("train/x/a.png", "test/x/a.png", "extra/a.png")
    with pytest.raises(ValueError, match=r"^data.root: my images has test, train beside extra; parts and classes"):
        folder()


def table(text: str) -> Listed:
    Path("labels.csv").write_text(text, encoding="utf-8")
    return list_table(Path("labels.csv"), Path("my images"), "path", "label", "split")


def test_a_table_says_path_and_label_and_maybe_the_part() -> None:
    assert rows(table("path;label\nb/1.png;3\n./a, b.png;10\n")) == [("a, b.png", "10", ""), ("b/1.png", "3", "")]
    found = table("split,label,path\ntest,x,a.png\nValid,y,b\\c.png\n,x,d.png\n")
    assert rows(found) == [("a.png", "x", "test"), ("b/c.png", "y", "val"), ("d.png", "x", "train")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels\na,b\n", r"data.label_column: no column 'label' in labels.csv; did you mean 'labels'\?"),
        ("path,label\na,b\nc,\n", "data.labels: row 2 of labels.csv has no label"),
        ("path,label\n,b\n", "data.labels: row 1 of labels.csv has no path"),
        ("path,label\na,b\n./a,c\n", "data.labels: row 2 of labels.csv has a, which was there before"),
        (
            "path,label,split\na,b,tst\n",
            "data.labels: row 1 of labels.csv is of part 'tst'; allowed are train, val",
        ),
        ("path,label\n", "data.labels: labels.csv has no rows"),
    ],
)
def test_a_table_that_can_not_be_used_is_told_by_its_row(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        table(text)
