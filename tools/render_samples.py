"""Render the sample photographs of tools/samples: parts that a field operator would teach.

    python tools/render_samples.py [--out DIR] [--only CLASS ...] [--jobs 2]

Needs what requirements/render.in lists (Blender as a Python module, Python 3.11). Each picture is
path traced by Cycles on the CPU from its own random generator, seeded by SEED, the class name, the
split and the number, so one picture can be made again without the others. The pictures of `test`
lie on other surfaces, under other lights, than those of `teach`.

A part is built from a few mesh primitives (`lathe`, `prism`, `tube`, `thread`, `box`) in any unit,
then laid down on a face of its convex hull and scaled to a bounding sphere of radius 1.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from PIL import Image

# isort: split
import bmesh  # these come with bpy and can be imported only after it
from mathutils import Matrix, Vector
from mathutils.geometry import tessellate_polygon

SEED = 20261121
PX = 224
SAMPLES = 11  # paths per pixel, then denoised
TEACH, TEST, NEVER = 8, 10, 8  # pictures per class
PI = math.pi

Rng = np.random.Generator
Vec = Sequence[float]
Mesh = tuple[np.ndarray, list[tuple[int, ...]]]  # vertices (n, 3) and faces
Colour = tuple[float, float, float]  # linear RGB, 0 to 1


# --- meshes -----------------------------------------------------------------------------------


def rings_to_mesh(rings: np.ndarray, wrap: bool) -> Mesh:
    """Skin over rings (m, n, 3); the ends are capped unless the last joins the first."""
    m, n = rings.shape[:2]
    faces: list[tuple[int, ...]] = [
        (i * n + j, i * n + (j + 1) % n, (i + 1) % m * n + (j + 1) % n, (i + 1) % m * n + j)
        for i in range(m if wrap else m - 1)
        for j in range(n)
    ]
    if not wrap:
        faces += [tuple(range(n))[::-1], tuple(range((m - 1) * n, m * n))]
    return rings.reshape(-1, 3), faces


def lathe(profile: Sequence[tuple[float, float]], n: int = 56, closed: bool = False) -> Mesh:
    """Turn a profile of (radius, z) about the z axis; a closed profile makes a ring."""
    r, z = np.array(profile, float).T
    a = np.linspace(0, 2 * PI, n, endpoint=False)
    r = np.maximum(r, 1e-4)[:, None]
    rings = np.stack([r * np.cos(a), r * np.sin(a), np.broadcast_to(z[:, None], (len(z), n))], -1)
    return rings_to_mesh(rings, closed)


def ring(r0: float, r1: float, z0: float, z1: float, n: int = 56) -> Mesh:
    return lathe([(r0, z0), (r1, z0), (r1, z1), (r0, z1)], n, closed=True)


def cylinder(r: float, z0: float, z1: float, n: int = 40) -> Mesh:
    return lathe([(r, z0), (r, z1)], n)


def sphere(r: float, n: int = 24) -> Mesh:
    a = np.linspace(-PI / 2, PI / 2, n // 2 + 1)
    return lathe([(r * math.cos(t), r * math.sin(t)) for t in a], n)


def torus(big: float, small: float, n: int = 56, k: int = 14) -> Mesh:
    a = np.linspace(0, 2 * PI, k, endpoint=False)
    return lathe([(big + small * math.cos(t), small * math.sin(t)) for t in a], n, closed=True)


def circle(r: float, n: int = 40, x: float = 0.0, y: float = 0.0, turn: float = 0.0) -> np.ndarray:
    a = np.linspace(0, 2 * PI, n, endpoint=False) + turn
    return np.stack([x + r * np.cos(a), y + r * np.sin(a)], -1)


def prism(
    outer: np.ndarray,
    levels: Sequence[tuple[float, float, float]],
    holes: Sequence[np.ndarray] = (),
) -> Mesh:
    """Loft a polygon (n, 2) through levels of (z, scale, turn); holes go straight through."""
    verts: list[np.ndarray] = []
    faces: list[tuple[int, ...]] = []
    caps: list[tuple[list[list[Vector]], list[int]]] = [([], []) for _ in levels]
    for loop in (outer, *holes):
        n, (x, y) = len(loop), loop.T
        for level, (z, scale, turn) in enumerate(levels):
            s, t = (scale, turn) if loop is outer else (1.0, 0.0)
            c, d = s * math.cos(t), s * math.sin(t)
            start = sum(map(len, verts))
            verts.append(np.stack([c * x - d * y, d * x + c * y, np.full(n, z)], -1))
            caps[level][0].append([Vector((*p[:2], 0.0)) for p in verts[-1]])
            caps[level][1].extend(range(start, start + n))
            if level:
                faces += [
                    (start + i - n, start + (i + 1) % n - n, start + (i + 1) % n, start + i)
                    for i in range(n)
                ]
    for loops, index in (caps[0], caps[-1]):
        faces += [tuple(index[v] for v in triangle) for triangle in tessellate_polygon(loops)]
    return np.concatenate(verts), faces


def flat(outer: np.ndarray, z0: float, z1: float, holes: Sequence[np.ndarray] = ()) -> Mesh:
    return prism(np.asarray(outer, float), [(z0, 1, 0), (z1, 1, 0)], holes)


def hexagon(r: float, z0: float, z1: float, hole: float = 0.0) -> Mesh:
    return flat(circle(r, 6), z0, z1, [circle(hole, 32)] if hole else [])


def corners(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def polygon(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    return np.stack([x, y], -1).astype(float)


def box(x: float, y: float, z: float) -> Mesh:
    return flat(corners(-x / 2, x / 2, -y / 2, y / 2), -z / 2, z / 2)


def tube(
    path: np.ndarray, radius: Any, n: int = 14, inner: float = 0.0, closed: bool = False
) -> Mesh:
    """Sweep a circle along a path (m, 3); an inner radius makes it a pipe with open ends."""
    path = np.asarray(path, float)
    around = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    tangent = around if closed else np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent[0], (0.31, 0.17, 0.93) if abs(tangent[0][2]) < 0.9 else (1, 0, 0))
    normals = []
    for t in tangent:
        side = side - t * (side @ t)
        side /= np.linalg.norm(side)
        normals.append(side)
    u = np.array(normals)[:, None]
    v = np.cross(tangent, u[:, 0])[:, None]
    a = np.linspace(0, 2 * PI, n, endpoint=False)[None, :, None]
    unit = np.cos(a) * u + np.sin(a) * v
    rings = path[:, None] + unit * np.broadcast_to(radius, len(path))[:, None, None]
    if inner:
        return rings_to_mesh(np.concatenate([rings, (path[:, None] + unit * inner)[::-1]]), True)
    return rings_to_mesh(rings, closed)


def thread(r: float, pitch: float, z0: float, z1: float, depth: float, n: int = 28) -> Mesh:
    """A screw thread: the radius follows a triangle wave along a helix."""
    z = np.linspace(z0, z1, max(4, int((z1 - z0) / pitch * 7)))[:, None]
    a = np.linspace(0, 2 * PI, n, endpoint=False)[None]
    wave = 2 * np.abs((z / pitch - a / (2 * PI)) % 1 - 0.5)
    lead = np.clip(np.minimum(z - z0, z1 - z) / pitch, 0.0, 1.0)  # both ends run out
    radius = r - depth + depth * np.clip(1.25 * wave - 0.1, 0, 1) * lead
    rings = np.stack([radius * np.cos(a), radius * np.sin(a), np.broadcast_to(z, radius.shape)], -1)
    return rings_to_mesh(rings, False)


def helix(r: float, pitch: Any, turns: float, per_turn: int = 30) -> np.ndarray:
    """Points on a helix; `pitch` is one number or an array over the points."""
    t = np.linspace(0, turns, int(turns * per_turn))
    z = np.cumsum(np.broadcast_to(pitch, t.shape)) * (t[1] - t[0])
    return np.stack([r * np.cos(2 * PI * t), r * np.sin(2 * PI * t), z], -1)


def arc(centre: Vec, r: float, a0: float, a1: float, n: int = 16) -> np.ndarray:
    """Points on an arc in the xz plane."""
    a = np.linspace(a0, a1, n)
    return np.stack(
        [centre[0] + r * np.cos(a), np.full(n, centre[1]), centre[2] + r * np.sin(a)], -1
    )


# --- materials --------------------------------------------------------------------------------


class Nodes:
    """A node tree under construction; inputs are values or the outputs of other nodes."""

    def __init__(self, name: str):
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.tree.nodes.clear()
        self.where = self("TexCoord").outputs["Object"]

    def __call__(self, kind: str, **inputs: Any) -> Any:
        node = self.tree.nodes.new(f"ShaderNode{kind}")
        for key, value in inputs.items():
            name = key.replace("_", " ")
            if key[0].islower():
                setattr(node, key, value)
                continue
            socket = node.inputs[int(name[1:])] if key[0] == "I" and name[1:].isdigit() else None
            self.feed(socket or node.inputs[name], value)
        return node

    def feed(self, socket: Any, value: Any) -> None:
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        elif isinstance(value, tuple) and len(value) == 3 and socket.type == "RGBA":
            socket.default_value = (*value, 1.0)
        else:
            socket.default_value = value

    def noise(self, scale: float, detail: float = 3.0, stretch: Vec = (1, 1, 1)) -> Any:
        at = self("Mapping", Vector=self.where, Scale=tuple(stretch)).outputs[0]
        return self("TexNoise", Vector=at, Scale=scale, Detail=detail).outputs["Fac"]

    def ramp(self, value: Any, low: float, high: float, to: tuple[float, float] = (0, 1)) -> Any:
        """Map [low, high] to `to`, clamped."""
        return self("MapRange", I0=value, I1=low, I2=high, I3=to[0], I4=to[1]).outputs[0]

    def mix(self, factor: Any, a: Any, b: Any) -> Any:
        node = self("Mix", data_type="RGBA")
        for index, value in ((0, factor), (6, a), (7, b)):
            self.feed(node.inputs[index], value)
        return node.outputs[2]

    def plus(self, a: Any, b: Any) -> Any:
        return self("Math", operation="ADD", I0=a, I1=b).outputs[0]

    def minus(self, a: Any, b: Any) -> Any:
        return self("Math", operation="SUBTRACT", I0=a, I1=b).outputs[0]

    def times(self, a: Any, b: Any) -> Any:
        return self("Math", operation="MULTIPLY", I0=a, I1=b).outputs[0]

    def grid(self, scale: float, wide: float, high: float, gap: float, **more: Any) -> Any:
        """1 on the lines between bricks of wide x high (both over scale), else 0."""
        size = {"Scale": scale, "Brick_Width": wide, "Row_Height": high, "Mortar_Size": gap}
        return self("TexBrick", Vector=self.where, **size, **more).outputs["Fac"]

    def finish(
        self,
        colour: Any,
        rough: Any,
        metallic: Any = 0.0,
        height: Any = None,
        bump: float = 0.2,
        **more: Any,
    ) -> Any:
        shader = self("BsdfPrincipled", **more)
        for name, value in (("Base Color", colour), ("Roughness", rough), ("Metallic", metallic)):
            self.feed(shader.inputs[name], value)
        if height is not None:
            normal = self("Bump", Strength=bump, Distance=0.1, Height=height).outputs[0]
            self.feed(shader.inputs["Normal"], normal)
        self("OutputMaterial", Surface=shader.outputs[0])
        return self.material


def one_of(rng: Rng, *options: Any) -> Any:
    return options[rng.integers(len(options))]


def shade(colour: Colour, factor: float) -> Colour:
    r, g, b = colour
    return factor * r, factor * g, factor * b


def jitter(rng: Rng, colour: Colour, amount: float = 0.12) -> Colour:
    """The colour, a little lighter or darker and shifted in hue."""
    c = np.array(colour) * rng.normal(1, amount) * rng.normal(1, amount / 3, 3)
    r, g, b = np.clip(c, 0.004, 0.95)
    return float(r), float(g), float(b)


def matter(
    rng: Rng,
    colour: Colour,
    rough: float,
    metallic: float = 0.0,
    wear: float | None = None,
    dirt: Colour = (0.06, 0.045, 0.035),
    bump: float = 0.02,
    **more: Any,
) -> Any:
    """A surface with stains (`wear` 0 to 1), uneven gloss and fine bumps."""
    n = Nodes("part")
    n.where = n("VectorMath", I0=n.where, I1=tuple(rng.uniform(-50, 50, 3))).outputs[0]
    wear = float(rng.choice([0.05, 0.15, 0.3, 0.6])) if wear is None else wear
    blotch = n.noise(float(rng.uniform(2.5, 9)), 5)
    stain = n.ramp(blotch, 0.5, 0.7, (0, wear))
    base = n.mix(stain, jitter(rng, colour), jitter(rng, dirt))
    gloss = n.ramp(blotch, 0.3, 0.6, (max(0.04, rough - 0.06), rough + 0.08))
    gloss = n.plus(gloss, n.times(stain, 0.3))
    shine = n.times(n.minus(1.0, n.times(stain, 0.7)), metallic)
    height = n.noise(float(rng.uniform(18, 45)), 2)
    return n.finish(base, gloss, shine, height, bump * (1 + wear), **more)


Maker = Callable[[Rng], Any]


def metal(colour: Colour, low: float, high: float, metallic: float = 1.0, **more: Any) -> Maker:
    """A metal whose roughness lies between low and high."""

    def make(rng: Rng) -> Any:
        rough = low if low == high else float(rng.uniform(low, high))
        return matter(rng, colour, rough, metallic, **more)

    return make


zinc = metal((0.60, 0.61, 0.62), 0.18, 0.4)
brass = metal((0.72, 0.49, 0.20), 0.2, 0.42, dirt=(0.12, 0.07, 0.03))
copper = metal((0.80, 0.36, 0.22), 0.2, 0.4, dirt=(0.10, 0.05, 0.04))
yellow_zinc = metal((0.66, 0.54, 0.30), 0.2, 0.4)
chrome = metal((0.68, 0.69, 0.70), 0.07, 0.16, wear=0.15)
black_oxide = metal((0.055, 0.055, 0.06), 0.3, 0.5, 0.8, dirt=(0.16, 0.07, 0.03))
cast_iron = metal((0.20, 0.20, 0.21), 0.55, 0.55, 0.75, dirt=(0.20, 0.08, 0.03), bump=0.09)
rusty = metal((0.40, 0.38, 0.37), 0.5, 0.5, 0.9, wear=1.0, dirt=(0.22, 0.08, 0.03), bump=0.09)


def plastic(*colours: Colour) -> Maker:
    def make(rng: Rng) -> Any:
        colour, rough = one_of(rng, *colours), float(rng.uniform(0.25, 0.55))
        return matter(rng, colour, rough, wear=float(rng.uniform(0, 0.25)))

    return make


def rubber(rng: Rng) -> Any:
    return matter(rng, (0.022, 0.022, 0.024), 0.65, wear=0.4, dirt=(0.10, 0.09, 0.08), bump=0.15)


RED, BLUE, YELLOW = (0.50, 0.025, 0.02), (0.02, 0.09, 0.36), (0.68, 0.42, 0.02)
GREEN, BLACK, WHITE = (0.02, 0.20, 0.06), (0.02, 0.02, 0.022), (0.72, 0.71, 0.67)
GREY, BEIGE, ORANGE = (0.28, 0.29, 0.30), (0.56, 0.48, 0.35), (0.65, 0.18, 0.02)
DARK = plastic((0.008, 0.008, 0.008))


def pick(rng: Rng, *makers: Maker) -> Any:
    return one_of(rng, *makers)(rng)


# --- parts ------------------------------------------------------------------------------------


class Part:
    """The objects of one part under one root."""

    def __init__(self, rng: Rng):
        self.rng = rng
        self.root = bpy.data.objects.new("part", None)
        bpy.context.scene.collection.objects.link(self.root)
        self.objects: list[Any] = []

    def u(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def one_of(self, *options: Any) -> Any:
        return one_of(self.rng, *options)

    def new(self, mesh: Mesh, at: Vec, rot: Vec) -> Any:
        data = bpy.data.meshes.new("mesh")
        data.from_pydata(mesh[0].tolist(), [], mesh[1])
        b = bmesh.new()
        b.from_mesh(data)
        bmesh.ops.recalc_face_normals(b, faces=b.faces)
        b.to_mesh(data)
        b.free()
        data.shade_smooth()
        data.set_sharp_from_angle(angle=math.radians(35))
        thing = bpy.data.objects.new("mesh", data)
        bpy.context.scene.collection.objects.link(thing)
        thing.parent = self.root
        thing.location, thing.rotation_euler = at, rot
        return thing

    def add(
        self,
        mesh: Mesh,
        material: Any,
        at: Vec = (0, 0, 0),
        rot: Vec = (0, 0, 0),
        bevel: float = 0.0,
        cuts: Sequence[tuple[Mesh, Vec, Vec]] = (),
    ) -> Any:
        """Add a mesh; `cuts` are subtracted from it, then edges are rounded by `bevel`."""
        thing = self.new(mesh, at, rot)
        thing.data.materials.append(material)
        for cut in cuts:
            cutter = self.new(*cut)
            cutter.hide_render = True
            modifier = thing.modifiers.new("cut", "BOOLEAN")
            modifier.operation, modifier.object, modifier.solver = "DIFFERENCE", cutter, "EXACT"
        if bevel:
            modifier = thing.modifiers.new("bevel", "BEVEL")
            modifier.width, modifier.segments, modifier.harden_normals = bevel, 2, True
            modifier.limit_method, modifier.angle_limit = "ANGLE", math.radians(40)
        self.objects.append(thing)
        return thing

    def points(self) -> np.ndarray:
        """World coordinates of all vertices after modifiers (n, 3)."""
        bpy.context.view_layer.update()
        graph = bpy.context.evaluated_depsgraph_get()
        out = []
        for thing in self.objects:
            seen = thing.evaluated_get(graph)
            xyz = np.empty(len(seen.data.vertices) * 3, np.float32)
            seen.data.vertices.foreach_get("co", xyz)
            m = np.array(seen.matrix_world)
            out.append(xyz.reshape(-1, 3) @ m[:3, :3].T + m[:3, 3])
        return np.concatenate(out)

    def lay(self, pose: Vec, settle: bool = True) -> None:
        """Turn by `pose` (Euler), rest on the nearest face of the hull, scale to radius 1."""
        turn = Matrix.Rotation(pose[1], 4, "Y") @ Matrix.Rotation(pose[0], 4, "X")
        self.root.matrix_world = turn
        xyz = self.points()
        if settle:
            turn = rest(xyz) @ turn
        turn = Matrix.Rotation(self.u(0, 2 * PI), 4, "Z") @ turn
        self.root.matrix_world = turn
        xyz = self.points()
        low, high = xyz.min(0), xyz.max(0)
        middle = (low + high) / 2
        scale = 1 / float(np.linalg.norm(xyz - middle, axis=1).max())
        shift = Matrix.Translation((-middle[0], -middle[1], -low[2]))
        self.root.matrix_world = Matrix.Scale(scale, 4) @ shift @ turn


def rest(xyz: np.ndarray) -> Matrix:
    """The rotation that puts the lowest-lying hull face within 40 degrees on the ground."""
    b = bmesh.new()
    for p in xyz[:: max(1, len(xyz) // 4000)]:
        b.verts.new(p)
    bmesh.ops.convex_hull(b, input=b.verts)
    b.normal_update()
    centre = Vector(xyz.mean(0))
    best, best_cost = Vector((0, 0, -1)), math.inf
    for face in b.faces:
        tilt = face.normal.angle(Vector((0, 0, -1)), PI)
        height = face.normal.dot(face.verts[0].co - centre)
        if tilt < math.radians(40) and height < best_cost:
            best, best_cost = face.normal.copy(), height
    b.free()
    return best.rotation_difference(Vector((0, 0, -1))).to_matrix().to_4x4()


def hex_bolt(p: Part) -> None:
    m = pick(p.rng, zinc, zinc, yellow_zinc, black_oxide, rusty)
    length, r, plain = p.u(1.5, 3.4), p.u(0.28, 0.4), p.u(0, 0.4)
    head, tall = r * p.u(1.75, 2.0), r * p.u(1.1, 1.4)
    p.add(hexagon(head, 0, tall), m, bevel=0.05)
    p.add(cylinder(head * 0.9, -0.04, 0.05), m)
    if p.u(0, 1) < 0.3:
        p.add(lathe([(0, -0.07), (head * 1.35, -0.07), (head * 1.3, 0.02), (0, 0.15)]), m)
    p.add(cylinder(r, -length * plain - 0.1, 0), m)
    p.add(thread(r, r * p.u(0.28, 0.4), -length, -length * plain, r * 0.2), m)
    p.lay(p.one_of((PI / 2, 0), (PI / 2, 0), (PI / 2, 0), (PI, 0)))


def wing_nut(p: Part) -> None:
    m = pick(p.rng, zinc, zinc, brass, yellow_zinc, black_oxide)
    r, tall = p.u(0.5, 0.62), p.u(0.6, 0.8)
    p.add(lathe([(0.3, 0), (r, 0), (r * 0.8, tall), (0.3, tall)], closed=True), m, bevel=0.03)
    p.add(thread(0.33, 0.09, 0.03, tall - 0.03, 0.05), DARK(p.rng))
    out, up, root = p.u(1.3, 1.7), p.u(1.0, 1.45), p.u(0.38, 0.5)
    a = np.linspace(-0.25 * PI, 0.8 * PI, 12)
    ear = np.stack([out - 0.35 + 0.36 * np.cos(a), up - 0.3 + 0.34 * np.sin(a)], -1)
    wing = np.concatenate([[(root, 0.08), (0.8, 0.12)], ear, [(root, tall * 0.85)]])
    thick = p.u(0.07, 0.11)
    for turn in (0.0, PI):
        p.add(flat(wing, -thick, thick), m, rot=(PI / 2, 0, turn), bevel=0.06)
    p.lay(p.one_of((0, 0), (0, 0), (PI / 2, 0), (PI * 0.6, 0.2), (PI, 0)))


def gear_outline(teeth: int, r: float, depth: float) -> np.ndarray:
    step = 2 * PI / teeth
    side = [(-0.66, -0.35), (-0.4, -0.29), (0, -0.25), (0.3, -0.19), (0.5, -0.12)]
    side += [(h, -a) for h, a in side[::-1]]
    return np.array(
        [
            ((r + h * depth) * math.cos((i + a) * step), (r + h * depth) * math.sin((i + a) * step))
            for i in range(teeth)
            for h, a in side
        ]
    )


def bore(p: Part, r: float) -> np.ndarray:
    """A round hole, with a keyway on some."""
    hole = circle(r, 36)
    if p.u(0, 1) < 0.5:
        key = np.abs(hole[:, 1]) < r * 0.27
        hole[key & (hole[:, 0] > 0), 0] = r * 1.3
    return hole


def spur_gear(p: Part) -> None:
    m = pick(p.rng, zinc, zinc, black_oxide, brass, cast_iron, plastic(WHITE, BLACK))
    teeth, width = int(p.rng.integers(14, 34)), p.u(0.25, 0.6)
    twist = p.u(0.15, 0.35) * width if p.u(0, 1) < 0.2 else 0.0
    hole = bore(p, p.u(0.14, 0.3))
    holes = [hole]
    if p.u(0, 1) < 0.4:
        k = int(p.rng.integers(4, 7))
        holes += [circle(0.14, 24, *(0.56 * circle(1, k)[i])) for i in range(k)]
    levels = [(t * width, 1.0, t * twist) for t in (0, 0.25, 0.5, 0.75, 1)]
    outline = gear_outline(teeth, 1, 4.4 / teeth)
    p.add(prism(outline, levels, holes), m)
    if p.u(0, 1) < 0.6:
        r = p.u(0.38, 0.46)
        p.add(flat(circle(r), width - 0.01, width + p.u(0.15, 0.35), [hole]), m, bevel=0.02)
    p.lay(p.one_of((0, 0), (0, 0), (0, 0), (PI, 0), (PI / 2.3, 0)), p.u(0, 1) < 0.8)


def bevel_gear(p: Part) -> None:
    m = pick(p.rng, zinc, zinc, black_oxide, brass, cast_iron, plastic(WHITE, BLACK))
    teeth, tall = int(p.rng.integers(14, 26)), p.u(0.38, 0.62)
    top, hole = p.u(0.52, 0.64), circle(p.u(0.16, 0.26), 36)
    spiral = p.u(0.3, 0.5) if p.u(0, 1) < 0.35 else 0.0
    t = np.linspace(0, 1, 6)
    levels = [(-0.12, 0.9, 0.0)] + [(s * tall, 1 + (top - 1) * s, spiral * s) for s in t]
    outline = gear_outline(teeth, 1, 4.6 / teeth)
    p.add(prism(outline, [(float(a), float(b), float(c)) for a, b, c in levels], [hole]), m)
    long = p.u(0.2, 0.55)
    p.add(flat(circle(p.u(0.5, 0.62)), -0.12 - long, -0.1, [hole]), m, bevel=0.025)
    p.add(flat(circle(top * 0.62), tall - 0.01, tall + 0.03, [hole]), m, bevel=0.01)
    p.lay(p.one_of((0, 0), (0, 0), (0.5 * PI, 0), (0.6 * PI, 0)))


def ball_bearing(p: Part) -> None:
    m = pick(p.rng, chrome, zinc, zinc)
    bore_r, w = p.u(0.38, 0.55), p.u(0.18, 0.34)
    gap = 1 - bore_r
    a, b, c = bore_r + gap * 0.27, 1 - gap * 0.27, w * 0.55
    race = [(b, -w), (1, -w), (1, w), (b, w), (b, c), (b + 0.05, 0), (b, -c)]
    p.add(lathe(race, 72, closed=True), m, bevel=0.02)
    race = [(bore_r, -w), (a, -w), (a, -c), (a - 0.05, 0), (a, c), (a, w), (bore_r, w)]
    p.add(lathe(race, 72, closed=True), m, bevel=0.02)
    kind = p.u(0, 1)
    if kind < 0.45:
        r = (b - a) / 2 + 0.04
        n = int(PI * (a + b) / 2 / r * 0.78)
        for x, y in circle((a + b) / 2, n):
            p.add(sphere(r), m, at=(x, y, 0))
        cage = pick(p.rng, brass, zinc, plastic(BEIGE, BLACK))
        p.add(ring((a + b) / 2 - 0.06, (a + b) / 2 + 0.06, -r * 0.7, r * 0.7), cage)
    else:
        seal = (
            zinc(p.rng) if kind < 0.7 else pick(p.rng, rubber, plastic(BLUE, RED, ORANGE), rubber)
        )
        for z in (w * 0.82, -w * 0.82):
            p.add(ring(a + 0.01, b - 0.01, z - 0.02, z + 0.02), seal, bevel=0.01)
    pose = int(p.rng.integers(4))
    p.lay([(0, 0), (0, 0), (0, 0), (PI / 2.8, 0)][pose], pose < 3)


def pipe_end(p: Part, m: Any, x: float, r: float, long: float, turn: float) -> None:
    """A hexagonal or round threaded socket from x outwards along the x axis."""
    rot = (0, PI / 2 + turn, 0)
    outer = circle(r, 6 if p.u(0, 1) < 0.7 else 32, turn=PI / 6)
    p.add(flat(outer, x, x + long, [circle(r * 0.66, 32)]), m, rot=rot, bevel=0.03)
    p.add(cylinder(r * 0.68, x, x + long * 0.35), DARK(p.rng), rot=rot)
    p.add(ring(r * 0.64, r * 0.70, x + long * 0.35, x + long * 0.85), m, rot=rot)


def ball_valve(p: Part) -> None:
    m = pick(p.rng, brass, brass, zinc, chrome)
    grip = plastic(RED, RED, BLUE, YELLOW, GREEN, BLACK)(p.rng)
    steel = zinc(p.rng)
    r = p.u(0.5, 0.6)
    body = [(0.36, -0.8), (r * 0.8, -0.62), (r, -0.3), (r * 1.04, 0), (r, 0.3), (r * 0.8, 0.62)]
    p.add(lathe([*body, (0.36, 0.8)]), m, rot=(0, PI / 2, 0))
    for turn in (0.0, PI):
        pipe_end(p, m, 0.55, p.u(0.5, 0.56), p.u(0.35, 0.5), turn)
    p.add(cylinder(0.22, 0.3, r + 0.28), m)
    p.add(hexagon(0.24, r + 0.1, r + 0.25), m, bevel=0.02)
    turn, z = float(p.rng.choice([0, 0, PI / 2, PI])) + p.u(-0.2, 0.2), r + 0.3
    reach, rise, wide = p.u(1.3, 2.0), p.u(0.1, 0.3), p.u(0.12, 0.18)
    x = [-0.3, 0.3, 0.3 + rise, reach]
    top = np.array([(x[0], 0), (x[1], 0), (x[2], rise), (x[3], rise)])
    side = np.concatenate([top, top[::-1] + np.array([0, 0.07])])
    p.add(flat(side, -wide, wide), steel, at=(0, 0, z), rot=(PI / 2, 0, turn), bevel=0.02)
    a, b = 0.45 + rise, reach + 0.06
    sleeve = flat(corners(a, b, -0.07, 0.14), -wide - 0.07, wide + 0.07)
    p.add(sleeve, grip, at=(0, 0, z + rise), rot=(PI / 2, 0, turn), bevel=0.06)
    p.add(hexagon(0.15, z + 0.05, z + 0.2), steel, bevel=0.015)
    p.lay(p.one_of((0, 0), (0, 0), (0.5, 0), (PI / 2, 0), (-PI / 2, 0)), p.u(0, 1) < 0.7)


def gate_valve(p: Part) -> None:
    m = pick(p.rng, brass, brass, cast_iron, zinc)
    paint = pick(p.rng, plastic(RED, RED, BLUE, GREEN, BLACK, YELLOW), cast_iron)
    r = p.u(0.38, 0.46)
    body = [(r, -0.8), (r * 1.1, -0.3), (r * 1.2, 0), (r * 1.1, 0.3), (r, 0.8)]
    p.add(lathe(body), m, rot=(0, PI / 2, 0))
    for turn in (0.0, PI):
        pipe_end(p, m, 0.5, p.u(0.5, 0.58), p.u(0.3, 0.42), turn)
    tall = p.u(0.95, 1.35)
    bonnet = [(0.46, 0), (0.46, 0.5), (0.5, 0.55), (0.5, 0.68), (0.3, 0.75), (0.22, tall)]
    p.add(lathe(bonnet), m)
    p.add(hexagon(0.42, 0.68, 0.8), m, bevel=0.02)
    p.add(hexagon(0.27, tall - 0.05, tall + 0.15), m, bevel=0.02)
    top = tall + p.u(0.2, 0.6)
    p.add(thread(0.1, 0.06, tall, top + 0.15, 0.02), zinc(p.rng))
    wheel, spokes, dish = p.u(0.72, 0.95), int(p.rng.integers(3, 6)), p.u(-0.05, 0.15)
    p.add(torus(wheel, p.u(0.07, 0.1)), paint, at=(0, 0, top + dish))
    for x, y in circle(wheel, spokes, turn=p.u(0, 1)):
        p.add(tube(np.array([(0, 0, top), (x / 2, y / 2, top), (x, y, top + dish)]), 0.075), paint)
    p.add(cylinder(0.2, top - 0.1, top + 0.09), paint, bevel=0.03)
    p.add(hexagon(0.13, top + 0.07, top + 0.19), zinc(p.rng), bevel=0.01)
    p.lay(p.one_of((0, 0), (0, 0), (0.9, 0), (PI / 2, 0), (PI / 2, 0.2)), p.u(0, 1) < 0.6)


FITTINGS = (brass, copper, zinc, cast_iron, plastic(GREY, WHITE, BLACK), plastic(GREY, BLUE))


def pipe_elbow(p: Part) -> None:
    m = pick(p.rng, *FITTINGS)
    r, bend, leg = p.u(0.36, 0.48), p.u(0.5, 0.95), p.u(0.3, 0.6)
    angle = float(p.rng.choice([PI / 2, PI / 2, PI / 2, PI / 4]))
    curve = arc((0, 0, 0), bend, 0, angle, 18)
    into = np.array([-math.sin(angle), 0, math.cos(angle)])
    path = np.concatenate([[(bend, 0, -leg)], curve, [curve[-1] + into * leg]])
    p.add(tube(path, r, 36, inner=r * 0.78), m)
    collar, long = r * p.u(1.16, 1.3), p.u(0.18, 0.36)
    steps = np.linspace(0, 1, 3)[:, None]
    for end, way in ((path[0], np.array([0, 0, -1.0])), (path[-1], into)):
        edge = end + way * 0.02 - steps * way * long
        p.add(tube(edge, collar, 40, inner=r * 0.8), m, bevel=0.025)
    p.lay(p.one_of((PI / 2, 0), (PI / 2, 0), (0, 0), (0, PI / 4)))


def tee_fitting(p: Part) -> None:
    m = pick(p.rng, *FITTINGS)
    r, half, up = p.u(0.36, 0.46), p.u(0.85, 1.1), p.u(0.75, 1.05)
    side, holes = (0, PI / 2, 0), r * 0.78
    none = (0, 0, 0)
    cuts = [(cylinder(holes, -2, 2), none, side), (cylinder(holes, 0, 2), none, none)]
    p.add(cylinder(r, -half, half), m, rot=side, cuts=cuts)
    p.add(cylinder(r, 0, up), m, cuts=cuts)
    collar, long = r * p.u(1.16, 1.3), p.u(0.18, 0.34)
    for rot, z in ((side, half), ((0, -PI / 2, 0), half), ((0, 0, 0), up)):
        p.add(ring(r * 0.8, collar, z - long, z + 0.02), m, rot=rot, bevel=0.025)
    p.lay(p.one_of((PI / 2, 0), (PI / 2, 0), (0, 0), (PI, 0), (0.7, 0)))


def cable_gland(p: Part) -> None:
    m = pick(p.rng, plastic(BLACK, GREY, WHITE), plastic(BLACK, GREY), brass, zinc)
    r, long = p.u(0.46, 0.54), p.u(0.5, 0.8)
    p.add(thread(r, 0.11, -long, 0.02, 0.05), m)
    p.add(cylinder(r * 0.7, -long - 0.004, -long + 0.01), DARK(p.rng))
    p.add(hexagon(r * 1.42, 0, 0.3), m, bevel=0.03)
    p.add(cylinder(r, 0.3, 0.45), m)
    tall = p.u(0.55, 0.85)
    ribs = 6 if p.u(0, 1) < 0.5 else 18
    nut = circle(r * 1.3, ribs if ribs == 6 else 72)
    if ribs == 18:
        nut *= np.where(np.arange(72) % 4 < 2, 1.0, 0.93)[:, None]
    taper = ((0, 1.0), (0.6, 1.0), (0.85, 0.82), (1, 0.62))
    levels = [(0.42 + tall * a, b, 0.0) for a, b in taper]
    p.add(prism(nut, levels, [circle(r * 0.6, 30)]), m, bevel=0.02)
    end = 0.42 + tall
    p.add(ring(r * 0.42, r * 0.66, end - 0.3, end - 0.02), rubber(p.rng), bevel=0.02)
    if p.u(0, 1) < 0.4:
        x, y = p.u(-0.5, 0.5), p.u(-0.5, 0.5)
        t = np.linspace(0, 1, 14)[:, None]
        path = np.array([0, 0, end - 0.2]) + t * (0, 0, p.u(0.6, 1.2)) + t**2 * (x, y, 0)
        p.add(tube(path, r * 0.45, 20), plastic(BLACK, GREY, ORANGE, WHITE)(p.rng))
    else:
        p.add(cylinder(r * 0.5, end - 0.5, end - 0.3), DARK(p.rng))
    p.lay(p.one_of((PI / 2, 0), (PI / 2, 0), (PI / 2, 0), (0, 0)))


def terminal_block(p: Part) -> None:
    m = plastic(GREEN, GREEN, BLACK, WHITE, GREY, BEIGE, ORANGE, BLUE)(p.rng)
    n, pitch, screw = int(p.rng.integers(2, 9)), 0.5, pick(p.rng, zinc, zinc, brass)
    dark, tall = DARK(p.rng), p.u(0.7, 1.0)
    low = tall * p.u(0.45, 0.65)
    x = [-0.55, 0.55, 0.55, 0.3, -0.3, -0.55]
    outline = polygon(x, [0, 0, low, tall, tall, low])
    half = n * pitch / 2
    p.add(flat(outline, -half, half), m, rot=(PI / 2, 0, 0), bevel=0.03)
    x = [-0.57, 0.57, 0.57, 0.31, -0.31, -0.57]
    wall = polygon(x, [0, 0, low, tall + 0.03, tall + 0.03, low])
    for i in range(n + 1):
        y = (i - n / 2) * pitch
        p.add(flat(wall, y - 0.035, y + 0.035), m, rot=(PI / 2, 0, 0), bevel=0.012)
    pins = p.u(0, 1) < 0.5
    for i in range(n):
        y = (i - (n - 1) / 2) * pitch
        p.add(cylinder(0.17, tall - 0.05, tall + 0.004, 24), dark, at=(0, y, 0))
        p.add(cylinder(0.14, tall - 0.04, tall + 0.015, 24), screw, at=(0, y, 0), bevel=0.01)
        slot = p.u(0, PI)
        p.add(box(0.25, 0.045, 0.02), dark, at=(0, y, tall + 0.012), rot=(0, 0, slot))
        for x in (0.552, -0.552):
            p.add(box(0.02, pitch * 0.6, low * 0.55), dark, at=(x, y, low * 0.48))
            p.add(box(0.02, pitch * 0.42, low * 0.14), screw, at=(x * 1.005, y, low * 0.3))
        if pins:
            p.add(box(0.06, 0.06, 0.4), screw, at=(0, y, -0.18))
    p.lay(p.one_of((0, 0), (0, 0), (0, 0), (0, 0.8), (0, PI / 2)))


def coil_spring(p: Part) -> None:
    m = pick(p.rng, zinc, zinc, black_oxide, chrome, rusty, plastic(BLUE, RED, YELLOW))
    turns, r, wire = p.u(5, 10), p.u(0.45, 0.7), p.u(0.06, 0.11)
    count = int(turns * 30)
    t = np.linspace(0, turns, count)
    if p.u(0, 1) < 0.25:  # extension spring: closed coils, a hook at each end
        turns = math.floor(turns) + 4
        coil = helix(r * 0.8, 2.1 * wire, turns)
        z0, z1 = coil[0, 2], coil[-1, 2]
        hook = arc((0, 0, 0), r * 0.8, 0, 1.6 * PI, 16)[::-1]
        low = hook * np.array([1, -1, -1]) + np.array([0, 0, z0 - r * 0.8])
        high = hook[::-1] + np.array([0, 0, z1 + r * 0.8])
        coil = np.concatenate([low, coil, high])
        p.add(tube(coil, wire, 10), m)
        p.lay((PI / 2, 0))
        return
    pitch = np.interp(t, [0, 1, 1.6, turns - 1.6, turns - 1, turns], [0, 0, 1, 1, 0, 0])
    coil = helix(1, 2.05 * wire + pitch * p.u(0.12, 0.3), turns)
    taper = p.u(0.55, 0.8) if p.u(0, 1) < 0.25 else 1.0
    coil[:, :2] *= r * np.linspace(1, taper, len(coil))[:, None]
    p.add(tube(coil, wire, 10), m)
    p.lay(p.one_of((PI / 2, 0), (PI / 2, 0), (0, 0)))


def hose_clamp(p: Part) -> None:
    m = pick(p.rng, zinc, chrome, yellow_zinc)
    w, dark = p.u(0.16, 0.28), DARK(p.rng)
    band = ring(1.0, 1.03, -w, w, 80)
    p.add(band, m)
    p.add(ring(1.03, 1.05, -w, w, 80) if p.u(0, 1) < 0.5 else ring(0.97, 1.0, -w, w, 80), m)
    first = p.u(0.3, 0.6)
    for a in np.arange(first, first + p.u(1.5, 3.5), 0.09):
        x, y = 1.045 * math.cos(a), 1.045 * math.sin(a)
        p.add(box(0.03, 0.035, w * 1.1), dark, at=(x, y, 0), rot=(0.35, 0, float(a)))
    p.add(box(0.3, 0.62, w * 2.3), m, at=(1.17, 0, 0), bevel=0.09)
    p.add(box(0.12, 0.7, w * 2.1), m, at=(1.06, 0, 0), bevel=0.02)
    cut = [(box(0.5, 0.06, 0.2), (1.2, 0.82, 0), (0, 0, PI / 2))]
    front: dict[str, Vec] = {"at": (1.2, 0, 0), "rot": (-PI / 2, 0, 0)}
    p.add(thread(0.13, 0.08, 0.2, 0.55, 0.04), m, **front)
    p.add(hexagon(0.22, 0.5, 0.78), m, bevel=0.02, cuts=cut, **front)
    p.add(cylinder(0.24, 0.46, 0.52), m, **front)
    p.lay(p.one_of((0, 0), (0, 0), (PI / 2, 0), (PI / 2, 0.6), (0.5, 0)))


def caster_wheel(p: Part) -> None:
    steel = pick(p.rng, zinc, zinc, yellow_zinc, black_oxide)
    tyre = pick(p.rng, rubber, plastic(RED, GREY, WHITE, BLUE, BLACK))
    hub = pick(p.rng, plastic(GREY, WHITE, BLACK), zinc)
    w, r, side = p.u(0.2, 0.32), 0.8, (PI / 2, 0, 0)
    tread = [(0.52, -w), (0.7, -w), (r, -w * 0.6), (r * 1.02, 0), (r, w * 0.6), (0.7, w), (0.52, w)]
    p.add(lathe(tread, closed=True), tyre, rot=side)
    hollow = [(0.3, -0.5), (0.53, -0.9), (0.53, 0.9), (0.3, 0.5)]
    rim = [(0.16, -w * 1.1), *((a, b * w) for a, b in hollow), (0.16, w * 1.1)]
    p.add(lathe([(0.01, -w * 1.1), *rim, (0.01, w * 1.1)]), hub, rot=side, bevel=0.02)
    off, top = p.u(0.15, 0.4), p.u(0.98, 1.15)
    x = [-0.18, 0.18, 0.25 + off, 0.25 + off, off - 0.45, off - 0.45]
    leg = polygon(x, [-0.18, -0.18, top - 0.1, top, top, top - 0.15])
    for y in (-w - 0.12, w + 0.06):
        shift = 0.06 if y < 0 else 0.0
        p.add(flat(leg, y, y + 0.06), steel, at=(0, shift, 0), rot=side, bevel=0.02)
    p.add(box(0.7, 2 * w + 0.3, 0.06), steel, at=(off - 0.1, 0, top), bevel=0.02)
    for y in (1, -1):
        p.add(hexagon(0.13, w + 0.1, w + 0.24), steel, rot=(PI / 2 * y, 0, 0), bevel=0.015)
    race = [(0.01, 0), (0.42, 0), (0.46, 0.06), (0.42, 0.14), (0.38, 0.16), (0.01, 0.16)]
    p.add(lathe(race), steel, at=(off - 0.1, 0, top + 0.02))
    x, y = p.u(0.55, 0.68), p.u(0.45, 0.6)
    plate = corners(-x, x, -y, y)
    holes = [circle(0.09, 20, *(c * 0.8)) for c in plate]
    if p.u(0, 1) < 0.75:
        p.add(flat(plate, 0, 0.07, holes), steel, at=(off - 0.1, 0, top + 0.18), bevel=0.015)
    else:
        p.add(thread(0.16, 0.08, 0.1, 0.85, 0.03), steel, at=(off - 0.1, 0, top))
    pose = int(p.rng.integers(4))
    p.lay([(0, 0), (0, 0), (PI, 0), (PI / 2, 0)][pose], pose > 1)


def d_sub_plug(p: Part) -> None:
    hood = pick(p.rng, plastic(GREY, BLACK, BEIGE, BLACK), zinc)
    shell, dark = pick(p.rng, chrome, zinc, yellow_zinc), plastic(BLACK, BLACK, BLUE, WHITE)(p.rng)
    wide, cable = float(p.rng.choice([0.75, 0.75, 1.05])), plastic(GREY, BLACK, BEIGE)(p.rng)
    t, out = p.u(0.24, 0.3), (-PI / 2, 0, 0)
    back = p.u(0.3, 0.5)
    end = wide + 0.35
    x = [-end, end, end, back, -back, -end]
    body = polygon(x, [0, 0, -0.55, -1.15, -1.15, -0.55])
    p.add(flat(body, -t, t), hood, bevel=0.07)
    p.add(box(2 * wide + 0.85, 0.06, 2 * t + 0.06), shell, at=(0, 0.03, 0), bevel=0.02)
    face = np.array([(-wide, 0.19), (wide, 0.19), (wide - 0.1, -0.19), (-wide + 0.1, -0.19)])
    p.add(flat(face, 0, 0.3, [face * 0.93]), shell, rot=out, bevel=0.02)
    male = p.u(0, 1) < 0.6
    p.add(flat(face * 0.93, 0, 0.1 if male else 0.32), dark, rot=out)
    n, pin = round(wide * 6.7), cylinder(0.035, 0, 0.27 if male else 0.325, 10)
    for row, count in ((0.075, n), (-0.075, n - 1)):
        gold = brass(p.rng)
        for i in range(count):
            x = (i - (count - 1) / 2) * 1.68 * wide / n
            p.add(pin, gold if male else DARK(p.rng), at=(x, 0, -row), rot=out)
    for x in (-wide - 0.2, wide + 0.2):
        p.add(thread(0.06, 0.05, -0.3, 0.35, 0.015, 12), shell, at=(x, 0, 0), rot=out)
        screw = pick(p.rng, zinc, plastic(BLACK))
        p.add(cylinder(0.11, -1.15, -0.5, 16), screw, at=(x, 0, 0), rot=out, bevel=0.02)
    for i in range(5):
        p.add(torus(0.13, 0.05, 20, 8), hood, at=(0, -1.2 - 0.09 * i, 0), rot=(PI / 2, 0, 0))
    s = np.linspace(0, 1, 16)[:, None]
    path = np.array([0, -1.1, 0]) + s * (0, -p.u(0.8, 1.6), 0) + s**2 * (p.u(-0.8, 0.8), 0, 0)
    p.add(tube(path, 0.15, 16), cable)
    p.lay(p.one_of((0, 0), (0, 0), (PI, 0), (PI / 2.2, 0)), p.u(0, 1) < 0.8)


def padlock(p: Part) -> None:
    m = pick(p.rng, brass, brass, zinc, plastic(BLACK, BLUE, RED), black_oxide)
    x, z, t = p.u(0.6, 0.75), p.u(0.95, 1.2), p.u(0.2, 0.3)
    if p.u(0, 1) < 0.3:  # laminated
        thick = z / 8
        for i in range(8):
            at = (0, 0, -z + (i + 0.5) * thick)
            p.add(box(2 * x, 2 * t, thick * 0.9), m, at=at, bevel=0.05)
        p.add(box(1.9 * x, 1.9 * t, z * 0.96), black_oxide(p.rng), at=(0, 0, -z / 2))
    else:
        p.add(box(2 * x, 2 * t, z), m, at=(0, 0, -z / 2), bevel=p.u(0.05, 0.16))
        if p.u(0, 1) < 0.5:
            plate = plastic(BLACK, BLUE, YELLOW, RED)(p.rng)
            at = (0, 0, -z * p.u(0.45, 0.6))
            p.add(box(1.3 * x, 2 * t + 0.03, z * 0.4), plate, at=at, bevel=0.01)
    r, up = x * p.u(0.58, 0.68), p.u(0.15, 0.7)
    bow = arc((0, 0, up), r, 0, PI, 24)
    path = np.concatenate([[(r, 0, -0.1)], bow, [(-r, 0, -0.1)]])
    p.add(tube(path, p.u(0.1, 0.15), 18), pick(p.rng, chrome, zinc, zinc))
    p.add(cylinder(0.2, -z - 0.02, -z + 0.02), zinc(p.rng))
    p.add(box(0.05, 0.2, 0.06), DARK(p.rng), at=(0, 0, -z))
    p.lay(p.one_of((PI / 2, 0), (PI / 2, 0), (0.45 * PI, 0.3), (0, 0)), p.u(0, 1) < 0.9)


def adjustable_wrench(p: Part) -> None:
    m = pick(p.rng, chrome, zinc, black_oxide)
    t, long = 0.13, p.u(3.0, 4.0)
    grip = plastic(RED, BLUE, BLACK, ORANGE)(p.rng) if p.u(0, 1) < 0.5 else m
    end = -long - 0.25
    x = [-0.24, 0.24, 0.3, 0.15, -0.15, -0.3]
    handle = polygon(x, [-0.3, -0.3, -long, end, end, -long])
    hole = circle(0.1, 20, 0, -long)
    p.add(flat(handle, -t * 0.75, t * 0.75, [hole]), m, bevel=0.06)
    if grip is not m:
        sleeve = polygon(handle[:, 0] * 1.2, handle[:, 1] * 0.62 - long * 0.34)
        p.add(flat(sleeve, -t * 1.15, t * 1.15), grip, bevel=0.1)
    x = [-0.24, 0.24, 0.62, 0.62, -0.28, -0.34, -0.66, -0.72, -0.5]
    head = polygon(x, [-0.5, -0.5, 0.05, 0.42, 0.46, 1.05, 1.0, 0.3, -0.1])
    p.add(flat(head, -t, t), m, rot=(0, 0, 0.26), bevel=0.05)
    gap = p.u(0.05, 0.5)
    x = np.array([0, 0.5, 0.42, 0.1, 0]) + gap - 0.28
    jaw = polygon(x, [0.44, 0.44, 0.75, 1.05, 1.05])
    p.add(flat(jaw, -t * 0.85, t * 0.85), m, rot=(0, 0, 0.26), bevel=0.04)
    p.add(thread(0.15, 0.09, -0.2, 0.2, 0.04), m, at=(0.2, 0.18, 0.03), rot=(0, PI / 2, 0.26))
    p.lay(p.one_of((0, 0), (0, 0), (PI, 0)))


def light_bulb(p: Part) -> None:
    z, r = p.u(1.1, 1.4), p.u(0.6, 0.75)
    a = np.linspace(-0.28 * PI, PI / 2, 20)
    dome = [(r * math.cos(t), z + r * math.sin(t)) for t in a]
    neck = [(0.3, 0.05), (0.31, 0.3)]
    n = Nodes("glass")
    kind = p.u(0, 1)
    if kind < 0.7:
        glass = matter(p.rng, (0.82, 0.81, 0.78), p.u(0.1, 0.3), wear=0.1, dirt=(0.5, 0.46, 0.4))
    else:  # thin clear glass: no refraction
        facing = n.ramp(n("LayerWeight", Blend=0.35).outputs["Facing"], 0.2, 1.0, (0.06, 0.85))
        through = n("BsdfTransparent", Color=(0.96, 0.93, 0.86)).outputs[0]
        shine = n("BsdfGlossy", Color=(0.9, 0.9, 0.9), Roughness=0.04).outputs[0]
        n("OutputMaterial", Surface=n("MixShader", I0=facing, I1=through, I2=shine).outputs[0])
        glass = n.material
        p.add(cylinder(0.1, 0, z * 0.6), glass)
        s = np.linspace(-1, 1, 60)
        coil = np.stack([0.22 * s, 0.05 * np.cos(60 * s), z + 0.05 * np.sin(60 * s)], -1)
        p.add(tube(coil, 0.014, 6), DARK(p.rng))
        for x in (-0.22, 0.22):
            p.add(tube(np.array([(x / 4, 0, 0.5), (x, 0, z)]), 0.015, 6), zinc(p.rng))
    if 0.4 < kind < 0.7:  # LED lamp: a plastic body below the dome
        body = [(0.31, 0), (0.34, 0.2), (r * 0.8, z - 0.35), (r * 0.82, z - 0.2)]
        p.add(lathe(body), plastic(WHITE, WHITE, GREY)(p.rng), bevel=0.02)
    p.add(lathe([*neck, *dome]), glass)
    base = pick(p.rng, zinc, brass)
    p.add(thread(0.32, 0.13, -0.5, 0.06, 0.05), base)
    p.add(lathe([(0.29, -0.5), (0.14, -0.66), (0.14, -0.7), (0, -0.7)]), DARK(p.rng))
    p.add(cylinder(0.11, -0.73, -0.68), base)
    p.lay(p.one_of((PI / 2, 0), (PI / 2, 0), (PI / 2.5, 0)))


Builder = Callable[[Part], None]
TAUGHT: dict[str, Builder] = {
    "ball-bearing": ball_bearing,
    "ball-valve": ball_valve,
    "bevel-gear": bevel_gear,
    "cable-gland": cable_gland,
    "caster-wheel": caster_wheel,
    "coil-spring": coil_spring,
    "d-sub-plug": d_sub_plug,
    "gate-valve": gate_valve,
    "hex-bolt": hex_bolt,
    "hose-clamp": hose_clamp,
    "padlock": padlock,
    "pipe-elbow": pipe_elbow,
    "spur-gear": spur_gear,
    "tee-fitting": tee_fitting,
    "terminal-block": terminal_block,
    "wing-nut": wing_nut,
}
NEVER_TAUGHT: dict[str, Builder] = {
    "adjustable-wrench": adjustable_wrench,
    "light-bulb": light_bulb,
}


# --- surroundings -----------------------------------------------------------------------------


def wood(n: Nodes, rng: Rng) -> Any:
    warp = n.noise(0.8, 4, (0.25, 2.5, 1))
    grain = n.noise(3, 4, (0.25, 7, 1))
    light = jitter(rng, (0.36, 0.21, 0.10))
    dark = shade(light, 0.4)
    both = n.plus(n.times(warp, 0.6), n.times(grain, 0.4))
    return n.finish(n.mix(n.ramp(both, 0.35, 0.65), dark, light), 0.5, 0.0, grain, 0.25)


def concrete(n: Nodes, rng: Rng) -> Any:
    a, b, c = n.noise(0.7, 4), n.noise(12, 4), n.noise(60, 2)
    grey = jitter(rng, (0.30, 0.29, 0.27), 0.25)
    colour = n.mix(n.ramp(a, 0.35, 0.65), shade(grey, 0.6), grey)
    colour = n.mix(n.ramp(b, 0.6, 0.68, (0, 0.5)), colour, shade(grey, 0.4))
    return n.finish(colour, 0.85, 0.0, n.plus(b, n.times(c, 0.5)), 0.35)


def cardboard(n: Nodes, rng: Rng) -> Any:
    tan = jitter(rng, (0.37, 0.23, 0.12))
    rib = n("TexWave", Vector=n.where, Scale=3.5, Distortion=0.4).outputs["Fac"]
    fleck = n.noise(35, 4, (0.3, 1, 1))
    both = n.plus(n.times(rib, 0.25), n.times(fleck, 0.75))
    return n.finish(n.mix(both, shade(tan, 0.72), tan), 0.8, 0.0, rib, 0.08)


def sheet(n: Nodes, rng: Rng) -> Any:
    brush = n.noise(9, 4, (0.04, 8, 1))
    smear = n.ramp(n.noise(0.9, 4), 0.4, 0.7)
    grey = jitter(rng, (0.42, 0.43, 0.44))
    colour = n.mix(smear, grey, shade(grey, 0.6))
    return n.finish(colour, n.ramp(brush, 0.3, 0.7, (0.38, 0.58)), 0.9, brush, 0.08)


def paper(n: Nodes, rng: Rng) -> Any:
    white = jitter(rng, (0.66, 0.65, 0.61), 0.1)
    colour = n.mix(n.ramp(n.noise(0.6, 3), 0.4, 0.7, (0, 0.25)), white, (0.35, 0.33, 0.30))
    return n.finish(colour, 0.8, 0.0, n.noise(1.2, 4), 0.12)


def planks(n: Nodes, rng: Rng) -> Any:
    blue, ivory, green, red = (
        (0.1, 0.22, 0.3),
        (0.45, 0.44, 0.4),
        (0.12, 0.23, 0.15),
        (0.32, 0.08, 0.06),
    )
    paint = jitter(rng, one_of(rng, blue, ivory, green, red))
    wear = n.ramp(n.noise(1.6, 4, (0.3, 1.6, 1)), 0.58, 0.64)
    grain = n.noise(4, 4, (0.2, 7, 1))
    gap = n.grid(0.45, 8.0, 0.8, 0.012)
    coat = n.mix(n.ramp(grain, 0.3, 0.8, (0, 0.35)), paint, shade(paint, 0.5))
    colour = n.mix(gap, n.mix(wear, coat, (0.28, 0.18, 0.10)), (0.02, 0.015, 0.01))
    height = n.minus(grain, n.plus(wear, n.times(gap, 2.0)))
    return n.finish(colour, 0.45, 0.0, height, 0.3)


def cutting_mat(n: Nodes, rng: Rng) -> Any:
    base = jitter(rng, one_of(rng, (0.03, 0.16, 0.12), (0.03, 0.09, 0.20), (0.09, 0.09, 0.10)))
    line = n.times(n.grid(1.0, 0.5, 0.5, 0.012, offset=0.0), 0.7)
    colour = n.mix(n.ramp(n.noise(1.5, 4), 0.4, 0.7, (0, 0.4)), base, shade(base, 0.6))
    return n.finish(n.mix(line, colour, (0.45, 0.5, 0.35)), 0.6, 0.0, n.noise(40, 3), 0.1)


def tiles(n: Nodes, rng: Rng) -> Any:
    glaze = jitter(rng, one_of(rng, (0.42, 0.18, 0.10), (0.55, 0.54, 0.50), (0.20, 0.22, 0.24)))
    joint = n.grid(0.6, 0.9, 0.9, 0.02, offset=0.0, Mortar_Smooth=0.3)
    colour = n.mix(n.ramp(n.noise(2.5, 4), 0.35, 0.7), glaze, shade(glaze, 0.65))
    height = n.minus(n.times(n.noise(9, 4), 0.15), joint)
    gloss = n.plus(n.times(joint, 0.5), 0.35)
    return n.finish(n.mix(joint, colour, (0.20, 0.19, 0.17)), gloss, 0.0, height, 0.35)


def asphalt(n: Nodes, rng: Rng) -> Any:
    cell = n("TexVoronoi", Vector=n.where, Scale=float(rng.uniform(13, 22)))
    bright = n("SeparateColor", Color=cell.outputs["Color"]).outputs[0]
    grey = n.mix(bright, (0.05, 0.05, 0.05), jitter(rng, (0.26, 0.24, 0.22)))
    return n.finish(grey, 0.85, 0.0, n.minus(1.0, cell.outputs["Distance"]), 0.6)


def cloth(n: Nodes, rng: Rng) -> Any:
    blue, grey, red, black = (
        (0.05, 0.09, 0.22),
        (0.3, 0.28, 0.25),
        (0.36, 0.1, 0.06),
        (0.1, 0.11, 0.11),
    )
    dye = jitter(rng, one_of(rng, blue, grey, red, black))
    wave = {"Vector": n.where, "Scale": 6.0, "Distortion": 0.6}
    x, y = (n("TexWave", bands_direction=d, **wave).outputs["Fac"] for d in "XY")
    weave = n.times(n.plus(x, y), 0.5)
    height = n.plus(n.times(n.noise(0.5, 2), 4.0), n.times(weave, 0.3))
    return n.finish(n.mix(weave, shade(dye, 0.55), dye), 0.95, 0.0, height, 0.4)


def rusty_plate(n: Nodes, rng: Rng) -> Any:
    rust = n.ramp(n.noise(1.4, 7), 0.42, 0.62)
    brown = n.mix(n.noise(8, 4), (0.07, 0.028, 0.016), (0.22, 0.085, 0.035))
    colour = n.mix(rust, jitter(rng, (0.24, 0.25, 0.27)), brown)
    gloss, shine = n.ramp(rust, 0, 1, (0.4, 0.9)), n.minus(0.9, n.times(rust, 0.9))
    return n.finish(colour, gloss, shine, n.noise(16, 4), 0.3)


SURFACES = {
    "teach": (wood, concrete, cardboard, sheet, paper),
    "test": (planks, cutting_mat, tiles, asphalt, cloth, rusty_plate),
}
LIGHT: dict[str, Colour] = {
    "day": (1.0, 0.97, 0.93),
    "sky": (0.78, 0.89, 1.0),
    "tungsten": (1.0, 0.72, 0.42),
    "tube": (0.90, 1.0, 0.88),
    "led": (0.92, 0.96, 1.0),
}


def ground(rng: Rng, split: str) -> None:
    """The surface under the part and a wall behind it."""
    kinds = SURFACES[split]
    for upright in (False, True):
        n = Nodes("surface")
        spin = n("Mapping", Vector=n.where, Location=tuple(rng.uniform(-20, 20, 3)))
        spin.inputs["Rotation"].default_value = (0, 0, float(rng.uniform(0, PI)))
        n.where = spin.outputs[0]
        bpy.ops.mesh.primitive_plane_add(size=80)
        plane = bpy.context.object
        plane.data.materials.append(kinds[rng.integers(len(kinds))](n, rng))
        if upright:
            plane.rotation_euler = (PI / 2, 0, float(rng.normal(0, 0.3)))
            plane.location = (0, float(rng.uniform(4, 12)), 0)


def clutter(rng: Rng, split: str) -> None:
    """Up to five everyday things around the part, none of a taught class."""
    for _ in range(int(rng.integers(0, 4 if split == "teach" else 6))):
        q = Part(rng)
        kind = rng.integers(6)
        a, far = rng.uniform(0, 2 * PI), rng.uniform(1.6, 2.6)
        lift = 0.0
        if kind == 0:  # pencil
            paint = plastic(YELLOW, RED, GREEN, BLACK)(rng)
            q.add(flat(circle(0.09, 6), -1.2, 1.1), paint, rot=(0, PI / 2, 0))
            q.add(lathe([(0.085, 1.1), (0, 1.4)], 6), plastic(BEIGE)(rng), rot=(0, PI / 2, 0))
            lift = 0.08
        elif kind == 1:  # a length of cable
            t = np.linspace(-1, 1, 40)
            w = rng.uniform(1, 3, 3)
            sway = 0.4 * np.sin(w[0] * t + w[1]) + 0.2 * np.sin(5 * t)
            path = np.stack([1.5 * t, sway, 0 * t], -1)
            q.add(tube(path, 0.07, 10), plastic(BLACK, RED, BLUE, GREY, YELLOW)(rng))
            lift = 0.07
        elif kind == 2:  # block
            x, y, z = rng.uniform(0.3, 0.9, 3)
            q.add(box(x, y, z), plastic(BEIGE, GREY, BLUE, RED)(rng), bevel=0.03)
            lift, far = float(z / 2), far + 0.5
        elif kind == 3:  # note
            q.add(box(1.2, 0.8, 0.005), plastic(WHITE, WHITE, (0.7, 0.62, 0.15))(rng))
            lift = 0.006
            far -= 0.3
        elif kind == 4:  # pen or dowel
            paint = plastic(BLACK, BLUE, WHITE, BEIGE)(rng)
            q.add(cylinder(0.12, -1, 1), paint, rot=(0, PI / 2, 0), bevel=0.04)
            lift = 0.12
        else:  # chips
            for _ in range(int(rng.integers(4, 12))):
                x, y = rng.normal(0, 0.5, 2)
                spot = (float(x), float(y), 0.03)
                chip = box(*rng.uniform(0.03, 0.14, 3))
                material, turn = pick(rng, zinc, plastic(BEIGE)), rng.uniform(0, 3, 3)
                q.add(chip, material, spot, turn.tolist())
        q.root.location = (float(far * math.cos(a)), float(far * math.sin(a)), lift)
        along = a + PI / 2 + rng.normal(0, 0.2)  # lies past the part, not through it
        q.root.rotation_euler = (0, 0, float(along))


def lights(rng: Rng, split: str) -> None:
    """A key light, perhaps a second one, and a room whose bright and dark sides metal reflects."""
    scene = bpy.context.scene
    world = bpy.data.worlds.new("world")
    scene.world = world
    world.use_nodes = True
    world.cycles.sampling_method = "NONE"  # a map of it costs more than the noise it saves
    tree = world.node_tree
    back = tree.nodes["Background"]
    noise = tree.nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value = float(rng.uniform(1, 2.5))
    noise.inputs["Detail"].default_value = 1.0
    where = tree.nodes.new("ShaderNodeTexCoord")
    shift = tree.nodes.new("ShaderNodeMapping")
    shift.inputs["Location"].default_value = tuple(rng.uniform(-20, 20, 3))
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    tint = np.array(LIGHT[str(rng.choice(["day", "sky", "led", "tungsten"]))])
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.42, 0.66
    ramp.color_ramp.elements[0].color = (*(0.12 * tint), 1)
    ramp.color_ramp.elements[1].color = (*tint, 1)
    tree.links.new(where.outputs["Generated"], shift.inputs["Vector"])
    tree.links.new(shift.outputs[0], noise.inputs["Vector"])
    tree.links.new(noise.outputs["Fac"], ramp.inputs["Fac"])
    tree.links.new(ramp.outputs["Color"], back.inputs["Color"])
    back.inputs["Strength"].default_value = float(rng.uniform(0.35, 1.0))

    colours = ("day", "sky", "led") if split == "teach" else ("day", "tungsten", "tube", "led")
    for i in range(int(rng.integers(1, 4))):
        lamp = bpy.data.lights.new("lamp", "AREA")
        hard = split == "test" and rng.random() < 0.35
        lamp.size = float(rng.uniform(0.15, 0.6) if hard else rng.uniform(1.5, 6))
        lamp.color = LIGHT[str(rng.choice(colours))]
        lamp.energy = float(rng.uniform(350, 900)) / (1 + 2 * i)
        a, e, d = rng.uniform(0, 2 * PI), rng.uniform(0.45, 1.4), rng.uniform(5, 9)
        spot = Vector(
            (d * math.cos(e) * math.cos(a), d * math.cos(e) * math.sin(a), d * math.sin(e))
        )
        holder = bpy.data.objects.new("lamp", lamp)
        holder.location = spot
        holder.rotation_euler = (-spot).to_track_quat("-Z", "Y").to_euler()
        scene.collection.objects.link(holder)
        if i == 0 and rng.random() < 0.3:  # the shadow of something outside the picture
            bpy.ops.mesh.primitive_plane_add(size=float(rng.uniform(0.8, 2.5)))
            shade = bpy.context.object
            shade.location = spot * 0.55 + Vector(rng.uniform(-1.3, 1.3, 3))
            shade.rotation_euler = tuple(rng.uniform(0, 3, 3))
            shade.visible_camera = shade.visible_glossy = False


def camera(rng: Rng, tall: float) -> None:
    """Look at the part from above the horizon; on some pictures with shallow focus or shake."""
    scene = bpy.context.scene
    data = bpy.data.cameras.new("camera")
    data.lens, data.sensor_width = float(rng.uniform(35, 85)), 36.0
    fill = rng.uniform(0.66, 1.02)
    away = 1 / (fill * 18 / data.lens)
    e, a = math.radians(rng.uniform(24, 76)), rng.normal(-PI / 2, 0.5)
    aim = Vector((*rng.normal(0, 0.1, 2), tall / 2 + rng.normal(0, 0.05)))
    offset = Vector((math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e))) * away
    eye = bpy.data.objects.new("camera", data)
    turn = (-offset).to_track_quat("-Z", "Y").to_matrix().to_4x4()
    place = Matrix.Translation(aim + offset) @ turn @ Matrix.Rotation(rng.normal(0, 0.12), 4, "Z")
    eye.matrix_world = place
    scene.collection.objects.link(eye)
    scene.camera = eye
    if rng.random() < 0.6:
        data.dof.use_dof = True
        data.dof.focus_distance = away - rng.uniform(0, 0.6)
        radius = rng.uniform(0.005, 0.025) * away
        data.dof.aperture_fstop = data.lens / 1000 / (2 * radius)
    if rng.random() < 0.2:
        scene.render.use_motion_blur = True
        scene.render.motion_blur_shutter = 1.0
        x, y = rng.normal(0, 0.02, 2)
        for frame, sign in ((0, -1), (2, 1)):
            eye.matrix_world = place @ Matrix.Translation((sign * x, sign * y, 0))
            eye.keyframe_insert("location", frame=frame)
        scene.frame_set(1)


# --- one picture ------------------------------------------------------------------------------


def develop(linear: np.ndarray, rng: Rng) -> Image.Image:
    """Expose, tone-map and add the faults of a small sensor; linear RGB (h, w, 3)."""
    h, w = linear.shape[:2]
    luma = linear @ (0.2126, 0.7152, 0.0722)
    key = (
        float(np.exp(np.mean(np.log(luma + 1e-3)))) * 0.6
        + float(luma[h // 4 : -h // 4].mean()) * 0.4
    )
    x = linear * (0.24 * rng.lognormal(0, 0.28) / key)
    x *= rng.normal(1, 0.03, 3)  # white balance is never quite right
    y, z = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    x *= (1 - rng.uniform(0, 0.22) * (y**2 + z**2) / 2)[..., None]
    x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)  # Narkowicz 2015
    grain = rng.uniform(0.003, 0.016)
    x = np.where(x < 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    x += rng.normal(0, grain, x.shape) + rng.normal(0, grain, (h, w, 1))
    return Image.fromarray((np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8))


def render(split: str, name: str, number: int, file: Path) -> None:
    """Build, render and write one picture."""
    rng = np.random.default_rng([SEED, zlib.crc32(f"{split}/{name}".encode()), number])
    bpy.ops.wm.read_factory_settings(use_empty=True)
    part = Part(rng)
    (TAUGHT | NEVER_TAUGHT)[name](part)
    tall = float(part.points()[:, 2].max())
    scenery = split if split in SURFACES else ("teach", "test")[number % 2]
    ground(rng, scenery)
    clutter(rng, scenery)
    lights(rng, scenery)
    camera(rng, tall)

    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = PX
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.view_settings.view_transform = "Raw"
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.seed = "CPU", SAMPLES, number
    cycles.use_adaptive_sampling, cycles.adaptive_threshold = True, 0.03
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 4, 2, 3
    cycles.denoising_prefilter = "FAST"
    cycles.sample_clamp_indirect = 6.0
    cycles.caustics_reflective = cycles.caustics_refractive = False
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "picture.exr")
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(scene.render.filepath)
        image.colorspace_settings.name = "Non-Color"
        pixels = np.empty(PX * PX * 4, np.float32)
        image.pixels.foreach_get(pixels)
    linear = pixels.reshape(PX, PX, 4)[::-1, :, :3].astype(float)
    file.parent.mkdir(parents=True, exist_ok=True)
    photo, half = (
        develop(linear, rng),
        file.with_suffix(".part"),
    )  # a run may be stopped at any time
    photo.save(half, "JPEG", quality=int(rng.integers(78, 90)), optimize=True)
    half.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "samples")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="CLASS", help="these classes alone"
    )
    parser.add_argument("--count", type=int, help="at most so many pictures per class and folder")
    parser.add_argument("--missing", action="store_true", help="keep the pictures that are there")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)  # which job this process is
    args = parser.parse_args()
    if args.share is None:
        command = [sys.executable, *sys.argv, "--share"]
        shares = [subprocess.Popen([*command, str(i)]) for i in range(args.jobs)]
        sys.exit(max(share.wait() for share in shares))
    plan = [("teach", n, TEACH) for n in TAUGHT] + [("test", n, TEST) for n in TAUGHT]
    plan += [("never-taught", n, NEVER) for n in NEVER_TAUGHT]
    jobs = [
        (split, name, i, args.out / split / name / f"{i:02}.jpg")
        for split, name, count in plan
        if not args.only or name in args.only
        for i in range(1, min(count, args.count or count) + 1)
    ]
    for split, name, number, file in jobs[args.share :: args.jobs]:
        if not (args.missing and file.exists()):
            render(split, name, number, file)


if __name__ == "__main__":
    main()
