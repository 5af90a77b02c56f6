"""Model files: the 3DGS layout as plyfile sees it, bits that survive, and one line for whatever is not a model."""

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from compact_splats.scene import ply
from compact_splats.scene.gaussian_model import PARAMETER_NAMES, GaussianModel
from compact_splats.utils.errors import InputError


def random_rows(num: int, num_rest: int = 15, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (1,), "sh_dc": (1, 3)}
    shapes["sh_rest"] = (num_rest, 3)
    return {name: rng.standard_normal((num, *shape)).astype(np.float32) for name, shape in shapes.items()}


def names(num_rest: int) -> list[str]:
    rest = [f"f_rest_{i}" for i in range(3 * num_rest)]
    geometry = ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    return ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity", *geometry]


def test_what_is_written_is_the_3dgs_layout(tmp_path):
    rows = random_rows(20)
    ply.write(tmp_path / "model.ply", rows)
    file = PlyData.read(tmp_path / "model.ply")
    assert file.byte_order == "<" and not file.text and [element.name for element in file.elements] == ["vertex"]
    vertex = file["vertex"]
    assert [p.name for p in vertex.properties] == names(15) and len(vertex.properties) == 62
    assert {p.val_dtype for p in vertex.properties} == {"f4"}
    assert not any(vertex[name].any() for name in ("nx", "ny", "nz"))
    for i in range(3):
        np.testing.assert_array_equal(vertex["xyz"[i]], rows["means"][:, i])
        np.testing.assert_array_equal(vertex[f"f_dc_{i}"], rows["sh_dc"][:, 0, i])
        np.testing.assert_array_equal(vertex[f"scale_{i}"], rows["log_scales"][:, i])
        for k in range(15):  # all of red, then green, then blue
            np.testing.assert_array_equal(vertex[f"f_rest_{15 * i + k}"], rows["sh_rest"][:, k, i])
    for i in range(4):
        np.testing.assert_array_equal(vertex[f"rot_{i}"], rows["quats"][:, i])
    np.testing.assert_array_equal(vertex["opacity"], rows["opacity_logits"][:, 0])


@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
@pytest.mark.parametrize("num", [0, 1, 33])
def test_a_round_trip_keeps_every_bit(tmp_path, num, num_rest):
    rows = random_rows(num, num_rest)
    ply.write(tmp_path / "model.ply", rows)
    again = ply.read(tmp_path / "model.ply")
    for name in PARAMETER_NAMES:
        assert again[name].dtype == np.float32 and again[name].shape == rows[name].shape
        assert again[name].tobytes() == rows[name].tobytes(), name


def test_a_model_round_trip_through_a_file(tmp_path):
    rows = random_rows(7, num_rest=8)
    model = GaussianModel({name: torch.from_numpy(row) for name, row in rows.items()}, sh_degree=0)
    model.save_ply(tmp_path / "deep" / "folder" / "point_cloud.ply")
    again = GaussianModel.load_ply(tmp_path / "deep" / "folder" / "point_cloud.ply", "cpu")
    assert again.sh_degree == again.max_sh_degree == 2 and again.optimizer is None
    assert all(torch.equal(again.parameters[name], model.parameters[name]) for name in PARAMETER_NAMES)
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["point_cloud.ply"]


@pytest.mark.parametrize("options", [{"text": True}, {"byte_order": ">"}, {"byte_order": "<"}])
def test_files_of_other_tools_are_read_by_name(tmp_path, options):
    """Any order of the properties, doubles, extra properties and elements, any of the three encodings."""
    num, order = 5, np.random.default_rng(1).permutation(names(3))
    columns = {name: np.arange(num) + 0.25 * i for i, name in enumerate(order)}
    columns["class"] = np.arange(num)
    vertices = np.empty(num, [(name, "f8" if name == "x" else "f4") for name in columns])
    for name, values in columns.items():
        vertices[name] = values
    other = np.zeros(2, [("a", "i4")])
    elements = [PlyElement.describe(other, "other"), PlyElement.describe(vertices, "vertex")]
    PlyData(elements, **options).write(tmp_path / "model.ply")
    rows = ply.read(tmp_path / "model.ply")
    np.testing.assert_array_equal(rows["means"], np.stack([columns[name] for name in "xyz"], 1))
    np.testing.assert_array_equal(rows["opacity_logits"][:, 0], columns["opacity"])
    assert rows["sh_rest"].shape == (num, 3, 3)
    np.testing.assert_array_equal(rows["sh_rest"][:, 2, 1], columns["f_rest_5"])


