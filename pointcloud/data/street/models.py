"""Recognisable road users, each built from some ten to twenty parts with dimensions drawn from realistic ranges."""

from __future__ import annotations

import numpy as np

from suite3d.pointcloud.data.street.shapes import CLOTH, GLASS, METAL, PLASTIC, RETRO, RUBBER, SKIN, Body, Colour, Material, paint

CAR_COLOURS: tuple[Colour, ...] = (
    (0.88, 0.88, 0.87),
    (0.62, 0.63, 0.65),
    (0.10, 0.10, 0.11),
    (0.32, 0.33, 0.35),
    (0.55, 0.10, 0.10),
    (0.13, 0.22, 0.45),
    (0.16, 0.34, 0.24),
    (0.70, 0.62, 0.45),
    (0.80, 0.45, 0.10),
)
WINDOW: Colour = (0.10, 0.13, 0.16)
BLACK: Colour = (0.05, 0.05, 0.05)
SKINS: tuple[Colour, ...] = ((0.90, 0.72, 0.60), (0.75, 0.55, 0.42), (0.50, 0.34, 0.25), (0.32, 0.21, 0.16))


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _colour(rng: np.random.Generator, low: float, high: float) -> Colour:
    red, green, blue = rng.uniform(low, high, 3).tolist()
    return red, green, blue


def _cloth(rng: np.random.Generator) -> tuple[Material, Colour]:
    colour = _colour(rng, 0.05, 0.8)
    return Material(0.15 + 0.5 * sum(colour) / 3, CLOTH.diffuse), colour


def _wheels(body: Body, xs: list[float], width: float, radius: float, tyre: float) -> None:
    for x in xs:
        for side in (-1.0, 1.0):
            outer, inner = side * (width / 2 - 0.01), side * (width / 2 - tyre)
            body.cylinder((x, inner, radius), (x, outer, radius), radius, RUBBER, BLACK)
            body.cylinder((x, outer - side * 0.02, radius), (x, outer + side * 0.01, radius), 0.6 * radius, METAL, (0.6, 0.6, 0.62))


def _lights(body: Body, front: float, back: float, width: float, height: float) -> None:
    """Head and tail lights and the retro-reflecting plates, flush with the ends."""
    for side in (-1.0, 1.0):
        inner, outer = sorted((side * (width / 2 - 0.42), side * (width / 2 - 0.12)))
        body.box((front - 0.05, front), (inner, outer), (height, height + 0.14), RETRO, (0.95, 0.95, 0.85))
        body.box((back, back + 0.05), (inner, outer), (height + 0.08, height + 0.24), RETRO, (0.75, 0.06, 0.05))
    body.box((back - 0.01, back + 0.02), (-0.26, 0.26), (height - 0.12, height), RETRO, (0.9, 0.9, 0.8))
    body.box((front - 0.02, front + 0.01), (-0.26, 0.26), (height - 0.22, height - 0.1), RETRO, (0.9, 0.9, 0.8))


def car(rng: np.random.Generator) -> Body:
    """Sedan, hatchback, estate or SUV: sill, body, sloping bonnet, glass house, roof, wheels, lights."""
    style = rng.choice(4, p=[0.3, 0.3, 0.2, 0.2])
    length = float((rng.uniform(4.3, 4.95), rng.uniform(3.5, 4.3), rng.uniform(4.4, 4.9), rng.uniform(4.2, 4.9))[style])
    height = float((rng.uniform(1.40, 1.50), rng.uniform(1.42, 1.56), rng.uniform(1.44, 1.54), rng.uniform(1.60, 1.78))[style])
    width = float(rng.uniform(1.62, 1.80) if length < 4.1 else rng.uniform(1.74, 1.95))
    colour = _pick(rng, CAR_COLOURS)
    coat = paint(colour)
    front, back = length / 2, -length / 2
    belt, clearance = height * float(rng.uniform(0.60, 0.65)), float(0.16 + 0.05 * (style == 3))
    side = width / 2
    bonnet = length * float(rng.uniform(0.22, 0.27))
    boot = length * float((0.17, 0.02, 0.02, 0.02)[style])
    screen = float(rng.uniform(0.35, 0.65))
    rear_slope = float((0.45, 0.3, 0.12, 0.2)[style]) * float(rng.uniform(0.8, 1.2))
    body = Body("Car")
    body.box((back + 0.06, front - 0.06), (-side + 0.10, side - 0.10), (clearance, 0.45), PLASTIC, BLACK)
    body.box((back, front), (-side, side), (0.36, belt - 0.18), coat, colour, top_x=(back + 0.03, front - 0.08))
    body.box(
        (back + 0.02, front - 0.08),
        (-side, side),
        (belt - 0.18, belt),
        coat,
        colour,
        top_x=(back + 0.06, front - bonnet * 0.95),
        top_y=(-side + 0.06, side - 0.06),
    )
    body.box(
        (front - bonnet, front - 0.09), (-side + 0.02, side - 0.02), (belt - 0.19, belt - 0.05), coat, colour, top_x=(front - bonnet, front - 0.35)
    )
    glass_x, glass_y = (back + boot + 0.04, front - bonnet * 0.95), (-side + 0.06, side - 0.06)
    roof_x, roof_y = (back + boot + 0.04 + rear_slope, front - bonnet * 0.95 - screen), (-side + 0.22, side - 0.22)
    body.box(glass_x, glass_y, (belt, height - 0.05), GLASS, WINDOW, top_x=roof_x, top_y=roof_y)
    body.box(
        roof_x, roof_y, (height - 0.06, height), coat, colour, top_x=(roof_x[0] + 0.05, roof_x[1] - 0.05), top_y=(roof_y[0] + 0.06, roof_y[1] - 0.06)
    )
    middle = (roof_x[0] + roof_x[1]) / 2
    body.box(
        (middle - 0.05, middle + 0.05), (-side + 0.05, side - 0.05), (belt, height - 0.05), coat, colour, top_y=(roof_y[0] - 0.01, roof_y[1] + 0.01)
    )
    _wheels(body, [front - length * 0.19, back + length * 0.19], width, float(rng.uniform(0.29, 0.35)), 0.22)
    _lights(body, front - 0.01, back + 0.01, width, belt - 0.36)
    return body.settle()


