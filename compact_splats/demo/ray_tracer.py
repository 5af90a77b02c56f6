"""A small numpy ray tracer for the demo scene: quads, spheres, boxes and rods, one lamp, shadows and highlights.

No reflections, refraction or acceleration structure. Vectors are (3,N) float32 arrays: each component is contiguous.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Texture = Callable[[Array, Array], Array]  # u, v (N,) in world units -> reflectance (3,N) in [0, 1]

NEAR = np.float32(1e-3)  # world units; closer hits are on the surface where the ray starts
BLOCK = 1 << 14  # rays per block, whose arrays fit in the cache
GAMMA = 2.2


@dataclass(frozen=True)
class Material:
    """A texture, and the strength and exponent of the Blinn-Phong highlight."""

    texture: Texture
    gloss: float = 0.0
    shininess: float = 60.0


@dataclass(frozen=True)
class Quad:
    """A rectangle: ``corner``, and two perpendicular edges (3,) in world units."""

    corner: Array
    edge_u: Array
    edge_v: Array
    material: Material

    def hit(self, origin: Array, direction: Array) -> Array:
        """Distance (N,) along each ray to the first hit; infinite without a hit."""
        normal = np.cross(self.edge_u, self.edge_v)
        t = dot(normal, self.corner[:, None] - origin) / dot(normal, direction)
        u, v = self.coordinates(origin + t * direction)
        inside = (u >= 0) & (u <= np.linalg.norm(self.edge_u)) & (v >= 0) & (v <= np.linalg.norm(self.edge_v))
        return np.where(inside & (t > NEAR), t, np.inf)

    def normal(self, point: Array) -> Array:
        """Outward unit normals (3,N) at surface points."""
        return np.broadcast_to(unit(np.cross(self.edge_u, self.edge_v)[:, None]), point.shape)

    def coordinates(self, point: Array) -> tuple[Array, Array]:
        """Texture coordinates u, v (N,) of surface points, in world units."""
        local = point - self.corner[:, None]
        return dot(unit(self.edge_u), local), dot(unit(self.edge_v), local)


@dataclass(frozen=True)
class Sphere:
    """A ball around ``centre`` (3,)."""

    centre: Array
    radius: float
    material: Material

    def hit(self, origin: Array, direction: Array) -> Array:
        """As in Quad."""
        offset = origin - self.centre[:, None]
        b, c = dot(offset, direction), dot(offset, offset) - self.radius**2
        t = -b - np.sqrt(b * b - c)  # NaN where the ray misses; the nearer root, as nothing starts inside a ball
        return np.where(t > NEAR, t, np.inf)

    def normal(self, point: Array) -> Array:
        """As in Quad."""
        return (point - self.centre[:, None]) / np.float32(self.radius)

    def coordinates(self, point: Array) -> tuple[Array, Array]:
        """Longitude and latitude times the radius."""
        x, y, z = self.normal(point)
        return self.radius * np.arctan2(y, x), self.radius * np.arcsin(np.clip(z, -1, 1))


@dataclass(frozen=True)
class Box:
    """A box around ``centre`` (3,) with half sizes ``half`` (3,), turned by ``angle`` radians about the vertical."""

    centre: Array
    half: Array
    angle: float
    material: Material

    def hit(self, origin: Array, direction: Array) -> Array:
        """As in Quad."""
        towards = self._turned(origin - self.centre[:, None])
        inverse = 1 / self._turned(direction)
        extent = np.abs(inverse) * self.half[:, None]
        enter, leave = (-towards * inverse - extent).max(0), (-towards * inverse + extent).min(0)
        return np.where((enter < leave) & (enter > NEAR), enter, np.inf)

    def normal(self, point: Array) -> Array:
        """As in Quad."""
        local = self._turned(point - self.centre[:, None])
        axis = self._face(local)
        normal = np.where(np.arange(3)[:, None] == axis, np.sign(local), 0).astype(np.float32)
        return self._turned(normal, -1)

    def coordinates(self, point: Array) -> tuple[Array, Array]:
        """The two coordinates that span the face, from its middle."""
        local = self._turned(point - self.centre[:, None])
        axis = self._face(local)
        return np.where(axis == 0, local[1], local[0]), np.where(axis == 2, local[1], local[2])

    def _face(self, local: Array) -> Array:
        return (np.abs(local) / self.half[:, None]).argmax(0)

    def _turned(self, vector: Array, sign: int = 1) -> Array:
        cos, sin = np.float32(np.cos(self.angle)), np.float32(sign * np.sin(self.angle))
        x, y, z = vector
        return np.stack(np.broadcast_arrays(cos * x + sin * y, cos * y - sin * x, z))


@dataclass(frozen=True)
class Rod:
    """A round bar from ``start`` to ``end`` (3,), open at its ends."""

    start: Array
    end: Array
    radius: float
    material: Material

    def hit(self, origin: Array, direction: Array) -> Array:
        """As in Quad."""
        axis, offset = (self.end - self.start)[:, None], origin - self.start[:, None]
        length2 = dot(axis, axis)
        axis_d, axis_o = dot(axis, direction), dot(axis, offset)
        a = length2 - axis_d * axis_d
        b = length2 * dot(offset, direction) - axis_o * axis_d
        c = length2 * (dot(offset, offset) - self.radius**2) - axis_o * axis_o
        t = (-b - np.sqrt(b * b - a * c)) / a
        along = axis_o + t * axis_d
        return np.where((t > NEAR) & (along >= 0) & (along <= length2), t, np.inf)

    def normal(self, point: Array) -> Array:
        """As in Quad."""
        axis = (self.end - self.start)[:, None]
        fraction = dot(axis, point - self.start[:, None]) / dot(axis, axis)
        return (point - self.start[:, None] - fraction * axis) / np.float32(self.radius)

    def coordinates(self, point: Array) -> tuple[Array, Array]:
        """Coordinates (approximately) around and along the axis."""
        x, y, _ = self.normal(point)
        return self.radius * np.arctan2(y, x), dot(unit(self.end - self.start), point - self.start[:, None])


Shape = Quad | Sphere | Box | Rod


@dataclass(frozen=True)
class Lighting:
    """One lamp at ``lamp`` (3,) with inverse-square fall-off, and ambient light, slightly more from above."""

    lamp: Array
    power: float
    ambient: float


def trace(shapes: list[Shape], lighting: Lighting, origin: Array, direction: Array) -> tuple[Array, Array]:
    """Colours and distances along rays from one point.

    Args:
        shapes: the scene; every ray must hit a shape.
        lighting: the lamp.
        origin: (3,) world units.
        direction: (3,N) unit vectors.

    Returns:
        Colours (3,N) float32 in [0, 1], display-encoded, and the distances (N,) of the hits in world units.
    """
    blocks = [direction[:, i : i + BLOCK] for i in range(0, direction.shape[1], BLOCK)]
    with np.errstate(divide="ignore", invalid="ignore"):  # rays parallel to a face, or that miss a sphere
        traced = [_trace_block(shapes, lighting, origin[:, None], block) for block in blocks]
    return np.concatenate([c for c, _ in traced], axis=1), np.concatenate([t for _, t in traced])


def _trace_block(shapes: list[Shape], lighting: Lighting, origin: Array, direction: Array) -> tuple[Array, Array]:
    distance = np.full(direction.shape[1], np.inf, np.float32)
    nearest = np.zeros(direction.shape[1], np.int64)
    for i, shape in enumerate(shapes):
        t = shape.hit(origin, direction)
        closer = t < distance
        distance[closer], nearest[closer] = t[closer], i
    point = origin + distance * direction
    lit = _lit(shapes, lighting.lamp[:, None], point)
    light = np.empty_like(direction)
    for i in np.unique(nearest):
        here = nearest == i
        light[:, here] = _shade(shapes[i], lighting, point[:, here], direction[:, here], lit[here])
    return np.clip(light, 0, 1) ** np.float32(1 / GAMMA), distance


def _lit(shapes: list[Shape], lamp: Array, point: Array) -> Array:
    """Whether each point (N,) is lit. Shadow rays start at the lamp, so they can't hit the surface at their start."""
    offset = point - lamp
    reach = np.sqrt(dot(offset, offset))
    free = np.ones(point.shape[1], bool)
    for shape in shapes:
        if not isinstance(shape, Quad):  # walls and the poster cast no shadows
            free &= ~(shape.hit(lamp, offset / reach) < reach - np.float32(0.005))
    return free


def _shade(shape: Shape, lighting: Lighting, point: Array, direction: Array, lit: Array) -> Array:
    normal = shape.normal(point)
    to_lamp = lighting.lamp[:, None] - point
    distance2 = dot(to_lamp, to_lamp)
    to_lamp /= np.sqrt(distance2)
    lamp = lit * np.float32(lighting.power) / distance2
    diffuse = lamp * np.maximum(dot(normal, to_lamp), 0) + np.float32(lighting.ambient) * (
        1 + np.float32(0.3) * normal[2]
    )
    colour = shape.material.texture(*shape.coordinates(point)) * diffuse
    if shape.material.gloss:
        half = unit(to_lamp - direction)
        colour += shape.material.gloss * lamp * np.maximum(dot(normal, half), 0) ** shape.material.shininess
    return colour


def dot(a: Array, b: Array) -> Array:
    """Scalar product over the first axis, of length 3."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(vector: Array) -> Array:
    """Vectors (3,...) scaled to length 1."""
    return vector / np.sqrt(dot(vector, vector))
