"""Where things are in the head: centres, radii and courses in MNI (ICBM152) coordinates, mm, RAS.

Read off the ICBM152 2009a template (its T1 shows tentorium, ventricles, pons and basal ganglia) and, for what lies
outside its brain mask (vessels, sella, skull base, face), placed relative to it after standard anatomy. Left-right
mirrored where ``MIRRORED`` says so. Precision is a few millimetres, which is what a phantom needs.
"""

from __future__ import annotations

from typing import NamedTuple

Point = tuple[float, float, float]


class Ellipsoid(NamedTuple):
    """Axis-aligned ellipsoid."""

    centre: Point
    radii: Point
    mirrored: bool = True


class Tube(NamedTuple):
    """A vessel: polyline with a constant radius in mm."""

    points: tuple[Point, ...]
    radius: float
    mirrored: bool = True


DEEP_GREY = (
    Ellipsoid((12, 13, 6), (7, 11, 10)),  # caudate head
    Ellipsoid((16, -6, 20), (5, 16, 6)),  # caudate body
    Ellipsoid((26, 2, 1), (7, 18, 11)),  # putamen
    Ellipsoid((11, -18, 7), (10, 14, 9)),  # thalamus
)
IRON_RICH = (
    Ellipsoid((19, -5, -2), (6, 9, 6)),  # globus pallidus
    Ellipsoid((9, -19, -11), (5, 5, 4)),  # substantia nigra and red nucleus
    Ellipsoid((15, -57, -34), (7, 8, 4)),  # dentate nucleus
)
MEDIAL_TEMPORAL = (
    Ellipsoid((22, -6, -19), (9, 8, 8)),  # amygdala
    Ellipsoid((27, -19, -17), (8, 10, 7)),  # hippocampal head and body
    Ellipsoid((26, -32, -9), (7, 9, 7)),  # hippocampal tail
    Ellipsoid((21, -20, -26), (7, 16, 6)),  # entorhinal cortex and parahippocampal gyrus
)
TEMPORAL_HORN = Tube(((27, -44, 0), (34, -36, -8), (35, -24, -14), (33, -12, -20)), 1.6)
THIRD_VENTRICLE = Ellipsoid((0, -12, 0), (3.5, 18, 14), mirrored=False)
FOURTH_VENTRICLE = Ellipsoid((0, -43, -33), (9, 8, 15), mirrored=False)
LATERAL_VENTRICLE_BOX = ((1.0, -57.0, -1.0), (42.0, 36.0, 34.0))
LATERAL_VENTRICLE_SEED = ((24, -42, 8), (15, -20, 21), (10, 12, 12))
CHOROID_PLEXUS = (
    Tube(((27, -42, 3), (23, -41, 10), (20, -36, 15), (15, -25, 18), (9, -10, 17), (4, 0, 13)), 1.8),
    Tube(((4, -47, -34), (12, -44, -40), (19, -39, -42)), 1.5),  # fourth ventricle and lateral recess
)
CHOROID_GLOMUS = Ellipsoid((25, -43, 7), (4, 5, 5.5))

BRAINSTEM_AXIS = ((0, -22, -9, 17), (0, -22, -20, 18), (0, -26, -34, 20), (0, -33, -48, 14), (0, -44, -75, 11))
"""x, y, z, radius."""
BRAINSTEM_TOP = -8.0
TENTORIUM_X = (0.0, 10.0, 20.0, 30.0, 40.0, 55.0, 90.0)
TENTORIUM_Y = (-130.0, -85.0, -75.0, -62.0, -50.0, -42.0, -30.0, -20.0)
TENTORIUM_Z = (
    (-20, -22, -24, -25, -25, -25, -25),
    (-17, -18, -20, -21, -22, -22, -22),
    (-6, -11, -16, -18, -19, -21, -22),
    (3, -3, -10, -15, -20, -25, -27),
    (8, -2, -13, -21, -26, -30, -32),
    (5, -7, -16, -24, -30, -36, -38),
    (-8, -12, -22, -32, -38, -44, -46),
    (-8, -16, -28, -40, -45, -50, -50),
)
"""Height of the tentorium over (TENTORIUM_Y rows, TENTORIUM_X columns of |x|)."""

