"""Names in data sets and files on disk: one matching rule for COLMAP's models and transforms.json."""

import shutil
import unicodedata

import pytest
from PIL import Image
from scene_writers import write_cameras, write_colmap, write_images, write_photo, write_transforms

from compact_splats.scene import load_scene
from compact_splats.scene.names import SceneFiles
from compact_splats.utils.errors import InputError

NUM = 3  # photos of each scene
MOTHER = "фото"  # "photo" in Russian
CAFE = "café"

# What differs: names in the data set and paths below images/, both with {} for the number, and a word of the note.
DIFFERENT = {
    "backslashes": ("cam1\\{}.png", "cam1/{}.png", "backslashes"),
    "case": ("{}.PNG", "{}.png", "upper and lower case"),
    "case of a folder": ("Cam1/{}.png", "cam1/{}.png", "folders"),
    "suffix": ("{}.jpg", "{}.png", "suffix"),
    "jpeg": ("{}.jpeg", "{}.jpg", "suffix"),
    "no suffix": ("{}", "{}.jpg", "suffix"),
    "images in front": ("images/{}.png", "{}.png", "folders"),
    "folders in front": ("project/photos/{}.png", "{}.png", "folders"),
    "flat": ("cam1/{}.png", "cam1_{}.png", "folders"),
    "flat, without the folder": ("cam1/{}.png", "{}.png", "folders"),
    "deeper": ("{}.png", "cam1/{}.png", "folders"),
    "Windows": ("D:\\site\\cam1\\{}.JPG", "cam1/{}.jpg", "folders"),
    "Windows, slashes": ("D:/site/{}.png", "{}.png", "folders"),
    "network": ("\\\\nas\\site\\{}.png", "{}.png", "folders"),
    "Unix": ("/home/me/site/{}.png", "{}.png", "folders"),
    "URI": ("file:///D:/my%20site/{}%20a.png", "{} a.png", "folders"),
    "climbing": ("../images/{}.png", "{}.png", "folders"),
    "percent coding": ("a%20b{}.png", "a b{}.png", "percent coding"),
    "decomposed": (unicodedata.normalize("NFD", CAFE) + "{}.png", CAFE + "{}.png", "Unicode form"),
    "composed": (CAFE + "{}.png", unicodedata.normalize("NFD", CAFE) + "{}.png", "Unicode form"),
    "all at once": ("C:\\X\\Cam1\\A%20{}.JPEG", "cam1/a {}.png", "percent coding"),
}


def colmap_scene(tmp_path, names, files):
    """A model of photos with these names, and these files below images/."""
    model = write_colmap(tmp_path, num_images=NUM)
    shutil.rmtree(tmp_path / "images")
    write_images(model, [(name, 1, (1, 0, 0, 0), (-i, 0, 0)) for i, name in enumerate(names)])
    for i, file in enumerate(files):
        write_photo(tmp_path / "images" / file, seed=i)
    return model


def numbered(pattern):
    return [pattern.format(f"{i:03}") for i in range(NUM)]


def centres(scene):
    """The x of the camera, which is the number of the photo, by name."""
    return {
        camera.name: round(float(scene.units.scale * camera.centre[0] + scene.units.origin[0]))
        for camera in scene.train
    }


@pytest.mark.parametrize("what", DIFFERENT)
def test_names_of_a_colmap_model(tmp_path, what, capsys):
    """Each photo is found under the name of its file, with the pose of its name, and one note says how they differ."""
    name, file, said = DIFFERENT[what]
    colmap_scene(tmp_path, numbered(name), numbered(file))
    scene = load_scene(tmp_path, eval=False)
    assert centres(scene) == {file: i for i, file in enumerate(numbered(file))}
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{NUM} of {NUM} photos" in line and said in line and numbered(file)[0] in line


@pytest.mark.parametrize("what", DIFFERENT)
def test_names_in_transforms(tmp_path, what):
    """The same of transforms.json, where images/ in front and backslashes are usual."""
    name, file, _ = DIFFERENT[what]
    write_transforms(tmp_path, num_frames=NUM, frame=lambda i: {"file_path": numbered(name)[i]}, w=40, h=30)
    shutil.rmtree(tmp_path / "images")
    for i, path in enumerate(numbered(file)):
        write_photo(tmp_path / "images" / path, seed=i)
    assert [camera.name for camera in load_scene(tmp_path, eval=False).train] == numbered(file)