def test_coordinates_in_double_keep_their_digits(tmp_path):
    """Those of a map, 4e6 m from the origin: float32 has steps of 0.25 m there."""
    rows, offset = random_rows(30), np.array([-2694044.5, 4297085.5, 3854578.25])
    ply.write(tmp_path / "a.ply", rows)
    vertices = PlyData.read(tmp_path / "a.ply")["vertex"].data
    kinds = [(name, "f8" if name in "xyz" else "f4") for name in vertices.dtype.names]
    far = vertices.astype(kinds)
    for axis, shift in zip("xyz", offset, strict=True):
        far[axis] += shift
    PlyData([PlyElement.describe(far, "vertex")]).write(tmp_path / "far.ply")
    read = ply.read(tmp_path / "far.ply")
    np.testing.assert_allclose(read["means"] + np.array(read.offset), rows["means"] + offset, rtol=0, atol=1e-6)


def write_without(path, missing: set[str], **values: float) -> None:
    kept = [name for name in names(15) if name not in missing]
    vertices = np.zeros(4, [(name, "f4") for name in kept])
    for name, value in values.items():
        vertices[name][2] = value
    PlyData([PlyElement.describe(vertices, "vertex")]).write(path)


@pytest.mark.parametrize(
    "missing, values, expected",
    [
        ({"opacity"}, {}, "have no opacity"),
        ({"scale_1", "rot_3"}, {}, "have no scale_1, rot_3"),
        ({"f_rest_44"}, {}, "44"),
        ({"f_rest_3"}, {}, "44"),
        (set(), {"rot_1": np.nan}, "quats[1] = nan in Gaussian 2"),
        (set(), {"x": -np.inf}, "means[0] = -inf in Gaussian 2"),
        (set(), {"f_rest_17": np.nan}, "sh_rest[2][1] = nan in Gaussian 2"),
    ],
)
def test_what_is_not_a_model_is_said_in_one_line(tmp_path, missing, values, expected):
    path = tmp_path / "model.ply"
    write_without(path, missing, **values)
    with pytest.raises(InputError) as caught:
        ply.read(path, keep_nan=True)
    assert str(path) in str(caught.value) and expected in str(caught.value) and "\n" not in str(caught.value)


def test_normals_may_be_missing(tmp_path):
    write_without(tmp_path / "model.ply", {"nx", "ny", "nz"})
    assert ply.read(tmp_path / "model.ply")["means"].shape == (4, 3)


def test_no_file_a_folder_and_a_point_cloud_are_said_in_one_line(tmp_path):
    cloud = np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    PlyData([PlyElement.describe(cloud, "vertex")]).write(tmp_path / "points.ply")
    PlyData([PlyElement.describe(cloud, "point")]).write(tmp_path / "other.ply")
    for name, said in (
        ("missing.ply", "expected a PLY file, found nothing"),
        ("", "expected a PLY file, found something else"),
        ("points.ply", "is no 3DGS model"),
        ("other.ply", "expected the element 'vertex', found none"),
    ):
        with pytest.raises(InputError, match=said):
            ply.read(tmp_path / name)


@pytest.mark.parametrize("count", ["99999999999999", "-5", "4000000000"])
def test_a_count_that_lies_is_an_input_error(tmp_path, count):
    path = tmp_path / "model.ply"
    ply.write(path, random_rows(6))
    path.write_bytes(path.read_bytes().replace(b"element vertex 6", b"element vertex " + count.encode()))
    with pytest.raises(InputError):
        ply.read(path)


def test_a_file_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        ply.write(tmp_path / "file" / "model.ply", random_rows(2))
