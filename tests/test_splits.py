"""Test views: the lists of nerfstudio, test.txt of 3DGS, else every 8th of the registered photos."""

import json

import numpy as np
import pytest
from scene_writers import write_colmap, write_images, write_transforms

from compact_splats.scene import load_scene
from compact_splats.utils.errors import InputError


def names(cameras) -> list[str]:
    return [camera.name[:3] for camera in cameras]


def test_missing_and_broken_photos_do_not_shift_the_test_views(tmp_path):
    """Every 8th is counted over the registered names, for any photo that is missing or has a bad pose."""
    model = write_colmap(tmp_path, num_images=17)
    whole = names(load_scene(tmp_path).test)
    assert whole == ["000", "008", "016"]
    for gone in (0, 3, 8):
        path = tmp_path / f"images/{gone:03}.png"
        content = path.read_bytes()
        path.unlink()
        scene = load_scene(tmp_path)
        assert names(scene.test) == [name for name in whole if int(name) != gone]
        assert len(scene.train) + len(scene.test) == 16
        path.write_bytes(content)
        poses = [(f"{i:03}.png", 1, (np.nan if i == gone else 1, 0, 0, 0), (-i, 0, 0)) for i in range(17)]
        write_images(model, poses)
        assert names(load_scene(tmp_path).test) == [name for name in whole if int(name) != gone]
        write_images(model, [(name, 1, (1, 0, 0, 0), t) for name, _, _, t in poses])


def test_missing_photos_of_transforms(tmp_path):
    write_transforms(tmp_path, num_frames=9)
    (tmp_path / "images/000.png").unlink()
    assert names(load_scene(tmp_path).test) == ["008"]


def listed(*numbers: int) -> list[str]:
    return [f"images/{i:03}.png" for i in numbers]


@pytest.mark.parametrize(
    "lists, train, test",
    [
        ({"train": listed(0, 1, 2), "val": listed(3), "test": listed(4, 5)}, "000 001 002", "004 005"),
        ({"train": listed(0, 1, 2), "val": listed(3)}, "000 001 002", "003"),
        ({"train": listed(0, 1, 2)}, "000 001 002", "003 004 005"),
        ({"test": listed(1, 3)}, "000 002 004 005", "001 003"),
        ({"val": listed(2), "test": listed(1)}, "000 003 004 005", "001"),
        ({"train": listed(0, 1, 2), "test": listed(2, 3)}, "000 001", "002 003"),
        ({"train": ["000.PNG", "001"], "test": ["D:\\x\\images\\004.jpg"]}, "000 001", "004"),
    ],
)
def test_lists_of_nerfstudio(tmp_path, lists, train, test, capsys):
    """With eval the lists decide, and it is said; a photo in both is a test view. Without eval all are trained on."""
    write_transforms(tmp_path, num_frames=6, **{f"{split}_filenames": files for split, files in lists.items()})
    scene = load_scene(tmp_path)
    assert (names(scene.train), names(scene.test)) == (train.split(), test.split())
    (line, _) = capsys.readouterr().err.splitlines()
    assert f"{len(scene.train)} training and {len(scene.test)} test views" in line and "transforms.json" in line
    assert len(load_scene(tmp_path, eval=False).train) == 6


@pytest.mark.parametrize("place", ["sparse/0/test.txt", "test.txt"])
@pytest.mark.parametrize(
    "content", ["001.png\n003.png\n", "\ufeff001.png\r\n\r\n003.png", "# two\nimages/001.PNG\n003"]
)
def test_lists_of_3dgs(tmp_path, place, content, capsys):
    """test.txt beside the model or in the scene folder, with any line ends, and names by the usual rule."""
    write_colmap(tmp_path, num_images=5)
    (tmp_path / place).write_bytes(content.encode())
    scene = load_scene(tmp_path)
    assert (names(scene.train), names(scene.test)) == (["000", "002", "004"], ["001", "003"])
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / place) in line and "3 training and 2 test views" in line
    assert len(load_scene(tmp_path, eval=False).train) == 5


def test_names_in_a_list_that_no_photo_has(tmp_path, capsys):
    """Some: a note; all: an error."""
    write_colmap(tmp_path, num_images=5)
    (tmp_path / "test.txt").write_text("001.png\nnobody.png\n")
    assert names(load_scene(tmp_path).test) == ["001"]
    assert "1 of its 2 lines are names of no photo, such as 'nobody.png'" in capsys.readouterr().err
    for content in ("nobody.png", "", "\x00\x01\xff"):
        (tmp_path / "test.txt").write_text(content, "latin-1")
        with pytest.raises(InputError, match=r"test\.txt"):
            load_scene(tmp_path)
    load_scene(tmp_path, eval=False)


def test_every_list_of_photos_that_is_no_list_is_ignored(tmp_path):
    """What is no list of names is no split."""
    write_transforms(tmp_path, num_frames=9, train_filenames={}, test_filenames=[], val_filenames=None)
    assert names(load_scene(tmp_path).test) == ["000", "008"]
    write_transforms(tmp_path, num_frames=9, test_filenames=[3])
    with pytest.raises(InputError, match=r"transforms\.json"):
        load_scene(tmp_path)


def test_a_photo_that_is_registered_twice_is_in_one_split(tmp_path, capsys):
    """Else a test view would be trained on; the note says that one of them has another pose."""
    table = write_transforms(tmp_path, num_frames=9)
    moved = {**table["frames"][4], "transform_matrix": np.diag([-1, 1, -1, 1]).tolist()}
    frames = [*table["frames"], *table["frames"], moved]
    (tmp_path / "transforms.json").write_text(json.dumps({**table, "frames": frames}))
    scene = load_scene(tmp_path)
    assert names(scene.test) == ["000", "000", "008", "008"] and len(scene.train) == 15
    assert "10 photos are registered again (1 of them with another pose)" in capsys.readouterr().err


@pytest.mark.parametrize("name, test", [("test.txt", ["001", "002"]), ("train.txt", ["000", "003"])])
def test_a_list_of_training_views_leaves_the_others_as_test_views(tmp_path, name, test):
    write_colmap(tmp_path, num_images=4)
    (tmp_path / name).write_text("001.png\n002.png\n")
    assert names(load_scene(tmp_path).test) == test


@pytest.mark.parametrize("other", ["test", "val"])
def test_the_validation_views_of_blender_are_test_views_where_there_are_no_others(tmp_path, other, capsys):
    table = write_transforms(tmp_path, "transforms_train.json", num_frames=4)
    for split, frames in (("train", table["frames"][:2]), (other, table["frames"][2:])):
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({**table, "frames": frames}))
    assert names(load_scene(tmp_path).test) == ["002", "003"]
    assert ("those of transforms_val.json" in capsys.readouterr().err) == (other == "val")