@pytest.mark.parametrize("encoding", ["gb18030", "cp932", "big5", "cp949", "cp1251", "cp1252"])
@pytest.mark.parametrize("is_text", [False, True])
def test_names_in_other_encodings(tmp_path, encoding, is_text, capsys):
    """Programs for Windows write names in the encoding of the country. The files have the right names."""
    word = {"gb18030": "照片", "cp932": "写真", "big5": "照片", "cp949": "사진", "cp1251": MOTHER, "cp1252": CAFE}[
        encoding
    ]
    model = colmap_scene(tmp_path, numbered("{}.png"), numbered(word + "{}.png"))
    content = (model / "images.bin").read_bytes()
    for plain, name in zip(numbered("{}.png"), numbered(word + "{}.png"), strict=True):
        content = content.replace(plain.encode(), name.encode(encoding))
    (model / "images.bin").write_bytes(content)
    if is_text:
        (model / "images.bin").unlink()
        lines = [f"{i + 1} 1 0 0 0 {-i} 0 0 1 {name}\n\n" for i, name in enumerate(numbered(word + "{}.png"))]
        (model / "images.txt").write_bytes("".join(lines).encode(encoding))
    assert list(centres(load_scene(tmp_path, eval=False))) == numbered(word + "{}.png")
    assert "encoding" in capsys.readouterr().err


def test_gbk_that_is_valid_utf8_too(tmp_path):
    """The bytes of this word in GBK are UTF-8 for other letters."""
    word = "母".encode("gbk").decode("utf-8")
    colmap_scene(tmp_path, numbered(word + "{}.png"), numbered("母{}.png"))
    assert list(centres(load_scene(tmp_path, eval=False))) == numbered("母{}.png")


def test_files_whose_names_are_not_utf8(tmp_path):
    """Names on disk in GBK, as unpacked from an archive of Windows, are found by their bytes and by their meaning."""
    raw = numbered("照片{}.png")[0].encode("gbk").decode("utf-8", "surrogateescape")
    for name in (raw, "照片000.png"):
        scene = tmp_path / str(name == raw)
        model = colmap_scene(scene, ["000.png"], ["000.png"])
        write_images(model, [("000.png", 1, (1, 0, 0, 0), (0, 0, 0))])
        content = (model / "images.bin").read_bytes().replace(b"000.png", name.encode("utf-8", "surrogateescape"))
        (model / "images.bin").write_bytes(content)
        (scene / "images/000.png").rename(scene / "images" / raw)
        (camera,) = load_scene(scene, eval=False).train
        assert camera.name.isprintable() and camera.photo.pixels().shape == (3, 30, 40)


def test_the_exact_name_comes_first(tmp_path, capsys):
    """Other spellings are not looked at where the name is that of a file."""
    files = ["a.png", "A.png", "a.PNG", "cam/a.png"]
    colmap_scene(tmp_path, ["a.png", "A.png", "cam/a.png"], files)
    assert list(centres(load_scene(tmp_path, eval=False))) == ["A.png", "a.png", "cam/a.png"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "names, files",
    [
        (["a.JPG"], ["a.jpg", "A.jpg"]),
        (["a.jpg"], ["cam1/a.jpg", "cam2/a.jpg"]),
        (["a.tif"], ["a.png", "a.jpg"]),
        (["cam1/a.png", "cam2/a.png"], ["a.png"]),
        (["/x/a.png", "/y/a.png"], ["a.png"]),
        (["a.jpg", "A.JPEG"], ["a.jpeg"]),
    ],
)
def test_what_fits_twice_is_an_error_that_names_both(tmp_path, names, files):
    """Two files for a name, or two names for a file: never a guess."""
    model = colmap_scene(tmp_path, names, files)
    with pytest.raises(InputError, match="fits? ") as error:
        load_scene(tmp_path, eval=False)
    both = files if len(files) == 2 else names
    assert all(each in str(error.value) for each in both) and str(model / "images.bin") in str(error.value)


@pytest.mark.parametrize(
    "names, files, missing",
    [
        (["cam1/a.png", "cam2/a.png"], ["cam1/a.png"], "cam2/a.png"),
        (["cam1/a.png", "a.png"], ["a.png"], "cam1/a.png"),
        (["a.png", "a.jpg"], ["a.png"], "a.jpg"),
        (["a.jpg", "b.jpg"], ["a.jpg", "b.png"], "b.jpg"),
        (["/x/cam1/a.png", "/x/cam2/a.png"], ["cam1/a.png", "cam3/a.png"], "x/cam2/a.png"),
    ],
)
def test_a_file_of_another_photo_is_no_substitute(tmp_path, names, files, missing):
    """A missing photo stays missing: files with an exact name are taken, and suffixes differ for all or for none."""
    colmap_scene(tmp_path, names, files)
    scene = load_scene(tmp_path, eval=False)
    assert scene.missing == (missing,) and len(scene.train) == 1


