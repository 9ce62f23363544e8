"""Anatomy of the phantom: position, size and attenuation of the organs in a portal venous CT.

Lengths are in mm in the frame of the patient: x to the right, y to the front, z to the head, origin in front of the
spine at the level of the lower liver. Later solids cover earlier ones. Sizes and attenuations are typical of adults
(fat -100 HU, muscle 55, liver 110, spleen 125, renal cortex 190, bile 10, lung -850).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from masam.synthetic.phantom_loops import BED_CENTRE_MM, BED_RADII_MM
from masam.synthetic.solids import Canvas, Field, Points, blend, cut_out, ellipsoid, periodic

LABELS = {
    "background": 0,
    "liver": 1,
    "spleen": 2,
    "kidney": 3,
    "aorta": 4,
    "pancreas": 5,
    "gallbladder": 6,
    "duodenum": 7,
}
"""Class names and label values. Stomach, other bowel, vena cava, bones and muscles are background."""

_FAT, _MUSCLE, _GAS = -100.0, 55.0, -930.0
_RIB_PITCH_MM = 30.0
_VERTEBRA_PITCH_MM = 34.0


@dataclass(frozen=True, eq=False)
class Abdomen:
    """Arguments shared by the functions that paint organs."""

    canvas: Canvas  # canvas to paint on
    points: Points  # deformed voxel positions
    texture: Field  # smooth noise of unit variance, for fat, bone and parenchyma
    wall: Field  # distance to the inner side of the abdominal wall, negative in the cavity
    bed: Field  # distance to the fat that contains the loops of small bowel; organs stay out of it
    generator: np.random.Generator  # source of randomness of this patient

    def vary(self, mean: float, spread: float) -> float:
        """Draw a number from mean - spread to mean + spread."""
        return float(self.generator.uniform(mean - spread, mean + spread))

    def near(self, x: float, y: float, z: float, spread: float = 4.0) -> Points:
        """Return the positions relative to a centre drawn near a position."""
        return self.points.moved((self.vary(x, spread), self.vary(y, spread * 0.6), self.vary(z, spread * 1.5)))

    def radii(self, *mm: float) -> tuple[float, float, float]:
        """Draw three half axes near these, varied by a common factor and by one factor each."""
        size = self.vary(1.0, 0.06)
        a, b, c = (r * size * self.vary(1.0, 0.05) for r in mm)
        return a, b, c

    def within(self, solid: Field) -> Field:
        """Return the part of a solid inside the cavity and outside the bed."""
        inside: Field = np.maximum(np.maximum(solid, self.wall + 2), -self.bed)
        return inside


def paint_abdomen(canvas: Canvas, points: Points, texture: Field, generator: np.random.Generator) -> None:
    """Paint everything but the small bowel on a canvas filled with air.

    ``texture`` is smooth noise of unit variance, of the shape of ``points``.
    """
    skin, wall = _paint_trunk(canvas, points, texture, generator)
    # Organs are painted on a list of the trunk's voxels, which are less than half of the scan.
    trunk = np.nonzero(skin < 0)
    inner = Points(points.x[trunk], points.y[trunk], points.z[trunk])
    bed = ellipsoid(inner.moved((*BED_CENTRE_MM, 0.0)), (*BED_RADII_MM, math.inf))
    inner_canvas = Canvas(canvas.image[trunk], canvas.labels[trunk], canvas.edge_mm)
    abdomen = Abdomen(inner_canvas, inner, texture[trunk], wall[trunk], bed, generator)
    _paint_spine(abdomen)
    _paint_bowel(abdomen)
    _paint_liver(abdomen)
    _paint_stomach(abdomen)
    _paint_spleen(abdomen)
    _paint_kidneys(abdomen)
    _paint_pancreas(abdomen)
    _paint_great_vessels(abdomen)
    _paint_lung_bases(abdomen)
    canvas.image[trunk], canvas.labels[trunk] = inner_canvas.image, inner_canvas.labels


def _paint_trunk(canvas: Canvas, points: Points, texture: Field, generator: np.random.Generator) -> tuple[Field, Field]:
    """Paint skin, fat, the muscle wall and the ribs in it; return the distances to skin and inner side."""
    half_width, half_depth = generator.uniform(134, 142), generator.uniform(102, 109)
    fat_mm, muscle_mm = generator.uniform(11, 19), generator.uniform(8, 11)
    x, y, z = points.x, points.y, points.z
    reach = (np.abs(x * (1 / half_width)) ** 2.3 + np.abs(y * (1 / half_depth)) ** 2.3) ** (1 / 2.3)
    radius: Field = np.sqrt(x * x + y * y + 1e-6)
    skin: Field = radius - radius / np.maximum(reach, 1e-3)
    side: Field = np.abs(x / radius)
    front: Field = y / radius
    canvas.paint(skin, 20.0)
    canvas.paint(skin + 2.5, _FAT + 6 * texture)
    # Fat is thickest at the back and the sides, muscle at the sides (three layers; one in front).
    outer: Field = skin + (side - front + 5.5) * (0.2 * fat_mm)
    inner: Field = outer + (side + 2.1) * (0.35 * muscle_mm)
    canvas.paint(outer, _MUSCLE + 4 * texture)
    canvas.paint(inner, _FAT + 5 * texture)
    # Ribs climb from front to back, one every 30 mm, and end at the costal arch, which recedes lower down.
    climb = z + 60 * front + np.float32(generator.uniform(0, _RIB_PITCH_MM))
    along = periodic(climb, _RIB_PITCH_MM)
    rib = np.sqrt((0.5 * (outer + inner)) ** 2 + (0.75 * along) ** 2) - 4.5
    costal_arch = 60 * (front - np.clip(0.25 + z / 90, -0.6, 0.75))
    canvas.paint(np.maximum(np.maximum(rib, costal_arch), -70 - z), 420.0)
    canvas.paint(np.maximum(np.maximum(rib + 2.5, costal_arch), -70 - z), 190.0)
    return skin, inner


def _paint_spine(abdomen: Abdomen) -> None:
    """Paint back muscles, psoas, and vertebrae with cortex, marrow, discs, canal and processes."""
    paint, texture = abdomen.canvas.paint, abdomen.texture
    column = abdomen.points.moved((0.0, -48.0, abdomen.vary(0.0, 12.0)))
    for side in (-1, 1):
        muscle = ellipsoid(column.moved((side * 34.0, -33.0, 0.0)).turned(side * 14.0), (29.0, 17.0, math.inf))
        paint(muscle, _MUSCLE - 8 + 9 * texture)
        psoas = column.moved((side * 34.0, -4.0, -85.0)).turned(side * 9.0, "y")
        paint(ellipsoid(psoas, (15.0, 18.0, 85.0)), _MUSCLE + 3 * texture)
    # Position within a segment, from the middle of a vertebra; the disc starts at 12.5 mm.
    segment = periodic(column.z, _VERTEBRA_PITCH_MM)
    disc = 12.5 - np.abs(segment)
    waist = 1.5 * np.cos(segment * (math.pi / 12.5))
    body = ellipsoid(column, (22.5, 17.0, math.inf)) + waist
    arch = ellipsoid(column.moved((0.0, -22.5, 0.0)), (15.0, 13.0, math.inf))
    spinous = ellipsoid(Points(column.x, column.y + 40, segment + 4), (4.0, 12.0, 11.0))
    transverse = ellipsoid(Points(np.abs(column.x) - 28, column.y + 25, segment), (15.0, 4.5, 7.0))
    for bone in (transverse, spinous, np.maximum(arch, -2 - disc)):
        paint(bone, 400.0)
    paint(body, 90.0)
    paint(np.maximum(body, -disc), 420.0 + 30 * texture)
    paint(np.maximum(body + 2.5, 2.5 - disc), 185.0 + 38 * texture)
    paint(ellipsoid(column.moved((0.0, -23.0, 0.0)), (9.0, 7.5, math.inf)), 15.0)
    paint(ellipsoid(column.moved((0.0, -23.0, 0.0)), (5.0, 4.0, math.inf)), 38.0)


def _paint_bowel(abdomen: Abdomen) -> None:
    """Paint the colon (gas and stool) at the flanks and small bowel loops in the lower front."""
    paint, texture, draw = abdomen.canvas.paint, abdomen.texture, abdomen.generator
    for x, y, top in ((88.0, 8.0, -15.0), (-92.0, -4.0, 5.0)):
        colon = abdomen.near(x, y, top - 60.0).turned(abdomen.vary(0.0, 6.0), "x")
        radius = abdomen.vary(19.0, 3.0)
        haustra = 2.5 * np.sin(colon.z * (2 * math.pi / 27))
        tube = abdomen.within(ellipsoid(colon, (radius, radius, 62.0)) + haustra)
        paint(tube, 50.0)
        paint(tube + 3, 20.0 + 30 * texture)
        paint(np.maximum(tube + 4, abdomen.vary(4.0, 4.0) - colon.y + 4 * texture), _GAS)
    for _ in range(11):
        side = 1 if draw.uniform() < 0.5 else -1
        angle = math.radians(draw.uniform(8, 88))
        loop = abdomen.near(side * 82 * math.cos(angle), 22 + 42 * math.sin(angle), draw.uniform(-85, -25), 2.0)
        loop = loop.turned(draw.uniform(-60, 60)).turned(draw.uniform(-40, 40), "y")
        solid = abdomen.within(ellipsoid(loop, abdomen.radii(22.0, 12.0, 13.0)))
        paint(solid, 75.0)
        paint(solid + 2.5, abdomen.vary(28.0, 10.0))
        if draw.uniform() < 0.2:
            paint(np.maximum(solid + 3, 3 - loop.y), _GAS)


def _paint_liver(abdomen: Abdomen) -> None:
    """Paint both lobes of the liver, the hepatic veins and the gallbladder."""
    paint = abdomen.canvas.paint
    right = ellipsoid(
        abdomen.near(64.0, 2.0, 30.0).turned(abdomen.vary(8.0, 5.0), "y"), abdomen.radii(56.0, 76.0, 66.0)
    )
    left = ellipsoid(
        abdomen.near(8.0, 54.0, 42.0).turned(abdomen.vary(-12.0, 6.0), "y"), abdomen.radii(66.0, 30.0, 36.0)
    )
    # A thin layer of fat between the liver and the spine.
    spine = ellipsoid(abdomen.points.moved((0.0, -44.0, 0.0)), (44.0, 40.0, math.inf))
    liver = abdomen.within(np.maximum(blend(right, left, 14.0), -spine) + 0.8 * abdomen.texture)
    hu = abdomen.vary(108.0, 10.0)
    paint(liver, hu + 4 * abdomen.texture, LABELS["liver"])
    for degrees in (-52.0, -12.0, 28.0):
        vein = abdomen.points.moved((24.0, -16.0, 62.0)).turned(abdomen.vary(degrees, 9.0), "z").turned(14.0, "y")
        branch = ellipsoid(vein.moved((42.0, 0.0, 0.0)), (40.0, 4.2, 4.8))
        paint(np.maximum(branch, liver + 5), hu + 38, None)
    gallbladder = ellipsoid(
        abdomen.near(70.0, 41.0, -15.0, 3.0).turned(-22.0, "x").turned(20.0), abdomen.radii(16.0, 19.0, 28.0)
    )
    gallbladder = np.maximum(gallbladder, -abdomen.bed)
    paint(gallbladder, 55.0)
    paint(gallbladder + 1.2, abdomen.vary(10.0, 5.0), LABELS["gallbladder"])


def _paint_stomach(abdomen: Abdomen) -> None:
    """Paint the stomach: wall, contents, and gas above them, as the patient lies supine."""
    paint = abdomen.canvas.paint
    centre = abdomen.near(-58.0, 46.0, 40.0)
    stomach = abdomen.within(ellipsoid(centre.turned(24.0).turned(-20.0, "y"), abdomen.radii(37.0, 25.0, 40.0)))
    paint(stomach - 2, _FAT)
    paint(stomach, 80.0)
    paint(stomach + 4, abdomen.vary(25.0, 15.0) + 10 * abdomen.texture)
    # The air-fluid level follows gravity, not the orientation of the stomach.
    paint(np.maximum(stomach + 4, abdomen.vary(8.0, 6.0) - centre.y), _GAS)


def _paint_spleen(abdomen: Abdomen) -> None:
    """Paint the spleen, a crescent: an ellipsoid with a hollow on its inner side."""
    centre = abdomen.near(-82.0, -28.0, 36.0)
    hollow = ellipsoid(centre.moved((34.0, 10.0, -6.0)).turned(-20.0), (30.0, 36.0, 52.0))
    spleen = np.maximum(ellipsoid(centre.turned(18.0), abdomen.radii(29.0, 44.0, 46.0)), -hollow)
    hu = abdomen.vary(126.0, 10.0) + 3 * abdomen.texture
    abdomen.canvas.paint(abdomen.within(spleen), hu, LABELS["spleen"])


def _paint_kidneys(abdomen: Abdomen) -> None:
    """Paint both kidneys in fat, with bright cortex, darker pyramids and the fat of the sinus."""
    paint = abdomen.canvas.paint
    cortex, medulla = abdomen.vary(188.0, 15.0), abdomen.vary(128.0, 10.0)
    for side, z in ((1, -26.0), (-1, -12.0)):
        # Upper poles lean together and back; the hilum faces inwards and to the front.
        centre = abdomen.near(side * 63.0, -38.0, z, 3.5).turned(side * 12.0, "y").turned(-8.0, "x").turned(side * 28.0)
        bean = ellipsoid(centre, abdomen.radii(25.0, 29.0, 52.0))
        sinus = ellipsoid(centre.moved((-side * 20.0, 3.0, 0.0)), (18.0, 9.0, 21.0))
        paint(abdomen.within(bean - 6), _FAT + 5 * abdomen.texture)
        kidney = abdomen.within(cut_out(bean, sinus, 4.0))
        paint(kidney, cortex, LABELS["kidney"])
        pyramids = 2.2 * np.sin(6 * np.arctan2(centre.y, centre.x)) * np.cos(centre.z * (2 * math.pi / 22))
        paint(np.maximum(np.maximum(bean + 7.5, 3 - sinus) + pyramids, kidney + 2), medulla, LABELS["kidney"])


def _paint_pancreas(abdomen: Abdomen) -> None:
    """Paint the pancreas, an arch in front of the bed from its head at the right to the hilum of the spleen."""
    start, end = abdomen.vary(50.0, 4.0), abdomen.vary(186.0, 6.0)
    centre = abdomen.points.moved((*BED_CENTRE_MM, 0.0))
    semi_x, semi_y = BED_RADII_MM[0] + 9, BED_RADII_MM[1] + 8
    angle = np.arctan2(centre.y * (1 / semi_y), centre.x * (1 / semi_x))
    # Move the branch cut of arctan2 from the tail, at 180 degrees, to the spine.
    angle = np.where(angle < -math.pi / 2, angle + 2 * math.pi, angle) * (180 / math.pi)
    angle = np.clip(angle, start, end)
    share = (angle - start) * (1 / (end - start))
    turn = angle * (math.pi / 180)
    z = abdomen.vary(-14.0, 4.0) + abdomen.vary(34.0, 6.0) * share
    thickness = 14.5 - 5.0 * share + 1.0 * np.sin(angle * 0.24 + abdomen.vary(0.0, 3.0))
    away = (centre.x - semi_x * np.cos(turn)) ** 2 + (centre.y - semi_y * np.sin(turn)) ** 2
    gland = np.sqrt(away + (0.9 * (centre.z - z)) ** 2) - thickness + 1.2 * abdomen.texture
    pancreas = np.maximum(gland, -abdomen.bed)
    abdomen.canvas.paint(pancreas - 1.5, _FAT)
    abdomen.canvas.paint(pancreas, abdomen.vary(84.0, 8.0) + 10 * abdomen.texture, LABELS["pancreas"])


def _paint_great_vessels(abdomen: Abdomen) -> None:
    """Paint the vena cava (background) to the right and the aorta to the left, in front of the spine."""
    points, paint = abdomen.points, abdomen.canvas.paint
    sway = points.z * (1 / 60)
    cava = Points(points.x - abdomen.vary(21.0, 3.0) - 2 * np.cos(sway), points.y + abdomen.vary(20.0, 1.5), points.z)
    paint(ellipsoid(cava, (11.5, 9.0, math.inf)), abdomen.vary(115.0, 10.0))
    aorta = Points(points.x + abdomen.vary(9.0, 3.0) + 3 * np.sin(sway), points.y + abdomen.vary(20.0, 1.5), points.z)
    radius = abdomen.vary(9.8, 0.9)
    tube = ellipsoid(aorta, (radius, radius, math.inf))
    paint(tube - 1.0, 50.0)
    paint(tube, abdomen.vary(195.0, 25.0), LABELS["aorta"])


def _paint_lung_bases(abdomen: Abdomen) -> None:
    """Paint the lung bases above the dome of the diaphragm, which are lowest at the rim."""
    reach = np.clip(1 + abdomen.wall * (1 / 82), 0, 1)
    dome = abdomen.vary(96.0, 4.0) - abdomen.vary(84.0, 5.0) * reach**5
    # The diaphragm is higher in front; crura and spine separate left from right.
    lung = dome + 0.45 * np.maximum(abdomen.points.y, 0) - abdomen.points.z
    middle = ellipsoid(abdomen.points.moved((0.0, -56.0, 0.0)), (31.0, 44.0, math.inf))
    # The dome is steep at the rim; its height divided by its slope there is a distance.
    lung = np.maximum(np.maximum(0.2 * lung, -middle), abdomen.wall + 1)
    abdomen.canvas.paint(lung, -850.0 + 25 * abdomen.texture)
