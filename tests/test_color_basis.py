"""The colour basis: orthonormal over the viewing directions, inverted exactly, and smaller files."""

import math

import numpy as np
import pytest
import torch
import torch_reference as reference
from gsz_cases import basis_of_views
from test_compact_profile import arrays, random_rows

from compact_splats.compression import ColorBasis, FormatError, decode, encode
from compact_splats.compression.color_basis import CELL_BITS, MAX_VIEWPOINTS, CellBases
from compact_splats.scene.cameras import Camera
from compact_splats.scene.spherical_harmonics import sh_basis

CELLS = 1 << CELL_BITS
ORIGIN = torch.zeros(3, dtype=torch.float64)


def cell_bases(color_basis: ColorBasis, num_coefficients: int = 16, spread: float = 1.0) -> CellBases:
    return CellBases(color_basis, ORIGIN, spread, num_coefficients)


def random_cells(num: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, CELLS, (num, 3), generator=torch.Generator().manual_seed(seed))


def middle_of(cell: torch.Tensor, spread: float = 1.0) -> torch.Tensor:
    """As docs/gsz.md says it, apart from the code."""
    g = (2 * cell.double() + 1) / CELLS - 1
    return spread * g / (1 - g.abs())


def camera(position: tuple[float, float, float], look: tuple[float, float, float], focal: float = 100.0) -> Camera:
    forward = torch.nn.functional.normalize(torch.tensor(look), dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.1, 0.9, 0.3])), dim=0)
    matrix = torch.eye(4)
    matrix[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    matrix[:3, 3] = -matrix[:3, :3] @ torch.tensor(position)
    return Camera("a", 80, 60, focal, focal, 40, 30, matrix, None)


def test_harmonics_are_those_of_the_reference():
    directions = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).double())
    for degree in range(4):
        assert torch.allclose(sh_basis(directions, degree), reference.sh_basis(directions, degree), rtol=0, atol=1e-14)


@pytest.mark.parametrize("num_coefficients", [1, 4, 9, 16])
def test_a_change_of_what_is_seen_is_as_large_in_numbers(num_coefficients):
    """The squares of L^T c are the mean square of the colour that the viewpoints see, and the prior's share of it."""
    views = basis_of_views(20, cosine=-2.0)  # all see everything
    cells = random_cells(50)
    made = cell_bases(views, num_coefficients)
    colors = torch.randn(50, num_coefficients, 3, generator=torch.Generator().manual_seed(1)).double()
    seen = made.to_basis(made.index_of(cells), colors)
    for cell, before, after in zip(cells, colors, seen, strict=True):
        directions = torch.nn.functional.normalize(middle_of(cell) - views.positions)
        harmonics = reference.sh_basis(directions, math.isqrt(num_coefficients) - 1) * math.sqrt(4 * math.pi)
        expected = ((harmonics @ before).square().sum(0) + before.square().sum(0)) / (len(directions) + 1)
        assert torch.allclose(after.square().sum(0), expected, rtol=1e-3)
        # The first one is the mean colour, which the others leave alone.
        assert torch.allclose(after[0], (harmonics.sum(0) @ before + before[0]) / 21, rtol=0, atol=2e-3)


def test_coefficients_come_back():
    """Within the rounding of the inverse; the first function is constant."""
    made, cells = cell_bases(basis_of_views(20)), random_cells(300)
    index = made.index_of(cells)
    colors = torch.randn(300, 16, 3, generator=torch.Generator().manual_seed(1)).double()
    seen = made.to_basis(index, colors)
    back = made.from_basis(index, seen[:, 1:].flatten(1)) / made.denominator
    back[:, 0] += seen[:, 0]
    assert (back - colors).abs().max() < 5e-3


def test_integers_are_taken_back_exactly_whatever_the_company():
    """The same sums for a Gaussian alone, in another order, and with matrices made at other times."""
    cells = random_cells(200)
    rest = torch.randint(-(1 << 27), 1 << 27, (200, 45), generator=torch.Generator().manual_seed(2)).double()
    made = cell_bases(basis_of_views(32))
    together = made.from_basis(made.index_of(cells), rest)
    assert torch.equal(together, together.round())
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    others = cell_bases(basis_of_views(32))
    others.index_of(random_cells(50, seed=9))
    assert torch.equal(others.from_basis(others.index_of(cells[order]), rest[order]), together[order])
    for i in range(0, 200, 40):
        alone = cell_bases(basis_of_views(32))
        assert torch.equal(alone.from_basis(alone.index_of(cells[i : i + 1]), rest[i : i + 1])[0], together[i])


@pytest.mark.parametrize("repeats", [1, 50])
def test_components_are_what_the_basis_makes_of_them(repeats):
    """To the last bit, for few Gaussians in a cell and for many."""
    draws = torch.Generator().manual_seed(4)
    components = torch.randint(-999, 999, (40 * repeats, 7), generator=draws).double()
    basis = torch.randint(-127, 128, (7, 45), generator=draws).to(torch.int8)
    for color_basis in (basis_of_views(12), ColorBasis.of_all_directions()):
        made = cell_bases(color_basis)
        index = made.index_of(random_cells(40).repeat_interleave(repeats, 0))
        expected = made.from_basis(index, components @ basis.double())
        assert torch.equal(made.from_basis(index, components, basis), expected)