def test_reduced_photos_are_found_by_the_same_rule(tmp_path):
    """-i images_2 with names that differ in case and have images/ in front; the full photos are not taken instead."""
    colmap_scene(tmp_path, [f"images/{i}.PNG" for i in range(NUM)], [f"{i}.png" for i in range(NUM)])
    for i in range(NUM - 1):
        write_photo(tmp_path / f"images_2/{i}.png", 20, 15)
    scene = load_scene(tmp_path, images="images_2", eval=False)
    assert [(camera.name, camera.width) for camera in scene.train] == [("0.png", 20), ("1.png", 20)]
    assert scene.missing == ("images/2.PNG",)


def test_the_first_path_and_what_lies_there_are_named(tmp_path):
    """Where no photo is found: the path that was looked for, the files there, and the most similar of them."""
    colmap_scene(tmp_path, numbered("{}.png"), numbered("frame_{}.png"))
    with pytest.raises(InputError) as error:
        load_scene(tmp_path)
    assert str(tmp_path / "images/000.png") in str(error.value)
    assert "contains 3 photos" in str(error.value) and "frame_000.png" in str(error.value)
    shutil.move(tmp_path / "images", tmp_path / "pictures")
    with pytest.raises(InputError, match="there is no folder images in .*, but pictures, sparse"):
        load_scene(tmp_path)


def test_broken_links_are_named(tmp_path):
    """Photos are often links to another disk, which may be absent."""
    colmap_scene(tmp_path, numbered("{}.png"), [])
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images/000.png").symlink_to("/nowhere/000.png")
    with pytest.raises(InputError, match="000.png does not exist: it is a symbolic link to /nowhere/000.png"):
        load_scene(tmp_path)


def test_photos_beside_the_model(tmp_path):
    """Flat exports of RealityScan and Metashape: cameras, images, points and photos in one folder."""
    model = colmap_scene(tmp_path, numbered("{}.png"), numbered("{}.png"))
    for path in (*model.iterdir(), *(tmp_path / "images").iterdir()):
        path.rename(tmp_path / path.name)
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "sparse")
    scene = load_scene(tmp_path, eval=False)
    assert [camera.name for camera in scene.train] == numbered("{}.png") and len(scene.points.xyz) == 5


def test_masks_and_point_clouds_by_other_names(tmp_path):
    """mask_path and ply_file_path of transforms.json may be absolute or spelled otherwise, too."""
    write_photo(tmp_path / "masks_of_me/m.png", mode="L")
    (tmp_path / "cloud.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\n"
        + "".join(f"property float {each}\n" for each in "xyz")
        + "end_header\n1 2 3\n"
    )
    write_transforms(
        tmp_path, num_frames=2, frame=lambda i: {"mask_path": "D:\\x\\masks_of_me\\M.PNG"}, ply_file_path="/y/Cloud.ply"
    )
    write_photo(tmp_path / "masks/other.png", mode="L")
    scene = load_scene(tmp_path, eval=False)
    assert len(scene.points.xyz) == 1 and scene.train[0].photo.mask_path == tmp_path / "masks_of_me/m.png"


def test_hidden_files_and_linked_folders_are_not_searched(tmp_path):
    """A link to a large disk inside the scene would be searched for ever; links to photos are followed by name."""
    outside = tmp_path / "outside"
    write_photo(outside / "000.png")
    scene = tmp_path / "scene"
    colmap_scene(scene, ["x/000.png", "001.png", "linked/000.png"], ["001.png", ".trash/000.png"])
    (scene / "images/linked").symlink_to(outside)
    assert load_scene(scene, eval=False).missing == ("x/000.png",)
    files = SceneFiles(scene)
    assert not files.match(scene, ["000.PNG"])[0].path.exists()


def test_heic_photos(tmp_path):
    """Photos of iPhones are read by the same dependency as in convert.py."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()  # to write it
    model = colmap_scene(tmp_path, ["0.heic"], ["0.png"])
    write_cameras(model, [(1, "PINHOLE", 64, 48, (60.0, 60.0, 32.0, 24.0))])
    Image.new("RGB", (64, 48), (200, 30, 40)).save(tmp_path / "images/0.heic")
    (tmp_path / "images/0.png").unlink()
    (camera,) = load_scene(tmp_path, eval=False).train
    assert abs(camera.photo.pixels()[0].float().mean() - 200) < 10