ARTERIES = (
    Tube(((14, -2, -70), (14, 0, -50), (22, -8, -44), (14, -2, -38), (13, 6, -33), (12, 10, -28), (13, 4, -20)), 2.4),
    Tube(((13, 4, -20), (20, 6, -18), (30, 8, -15), (38, 6, -11)), 1.8),  # M1
    Tube(((38, 6, -11), (42, -2, -2), (42, -14, 7), (44, -28, 14), (54, -38, 22)), 1.2),  # M2, M3
    Tube(((38, 6, -11), (42, 14, -3), (44, 20, 8), (50, 16, 22)), 1.1),
    Tube(((13, 4, -20), (7, 10, -17), (3, 16, -12), (2, 30, -8), (2, 41, 4), (2, 34, 20), (2, 12, 34)), 1.3),  # A1, A2
    Tube(((2, 12, 34), (2, -12, 42), (2, -32, 48)), 0.9),
    Tube(((14, -32, -90), (10, -28, -66), (4, -19, -50), (0, -13, -44)), 1.6),  # vertebral
    Tube(((0, -13, -44), (0, -9, -34), (0, -11, -24), (0, -15, -16)), 1.9, mirrored=False),  # basilar
    Tube(((0, -15, -16), (9, -15, -15), (16, -24, -12), (18, -36, -6), (14, -55, 0), (11, -78, 5)), 1.2),  # PCA
    Tube(((13, 4, -20), (12, -6, -18), (9, -15, -15)), 0.8),  # posterior communicating
    Tube(((0, -14, -19), (12, -20, -20), (20, -34, -16)), 0.8),  # superior cerebellar
    Tube(((2, -10, -37), (14, -18, -38), (22, -30, -40)), 0.7),  # anterior inferior cerebellar
)
VEINS = (
    Tube(((0, -99, -14), (22, -98, -19), (44, -80, -22), (58, -56, -28), (55, -46, -42), (44, -42, -56)), 3.6),
    Tube(((44, -42, -56), (32, -36, -66), (26, -26, -85)), 3.6),  # sigmoid to jugular
    Tube(((0, -46, 9), (0, -62, 1), (0, -84, -12), (0, -99, -14)), 2.0, mirrored=False),  # straight sinus
    Tube(((3, 0, 12), (2, -18, 15), (2, -34, 14), (0, -46, 9)), 1.1),  # internal cerebral, Galen
    Tube(((16, -10, -14), (20, -28, -6), (10, -42, 4), (0, -46, 9)), 0.9),  # basal vein of Rosenthal
    Tube(((14, 12, -30), (13, 0, -31), (12, -10, -34)), 2.2),  # cavernous
    Tube(((12, -10, -34), (30, -25, -33), (51, -43, -36)), 1.0),  # superior petrosal
    Tube(((10, 8, 24), (18, -4, 28)), 0.7),  # septal and thalamostriate
)
SAGITTAL_SINUS_RADIUS = 3.6
SAGITTAL_CENTRE = (-17.0, -5.0)
"""y, z of the point from which the course of the sagittal sinus is found along the skull's midline."""
PITUITARY = Ellipsoid((0, 4, -30), (6, 5, 3.8), mirrored=False)
STALK = Tube(((0, 3, -26), (0, 0, -18)), 1.0, mirrored=False)
CEREBELLOPONTINE_ANGLE = (17.0, -31.0, -39.0)
"""Mouth of the right internal auditory canal."""
AUDITORY_CANAL = Tube(((15, -30, -39), (29, -28, -39)), 3.0)
PETROUS_BONE = (Tube(((15, -19, -38), (26, -24, -38), (40, -30, -36), (54, -36, -34)), 8.0),)

SPINAL_CORD = Tube(((0, -43, -66), (0, -49, -84), (0, -51, -130)), 5.0, mirrored=False)
BODY = (
    Ellipsoid((0, 38, -70), (64, 58, 70), mirrored=False),  # face
    Ellipsoid((0, -38, -110), (60, 60, 80), mirrored=False),  # neck
    Ellipsoid((0, 92, -55), (13, 16, 20), mirrored=False),  # nose
)
AIR_SPACES = (
    Ellipsoid((8, 62, -52), (7, 30, 17)),  # nasal cavity
    Ellipsoid((28, 58, -62), (13, 17, 15)),  # maxillary sinus
    Ellipsoid((9, 79, -8), (8, 4, 9)),  # frontal sinus
    Ellipsoid((6, 22, -36), (7, 12, 8)),  # sphenoid sinus
    Ellipsoid((0, 12, -88), (11, 9, 34), mirrored=False),  # pharynx
)
MASTOID = Ellipsoid((54, -36, -44), (9, 13, 14))
SPHENOID_BODY = Ellipsoid((0, 16, -40), (21, 22, 9), mirrored=False)
ORBIT = Ellipsoid((31, 56, -33), (19, 24, 18))
GLOBE = Ellipsoid((32, 66, -33), (12.5, 12, 12.5))
TEMPORALIS = Ellipsoid((70, 22, -18), (9, 34, 34))
EAR_CANAL = Ellipsoid((62, -24, -42), (16, 4, 4))
SUSCEPTIBILITY = (
    Ellipsoid((0, 30, -24), (24, 26, 15), mirrored=False),  # over the frontal and sphenoid sinuses
    Ellipsoid((48, -24, -30), (18, 18, 12)),  # over the petrous bones
)
"""Where air distorts echo-planar images."""