def van(rng: np.random.Generator) -> Body:
    """Delivery van or minibus: a tall body with a short sloping nose."""
    length, width, height = float(rng.uniform(4.4, 5.9)), float(rng.uniform(1.8, 2.1)), float(rng.uniform(1.85, 2.6))
    colour = (0.9, 0.9, 0.88) if rng.random() < 0.6 else _pick(rng, CAR_COLOURS)
    coat = paint(colour)
    front, back, side = length / 2, -length / 2, width / 2
    nose, belt = float(rng.uniform(0.6, 1.0)), float(min(1.25, height * 0.55))
    windows = rng.random() < 0.5
    body = Body("Van")
    body.box((back + 0.05, front - 0.08), (-side + 0.1, side - 0.1), (0.2, 0.5), PLASTIC, BLACK)
    body.box((back, front), (-side, side), (0.38, belt - 0.2), coat, colour, top_x=(back, front - 0.06))
    body.box((back, front - 0.06), (-side, side), (belt - 0.2, belt), coat, colour, top_x=(back, front - nose), top_y=(-side + 0.03, side - 0.03))
    cab_back = front - nose - float(rng.uniform(1.1, 1.4))
    glass_top = height - 0.35
    lean = 0.55 * (glass_top - belt) / 0.9
    body.box(
        (cab_back, front - nose + 0.05),
        (-side + 0.03, side - 0.03),
        (belt, glass_top),
        GLASS,
        WINDOW,
        top_x=(cab_back, front - nose - lean),
        top_y=(-side + 0.1, side - 0.1),
    )
    material, shade = (GLASS, WINDOW) if windows else (coat, colour)
    body.box(
        (back + 0.02, cab_back),
        (-side + 0.03, side - 0.03),
        (belt, glass_top),
        material,
        shade,
        top_x=(back + 0.08, cab_back),
        top_y=(-side + 0.1, side - 0.1),
    )
    body.box(
        (back + 0.06, front - nose - lean + 0.03),
        (-side + 0.09, side - 0.09),
        (glass_top, height),
        coat,
        colour,
        top_x=(back + 0.15, front - nose - lean - 0.4),
        top_y=(-side + 0.2, side - 0.2),
    )
    _wheels(body, [front - length * 0.17, back + length * 0.2], width, float(rng.uniform(0.32, 0.37)), 0.24)
    _lights(body, front - 0.01, back + 0.01, width, 0.7)
    return body.settle()