def test_gradient():
    made, cells = cell_bases(basis_of_views(9), 4), random_cells(6)
    index = made.index_of(cells)
    colors = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda each: made.to_basis(index, each), colors)


def test_without_viewpoints_nothing_changes():
    made, cells = cell_bases(ColorBasis.of_all_directions()), random_cells(7)
    colors = torch.randn(7, 16, 3).double()
    index = made.index_of(cells)
    assert torch.equal(made.to_basis(index, colors), colors)
    assert torch.equal(made.from_basis(index, colors[:, 1:].flatten(1))[:, 1:], colors[:, 1:])


def test_what_no_viewpoint_sees_is_as_if_seen_from_all_around():
    """Behind all cameras only the prior is left, and L is the identity."""
    towards = torch.tensor([[0.0, 0.0, 127.0]]).double()
    views = ColorBasis(torch.tensor([[0.0, 0.0, 2.0]]).double(), towards, 0.9)
    made = cell_bases(views)
    colors = torch.randn(1, 16, 3).double()
    assert torch.allclose(made.to_basis(made.index_of(torch.tensor([[16, 16, 2]])), colors), colors)
    in_front = made.to_basis(made.index_of(torch.tensor([[16, 16, 30]])), colors)
    assert not torch.allclose(in_front, colors, atol=0.1)


def test_viewpoints_of_cameras():
    """All of a few; of many a spread choice; the angle reaches the corners of the widest."""
    few = [camera((i, 0.0, 0.0), (0.0, 0.0, 1.0), focal=100.0 - 10 * i) for i in range(3)]
    chosen = ColorBasis.of_cameras(few)
    assert sorted(chosen.positions[:, 0].round().tolist()) == [0, 1, 2]
    assert torch.allclose(chosen.directions, torch.tensor([0.0, 0.0, 127.0]).double())
    assert chosen.cosine == pytest.approx(math.cos(math.atan(50 / 80)))
    crowd = [camera((0.001 * i, 0.0, 0.0), (0.0, 0.0, 1.0)) for i in range(100)]
    chosen = ColorBasis.of_cameras([*crowd, camera((5.0, 0.0, 0.0), (0.0, 0.0, 1.0))])
    assert len(chosen.positions) == MAX_VIEWPOINTS and chosen.positions[:, 0].max() == 5
    assert len(ColorBasis.of_cameras([]).positions) == 0


def test_viewpoints_come_back_from_bytes():
    views = basis_of_views(5)
    back = ColorBasis.from_bytes(views.to_bytes(), views.cosine)
    assert torch.equal(back.positions, views.positions) and torch.equal(back.directions, views.directions)
    for data in (views.to_bytes()[:-1], basis_of_views(32).to_bytes() + views.to_bytes()):
        with pytest.raises(FormatError, match="viewpoints"):
            ColorBasis.from_bytes(data, 0.5)
    for value in (np.nan, np.inf, 3e38):
        with pytest.raises(FormatError, match="viewpoints"):
            ColorBasis.from_bytes(np.float32(value).tobytes() + views.to_bytes()[4:], 0.5)


def test_what_the_cameras_cannot_tell_apart_costs_nothing():
    """Cameras in a narrow cone: the same steps make a smaller file and a smaller error in what is seen."""
    rows = random_rows(3000)
    rows["means"] *= 0.1
    positions = torch.tensor([0.0, 0.0, -8.0]) + torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    axes = -torch.nn.functional.normalize(positions, dim=1)
    views = ColorBasis(positions.double(), (127 * axes).round().double(), 0.7)
    directions = torch.nn.functional.normalize(rows["means"][:, None] - positions, dim=2).double()
    harmonics = reference.sh_basis(directions.reshape(-1, 3), 3).reshape(len(directions), -1, 16)

    def colors(rows: dict[str, torch.Tensor]) -> torch.Tensor:
        return harmonics @ torch.cat([rows["sh_dc"], rows["sh_rest"]], 1).double()

    # Marks by opacity, which is stored finely enough to tell the Gaussians apart in the file's order.
    rows["opacity_logits"] = torch.linspace(-6, 6, 3000)[:, None]
    sizes, errors = [], []
    for given in (None, views):
        data = encode(arrays(rows), "compact", color_basis=given, opacity_step=0.001)
        decoded = {name: torch.from_numpy(row) for name, row in decode(data).items()}
        order = decoded["opacity_logits"][:, 0].argsort()
        seen = colors({"sh_dc": rows["sh_dc"], "sh_rest": rows["sh_rest"]})
        back = harmonics @ torch.cat([decoded["sh_dc"], decoded["sh_rest"]], 1)[order].double()
        sizes.append(len(data))
        errors.append(float((back - seen).square().mean()))
    assert sizes[1] < 0.7 * sizes[0] and errors[1] < 0.9 * errors[0], (sizes, errors)