def truck(rng: np.random.Generator) -> Body:
    """Box or flat-bed lorry: cab, gap, cargo, chassis, three axles when long."""
    length, width, height = float(rng.uniform(6.2, 11.5)), float(rng.uniform(2.25, 2.55)), float(rng.uniform(2.9, 3.8))
    colour, cargo_colour = _pick(rng, CAR_COLOURS), (0.85, 0.85, 0.82) if rng.random() < 0.6 else _pick(rng, CAR_COLOURS)
    coat = paint(colour)
    front, back, side = length / 2, -length / 2, width / 2
    cab, cab_height = float(rng.uniform(1.7, 2.3)), float(min(height, rng.uniform(2.5, 3.1)))
    body = Body("Truck")
    body.box((back + 0.1, front - 0.1), (-side + 0.35, side - 0.35), (0.45, 0.95), METAL, (0.15, 0.15, 0.16))
    body.box((front - cab, front), (-side + 0.05, side - 0.05), (0.45, 1.5), coat, colour, top_x=(front - cab, front - 0.03))
    body.box(
        (front - cab + 0.25, front - 0.03),
        (-side + 0.06, side - 0.06),
        (1.5, cab_height - 0.4),
        GLASS,
        WINDOW,
        top_x=(front - cab + 0.25, front - 0.2),
        top_y=(-side + 0.1, side - 0.1),
    )
    body.box((front - cab, front - cab + 0.25), (-side + 0.05, side - 0.05), (1.5, cab_height - 0.4), coat, colour)
    body.box((front - cab, front - 0.2), (-side + 0.1, side - 0.1), (cab_height - 0.4, cab_height), coat, colour, top_x=(front - cab, front - 0.45))
    bed = (back, front - cab - float(rng.uniform(0.2, 0.5)))
    if rng.random() < 0.75:
        body.box(bed, (-side, side), (0.95, height), paint(cargo_colour), cargo_colour)
    else:
        body.box(bed, (-side, side), (0.95, 1.15), METAL, (0.3, 0.3, 0.3))
        for y in (-side, side - 0.06):
            body.box(bed, (y, y + 0.06), (1.15, 1.6), METAL, (0.35, 0.36, 0.38))
        load = float(rng.uniform(0.3, 0.8))
        body.box(
            (bed[0] + 0.2, bed[0] + (bed[1] - bed[0]) * load),
            (-side + 0.15, side - 0.15),
            (1.15, 1.4 + load),
            PLASTIC,
            (0.45, 0.35, 0.25),
            top_y=(-side + 0.4, side - 0.4),
        )
    axles = [front - 1.2, back + 1.4] + ([back + 2.6] if length > 8 else [])
    _wheels(body, axles, width, float(rng.uniform(0.45, 0.52)), 0.32)
    for y in (-side, side - 0.05):
        body.box((back - 0.01, back + 0.02), (y + 0.1 if y < 0 else y - 0.35, y + 0.4 if y < 0 else y - 0.05), (0.8, 0.95), RETRO, (0.8, 0.1, 0.05))
    body.box((front - 0.02, front + 0.01), (-0.3, 0.3), (0.6, 0.72), RETRO, (0.9, 0.9, 0.8))
    return body.settle()


def _person(body: Body, rng: np.random.Generator, height: float, stride: float, *, hip: tuple[float, float], lean: float) -> None:
    """Torso, head and arms above a hip at (x, z); ``lean`` shifts the shoulders forward, metres."""
    scale = height / 1.75
    coat, colour = _cloth(rng)
    skin = _pick(rng, SKINS)
    hair = (0.35 * skin[0], 0.35 * skin[1], 0.35 * skin[2])
    x, z = hip
    shoulder = z + 0.56 * scale * float(np.sqrt(max(0.1, 1.0 - (lean / (0.6 * scale)) ** 2)))
    half = 0.20 * scale * float(rng.uniform(0.9, 1.15))
    deep = 0.12 * scale * float(rng.uniform(0.9, 1.3))
    body.box(
        (x - deep, x + deep),
        (-0.8 * half, 0.8 * half),
        (z - 0.05, shoulder),
        coat,
        colour,
        top_x=(x + lean - deep, x + lean + deep),
        top_y=(-half, half),
    )
    body.ellipsoid((x + lean, 0.0, shoulder), (deep, half, 0.07 * scale), coat, colour)
    body.cylinder((x + lean, 0, shoulder), (x + lean + 0.02, 0, shoulder + 0.14 * scale), 0.055 * scale, SKIN, skin)
    top = (x + lean + 0.03, 0.0, shoulder + 0.21 * scale)
    body.ellipsoid(top, (0.10 * scale, 0.08 * scale, 0.13 * scale), SKIN, skin)
    body.ellipsoid((top[0] - 0.02, 0.0, top[2] + 0.03), (0.10 * scale, 0.085 * scale, 0.115 * scale), CLOTH, hair)
    for side in (-1.0, 1.0):
        swing = -side * stride * 0.7
        hand = (x + lean + swing + (0.38 if lean > 0.15 else 0.0), side * (half + 0.05), z + (0.12 if lean > 0.15 else -0.02))
        body.cylinder((x + lean, side * half, shoulder - 0.03), hand, 0.045 * scale, coat, colour)
        body.ellipsoid(hand, (0.05 * scale,) * 3, SKIN, skin)


def pedestrian(rng: np.random.Generator) -> Body:
    """Adult (80 %) or child in mid stride or standing, some with a bag."""
    height = float(rng.normal(1.72, 0.08) if rng.random() < 0.8 else rng.uniform(1.05, 1.5))
    scale = height / 1.75
    stride = float(rng.uniform(0.05, 0.32)) * scale
    hip = 0.50 * height
    trousers, colour = _cloth(rng)
    body = Body("Pedestrian")
    for side in (-1.0, 1.0):
        foot = side * stride
        knee = (foot * 0.45 + 0.04, side * 0.09 * scale, hip * 0.52)
        body.cylinder((0, side * 0.09 * scale, hip), knee, 0.085 * scale, trousers, colour)
        body.cylinder(knee, (foot, side * 0.09 * scale, 0.06), 0.065 * scale, trousers, colour)
        body.box((foot - 0.08 * scale, foot + 0.18 * scale), (side * 0.09 * scale - 0.05, side * 0.09 * scale + 0.05), (0.0, 0.09), RUBBER, BLACK)
    _person(body, rng, height, stride, hip=(0.0, hip), lean=float(rng.uniform(0.0, 0.08)) * scale)
    if rng.random() < 0.25:
        bag, shade = _cloth(rng)
        body.box((-0.32 * scale, -0.10 * scale), (-0.15 * scale, 0.15 * scale), (hip + 0.08, hip + 0.5 * scale), bag, shade)
    return body.settle()


def cyclist(rng: np.random.Generator) -> Body:
    """Rider on a bicycle: two spoked wheels, frame, handlebar, leaning torso, bent legs."""
    height = float(rng.uniform(1.55, 1.88))
    scale = height / 1.75
    radius, base = float(rng.uniform(0.31, 0.36)), float(rng.uniform(0.98, 1.12))
    steel = _colour(rng, 0.1, 0.8)
    metal = Material(0.35, 0.7)
    body = Body("Cyclist")
    rear, fore = -base / 2, base / 2
    for x in (rear, fore):
        body.cylinder((x, -0.02, radius), (x, 0.02, radius), radius, RUBBER, BLACK, porosity=0.55)
        body.cylinder((x, -0.05, radius), (x, 0.05, radius), 0.05, METAL, (0.5, 0.5, 0.5))
    seat, crank, head = (rear + 0.22, 0.0, 0.92 * scale), (rear + 0.42, 0.0, 0.30), (fore - 0.16, 0.0, 0.92)
    for start, end in (
        (seat, crank),
        (crank, (head[0], 0.0, 0.75)),
        ((rear + 0.26, 0.0, 0.80), (head[0], 0.0, 0.80)),
        ((rear, 0.0, radius), crank),
        (head, (fore, 0.0, radius)),
    ):
        body.cylinder(start, end, 0.022, metal, steel)
    body.cylinder((head[0] + 0.02, -0.27, 1.0), (head[0] + 0.02, 0.27, 1.0), 0.02, metal, BLACK)
    body.box((seat[0] - 0.14, seat[0] + 0.12), (-0.07, 0.07), (seat[2] - 0.03, seat[2] + 0.03), PLASTIC, BLACK)
    body.box((rear - radius + 0.02, rear - radius + 0.05), (-0.04, 0.04), (0.55, 0.63), RETRO, (0.8, 0.05, 0.05))
    trousers, colour = _cloth(rng)
    turn = float(rng.uniform(0, 2 * np.pi))
    for side, angle in ((-1.0, turn), (1.0, turn + np.pi)):
        pedal = (crank[0] + 0.17 * np.cos(angle), side * 0.11, crank[2] + 0.17 * np.sin(angle))
        knee = ((seat[0] + pedal[0]) / 2 + 0.22 * scale, side * 0.11, (seat[2] + pedal[2]) / 2 + 0.12)
        body.cylinder((seat[0], side * 0.1, seat[2]), knee, 0.08 * scale, trousers, colour)
        body.cylinder(knee, pedal, 0.055 * scale, trousers, colour)
        body.box((pedal[0] - 0.08, pedal[0] + 0.17), (pedal[1] - 0.045, pedal[1] + 0.045), (pedal[2] - 0.04, pedal[2] + 0.04), RUBBER, BLACK)
    _person(body, rng, height, 0.0, hip=(seat[0], seat[2] + 0.03), lean=float(rng.uniform(0.2, 0.34)) * scale)
    return body.settle()


MODELS = {"Car": car, "Van": van, "Truck": truck, "Pedestrian": pedestrian, "Cyclist": cyclist}
