"""The scenes that `make_clips.py` films.

Calling a scene paints what stands still and returns a function that adds, on a copy,
what has moved by time t (seconds). Random positions are seeded.
"""

from collections.abc import Callable
from math import acos, atan2, cos, hypot, pi, sin

import numpy as np
from canvas import Canvas, ease, place, pts, smooth
from PIL import Image

Draw = Callable[[float], Canvas]
Scene = Callable[[], Draw]


def robot_arm() -> Draw:
    rng, back = np.random.default_rng(4), Canvas(1280, 720)
    back.gradient(0, 480, "#6f8796", "#b9c8cf")
    for x in range(-60, 1300, 270):
        for y in (110, 235, 360):
            left = x + 16.0
            while (w := float(rng.uniform(44, 84))) + left < x + 254:
                tint = rng.choice(["#b98a58", "#a87a4c", "#c99d6d", "#8f9aa3"])
                h = float(rng.uniform(48, 88))
                back.box(left, y + 80 - h, w, h, tint)
                back.box(left + w * 0.42, y + 80 - h, w * 0.16, h, "#ffffff30")
                left += w + 8
            back.box(x, y + 80, 270, 13, "#d9702e")
        back.box(x, 30, 14, 460, "#2f5f8f")
        back.glow(x + 135, 0, 190, "#fffbe8d0", 90)
    back.gradient(478, 720, "#7d878c", "#aeb6b9", "#c6cbcc")
    back.blur(3.5)
    back.poly(pts("0,690 1280,690 1280,706 0,706"), "#e8b923")
    back.glow(980, 668, 420, "#20282dc0", 34)
    back.glow(240, 668, 190, "#20282dd0", 34)
    back.glow(470, 662, 130, "#20282dc0", 26)
    for x in (690, 940, 1190):
        back.box(x, 560, 26, 106, "#4a545b", 4)
    back.box(395, 632, 150, 10, "#9a6b3c")
    for x in (398, 461, 524):
        back.box(x, 640, 18, 20, "#7d552e")

    lid = pts("-48,-84 -34,-98 62,-98 48,-84")
    side = pts("48,-84 62,-98 62,-14 48,0")

    def carton(c: Canvas, x: float, bottom: float) -> None:
        c.poly(place(lid, x, bottom), "#e2b987")
        c.poly(place(side, x, bottom), "#9c6c3d")
        c.box(x - 48, bottom - 84, 96, 84, "#c8935a")
        c.box(x - 9, bottom - 84, 18, 84, "#e0bb8a")
        c.box(x + 16, bottom - 30, 24, 18, "#f3ece0")

    def draw(t: float) -> Canvas:
        c, rolled = back.copy(), 130 * (t - 1.6)
        c.box(640, 536, 700, 44, "#39424a", 22)
        c.box(640, 536, 700, 12, "#1f262b", 6)
        for roller in range(664, 1300, 48):
            c.disc(roller, 560, 15, "#8d989f")
            spoke = place(pts("-11,0 11,0"), roller, 560, 1, t * 6)
            c.line(spoke, 4, "#5b666d")
        for i in (1, 2, 3):
            carton(c, 800 + rolled + 250 * i, 538)
        go, back_up = ease(t, 0.1, 1.5), ease(t, 1.75, 3)
        x, y = 470 + 330 * go - 90 * back_up, 632 - 94 * go - 250 * sin(pi * go)
        carton(c, x if t < 1.6 else 800 + rolled, y if t < 1.6 else 538)
        y -= 160 + 150 * back_up
        dx, dy = x - 240, y - 420
        reach = hypot(dx, dy)
        a = atan2(dy, dx) - acos((310**2 + reach**2 - 300**2) / (620 * reach))
        arm = np.array([[240, 420], [240 + 310 * cos(a), 420 + 310 * sin(a)], [x, y]])
        c.poly(pts("160,668 320,668 286,600 274,420 206,420 194,600"), "#39424a")
        c.box(140, 648, 200, 22, "#262d33", 6)
        for width, tint in ((62, "#b9480f"), (48, "#f0701c"), (14, "#ff9a52")):
            c.line(arm[:2] - [0, (62 - width) / 8], width, tint)
            c.line(arm[1:] - [0, (62 - width) / 8], width * 0.8, tint)
        for (jx, jy), r in zip(arm, (46, 38, 26), strict=True):
            c.disc(jx, jy, r, "#2b3238")
            c.disc(jx, jy, r * 0.62, "#59656d")
            c.disc(jx, jy, r * 0.3, "#aab4ba")
        grip = 50 + 12 * ease(t, 1.5, 1.7)
        c.box(x - 12, y, 24, 56, "#4a545b")
        c.box(x - grip - 8, y + 48, 2 * grip + 16, 16, "#2b3238", 5)
        for finger in (-grip - 8, grip - 4):
            c.box(x + finger, y + 52, 12, 70, "#2b3238", 4)
        return c

    return draw


def snowy_street() -> Draw:
    rng, back = np.random.default_rng(7), Canvas(720, 1280)
    back.gradient(0, 1000, "#0a1230", "#22325f", "#59608f", "#8b7d9c")
    houses = ((-70, 310, 560, "#4d3f58"), (480, 330, 520, "#35506a"), (215, 290, 420, "#6b4a45"))
    for x, w, top, tint in houses:
        mid, roof = x + w / 2, top - 150
        back.poly(pts(f"{x},1010 {x},{top} {mid},{roof} {x + w},{top} {x + w},1010"), tint)
        eaves = pts(f"{x - 16},{top + 10} {mid},{roof - 8} {x + w + 16},{top + 10}")
        back.line(eaves, 24, "#e9f0fb")
        back.disc(mid, top - 30, 26, "#ffd98a")
        for row in range(3):
            for wx in (x + w * 0.16, x + w * 0.58):
                wy, lit = top + 50 + row * 145, rng.random() < 0.75
                back.glow(wx + 38, wy + 46, 120, "#ffb85070" if lit else "#00000000")
                back.box(wx - 5, wy - 5, 86, 100, "#2a2233", 5)
                back.box(wx, wy, 76, 90, "#ffcf73" if lit else "#3a4a70", 3)
                back.box(wx + 35, wy, 6, 90, "#5a4030")
                back.box(wx, wy + 40, 76, 6, "#5a4030")
                back.box(wx - 9, wy + 90, 94, 11, "#eef3fc", 5)
    back.gradient(985, 1280, "#8d9bc6", "#c9d4ec", "#f2f5fb")
    drift = smooth(pts("-60,1000 160,965 420,1000 640,970 800,1000 800,1060 -60,1060"))
    back.poly(drift, "#b5c1e0")
    back.glow(560, 1140, 330, "#ffd58ae0", 90)
    back.glow(150, 1130, 190, "#5a6a9ca0", 34)
    back.box(138, 1080, 24, 56, "#4a3328")
    for i in range(4):
        tier = pts("0,-150 100,40 0,22 -100,40") * [0.65 + 0.17 * i, 1]
        back.poly(place(tier, 150, 780 + 88 * i), "#1f4a40")
        back.poly(place(tier * [0.72, 0.6], 150, 752 + 88 * i), "#e6eef8")
        back.poly(place(tier * [0.7, 0.42], 150, 772 + 88 * i), "#2a5b4d")
    back.box(552, 640, 16, 505, "#1c2030", 6)
    back.box(532, 1120, 56, 26, "#1c2030", 8)
    back.glow(560, 590, 260, "#ffd27ad0")
    back.poly(pts("528,555 592,555 580,640 540,640"), "#fff2c4")
    back.poly(pts("518,558 560,515 602,558"), "#1c2030")
    back.line(pts("524,550 560,513 596,550"), 9, "#eef3fc")
    bulbs = rng.uniform(-1, 1, (26, 2)) * [0.8, 0.5] + [0, 0.5]
    flakes = rng.uniform(0, 1, (120, 3)) * [760, 1320, 1]
    flakes = flakes[np.argsort(flakes[:, 2])]

    def draw(t: float) -> Canvas:
        c = back.copy()
        for i, (u, v) in enumerate(bulbs):
            x, y = 150 + u * (30 + 105 * v), 760 + 330 * v
            on = 0.5 + 0.5 * sin(4 * t + i * 1.7)
            c.glow(x, y, 8 + 12 * on, ("#ff5a4a", "#ffd23f", "#6fd3ff")[i % 3])
        for x, y, near in flakes:
            fall = (y + t * (90 + 190 * near**2)) % 1320 - 20
            sway = x - 20 + 16 * sin(1.4 * t + y)
            c.disc(sway, fall, 2 + 5.5 * near**3, "#ffffffd8")
        return c

    return draw


def sunset_sail() -> Draw:
    back = Canvas(960, 540, 8)
    back.gradient(0, 330, "#2b2a63", "#7d4a86", "#e2706d", "#f9a35f", "#ffd27f")
    back.glow(640, 300, 420, "#ffe29ad0", 300)
    for x, y, w in ((130, 130, 260), (330, 95, 190), (820, 150, 240), (560, 60, 210)):
        back.glow(x, y, w, "#ffb59a90", 22)
        back.glow(x + 50, y + 14, w * 0.7, "#b3587fa0", 13)
    back.poly(smooth(pts("-90,345 -60,300 60,284 150,312 260,322 330,345")), "#7c4a78")
    across = np.linspace(0, 960, 241)
    hull = smooth(pts("-92,-4 -60,-6 60,-6 112,-18 84,24 60,32 -60,32 -80,20"))
    main = smooth(pts("-6,-232 -6,-232 -6,-232 -48,-120 -88,-26 -88,-26 -6,-26 -6,-26"))
    jib = smooth(pts("6,-206 6,-206 52,-120 98,-26 98,-26 40,-34 12,-34"))

    def draw(t: float) -> Canvas:
        c = back.copy()
        c.disc(640, 292 + 5 * t, 50, "#fff6d0")
        c.gradient(330, 540, "#f2a06c", "#b5607a", "#5c3a72", "#241f4f")
        for i, tint in enumerate(("#9c5578", "#7c4672", "#55366a", "#3a2a5c", "#262150")):
            if i == 3:
                bx, by, roll = 300 + 26 * t, 432 + 3 * sin(2.6 * t), 0.05 * sin(2.2 * t)
                c.glow(bx, by + 44, 150, "#1a1638c0", 26)
                for part, color in ((main, "#fff1da"), (jib, "#ffd9b0"), (hull, "#8a2a38")):
                    c.poly(place(part, bx, by, 1, roll), color)
                c.line(place(pts("0,-240 0,-4"), bx, by, 1, roll), 5, "#3a1d2a")
                c.line(place(pts("-80,4 96,0"), bx, by, 1, roll), 5, "#f0c9a0")
            y = 372 + 12 * i + 5 * i * i
            swell = np.sin(across / (26 + 9 * i) + (1.5 + 0.3 * i) * t + 2 * i)
            swell += 0.5 * np.sin(across / (11 + 5 * i) - 2 * t + i)
            crest = np.stack([across, y + (1 + 1.5 * i) * swell], axis=1)
            c.poly(np.vstack([crest, [[960, 540], [0, 540]]]), tint + "b0")
        for i in range(34):
            w = (52 - i * 0.7) * (0.7 + 0.4 * sin(i * 2.3 + 4 * t))
            gleam = f"#ffe9a8{190 - 4 * i:02x}"
            c.disc(640 + 9 * sin(i * 1.9 + 2 * t), 333 + i * 6 + i * i * 0.02, w, gleam, 1.6 + i * 0.05)
        return c

    return draw


def tractor_field() -> Draw:
    rng, back = np.random.default_rng(3), Canvas(840, 700)
    for x, y, w, h, tint, furrow, step in (
        (0, 0, 330, 230, "#7fa650", "#6a9342", 9),
        (345, 0, 495, 230, "#d9c34a", "#c6ae35", 11),
        (0, 245, 840, 235, "#c9ab6b", "#b99859", 8),
        (0, 520, 400, 180, "#5f9350", "#4d8042", 12),
        (415, 520, 425, 180, "#a9bd5d", "#96ab4a", 9),
    ):
        back.box(0 if x == 0 else x - 15, y - 15, w + 30, h + 30, "#557a3a")
        back.box(x, y, w, h, tint)
        for i in range(step, h, step):
            back.box(x, y + i, w, step * 0.35, furrow)
    back.box(0, 484, 840, 30, "#d6c7a3")
    back.box(0, 496, 840, 5, "#b7b27a")

    def ploughed(c: Canvas, y: float, end: float) -> None:
        c.box(0, y, end, 46, "#7b5233")
        for i in range(5):
            c.box(0, y + 4 + 9 * i, end, 3.5, "#5f3d25")

    ploughed(back, 249, 840)
    ploughed(back, 295, 840)
    spots = [(x, 238) for x in range(10, 840, 46)] + [(338, y) for y in range(8, 220, 38)]
    spots += [(x, 526) for x in range(30, 840, 74)] + [(408, y) for y in range(560, 700, 34)]
    for x, y in spots:
        r = float(rng.uniform(10, 17))
        back.glow(x + 9, y + 10, r * 1.6, "#10240ce0")
        for d, tint in ((0, "#2f5a2a"), (0.18, "#3f7034"), (0.4, "#5b8f45")):
            back.disc(x - d * r * 0.6, y - d * r * 0.6, r * (1 - d), tint)

    def draw(t: float) -> Canvas:
        c, x, y = back.copy(), 290 + 62 * t, 364
        ploughed(c, 341, x - 42)
        c.glow(x + 8, y + 12, 58, "#20140ad0", 36)
        c.box(x - 52, y - 24, 14, 48, "#3c4650", 3)
        c.box(x - 40, y - 4, 16, 8, "#3c4650")
        for wx, wy, w, h in ((-28, 17, 34, 13), (-28, -30, 34, 13), (24, 15, 22, 9), (24, -24, 22, 9)):
            c.box(x + wx, y + wy, w, h, "#24262a", 4)
        c.box(x - 26, y - 17, 40, 34, "#b3201b", 6)
        c.box(x + 8, y - 11, 42, 22, "#d8322a", 5)
        c.box(x - 20, y - 13, 28, 26, "#f5efe2", 5)
        c.box(x + 14, y - 2, 30, 4, "#f1685f")
        turned = c.image.rotate(14, Image.Resampling.BICUBIC)
        shift = round(2 * (100 + 10 * t))
        c.use(turned.crop((shift, 220, shift + 1280, 220 + 960)))
        return c

    return draw


def ball_picture(size: int, angle: float) -> Image.Image:
    """A lit beach ball, turned by `angle`, on a clear ground."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    u, v = x * cos(angle) + y * sin(angle), y * cos(angle) - x * sin(angle)
    pole, w = v * cos(0.6) + z * sin(0.6), z * cos(0.6) - v * sin(0.6)
    white = [250, 247, 238]
    paint = np.array([[226, 62, 60], white, [38, 110, 190], white, [250, 190, 50], white])
    rgb = paint[((np.arctan2(w, u) / pi + 1) * 3).astype(int) % 6]
    rgb[np.abs(pole) > 0.94] = white
    light = -0.45 * x - 0.62 * y + 0.64 * z
    shade = 0.42 + 0.62 * np.clip(light, 0, 1)
    shine = 190 * np.clip(light, 0, 1) ** 40
    alpha = 255 * np.clip((1 - np.hypot(x, y)) * size / 4, 0, 1)
    rgba = np.dstack([rgb * shade[..., None] + shine[..., None], alpha])
    return Image.fromarray(rgba.clip(0, 255).astype(np.uint8))


def rolling_ball() -> Draw:
    back = Canvas(512, 512)
    back.gradient(0, 330, "#f4c9a8", "#f7d9bf")
    back.gradient(330, 512, "#f3cfae", "#e8b48c")
    back.blur(20)
    back.glow(190, 120, 300, "#fff6e6b0")
    back.glow(400, 372, 120, "#8a4a2c70", 22)
    back.box(330, 130, 130, 240, "#3f8f8c", 65)
    back.box(330, 250, 130, 120, "#3f8f8c")
    back.box(362, 166, 66, 204, "#2c6d70", 33)
    back.box(362, 250, 66, 120, "#2c6d70")
    back.glow(105, 374, 110, "#8a4a2c80", 20)
    back.box(40, 286, 110, 86, "#f08a6b", 4)
    back.box(112, 286, 38, 86, "#d9714f", 4)
    back.disc(95, 240, 46, "#f3d08f")
    back.glow(80, 225, 40, "#ffffffc0")

    def draw(t: float) -> Canvas:
        c, go = back.copy(), 1 - (1 - min(t / 3, 1)) ** 2
        x = 96 + 300 * go
        c.glow(x + 18, 452, 110, "#70341cd0", 24)
        ball = ball_picture(304, (x - 96) / 76)
        c.image.paste(ball, (round(2 * x) - 152, 2 * 376 - 152), ball)
        return c

    return draw


def dusk_drive() -> Draw:
    rng, back = np.random.default_rng(11), Canvas(854, 480)
    back.gradient(0, 320, "#1b2452", "#4d4484", "#b2618c", "#f08a6f", "#ffc98a")
    for x, y in rng.uniform(0, 1, (40, 2)) * [854, 110]:
        back.disc(x, y, 0.9, "#ffffffb0")
    back.glow(610, 280, 260, "#ffe0a0c0", 170)
    back.disc(610, 262, 34, "#fff0c2")
    glint = pts("-16,-34 2,-63 14,-63 -2,-34")
    pines = rng.uniform(0, 1, (40, 2)) * [1600, 1]
    back_half = "-120,18 -128,14 -132,-16 -124,-26 -92,-32 -62,-34 -28,-66 -8,-70"
    body = smooth(pts(back_half + " 46,-70 66,-64 104,-32 128,-26 134,-10 132,14 120,18"))
    glass = smooth(pts("-46,-34 -22,-60 -6,-63 42,-63 58,-58 84,-34 84,-34 -46,-34"))

    def hills(c: Canvas, t: float, speed: float, y: float, size: float, tint: str) -> None:
        x = np.linspace(0, 854, 215)
        s = (x + speed * t) / size + speed
        ridge = y - 0.32 * size * (np.sin(s) + 0.5 * np.sin(2.3 * s) + 0.2 * np.sin(5.1 * s))
        c.poly(np.vstack([np.stack([x, ridge], axis=1), [[854, 480], [0, 480]]]), tint)

    def draw(t: float) -> Canvas:
        c = back.copy()
        hills(c, t, 12, 250, 120, "#9a5f8f")
        hills(c, t, 36, 290, 90, "#634a82")
        hills(c, t, 80, 325, 60, "#3b3568")
        for px, tall in pines:
            x, h = (px - 170 * t) % 1600 - 60, 46 + 50 * tall
            for i in range(3):
                tier = pts("0,-1 0.5,0.2 -0.5,0.2") * (h * (0.4 + 0.1 * i))
                c.poly(place(tier, x, 352 - h * (0.62 - 0.27 * i)), "#1d2148")
        c.box(0, 346, 854, 20, "#1d2148")
        c.gradient(362, 480, "#4a4560", "#33324c", "#262640")
        c.box(0, 366, 854, 3, "#e8d9c070")
        for i in range(8):
            c.box(i * 150 - (430 * t) % 150, 448, 82, 7, "#f3dfb4", 3)
        for i in range(4):
            x = i * 300 - (360 * t) % 300
            c.box(x, 334, 6, 34, "#e9e2e6", 2)
            c.box(x, 340, 6, 7, "#e2504a")
        x, y = 360, 398 + 1.2 * sin(9 * t)
        c.glow(x, 424, 165, "#0d0d20f0", 15)
        c.glow(x + 260, 424, 190, "#ffe9a890", 16)
        c.poly(place(body, x, y), "#d8433c")
        c.poly(place(body * [0.99, 0.4], x, y + 8), "#b5302f")
        c.poly(place(glass, x, y), "#2a3157")
        c.poly(place(glint, x, y), "#8f8fbd80")
        c.box(x + 16, y - 64, 6, 30, "#d8433c")
        c.box(x + 118, y - 20, 15, 9, "#fff6cf", 4)
        c.glow(x + 130, y - 15, 34, "#fff3b8")
        c.glow(x - 131, y - 12, 26, "#ff4a3a")
        for wx in (x - 78, x + 80):
            c.disc(wx, 416, 25, "#15162a")
            c.disc(wx, 416, 15, "#b9bccb")
            for i in range(5):
                spoke = place(pts("0,0 14,0"), wx, 416, 1, 430 * t / 25 + i * 0.4 * pi)
                c.line(spoke, 4, "#6a6d82")
        return c

    return draw


def rainy_crossing() -> Draw:
    rng, back = np.random.default_rng(5), Canvas(960, 540, 4)
    back.gradient(0, 350, "#0a1024", "#1a2444", "#2c3558")
    x = -20.0
    while x < 960:
        w, h = rng.uniform(60, 120), rng.uniform(120, 290)
        back.box(x, 350 - h, w, h, "#111a33")
        for wx in np.arange(x + 8, x + w - 12, 18).tolist():
            for wy in np.arange(358 - h, 335, 24).tolist():
                if rng.random() < 0.4:
                    back.box(wx, wy, 9, 13, "#ffca7a")
        x += w + 6
    back.gradient(345, 540, "#1b2340", "#10162b", "#0a0e1e")
    back.blur(4)
    for x, y in rng.uniform(0, 1, (34, 2)) * [960, 150] + [0, 210]:
        r, tint = 9 + 15 * rng.random(), rng.choice(["#ffb457", "#ff5d57", "#6fd0e8"])
        back.disc(x, y, r, tint + "68")
        back.glow(x, 400 + (350 - y) * 0.6, r * 0.9, tint + "90", 90)

    drops = rng.uniform(0, 1, (110, 3)) * [1060, 640, 1]
    visor = pts("-37,4 -34,-26 0,-42 34,-26 37,4 26,-20 0,-30 -26,-20")

    def draw(t: float) -> Canvas:
        c = back.copy()
        for dx in (0, 46):
            x = 150 + 120 * t + dx
            c.disc(x, 352, 13, "#ff4038d0")
            c.glow(x, 420, 18, "#ff4038c0", 80)
        stage = 0 if t < 1.1 else 1 if t < 1.9 else 2
        lit = ("#35f09a", "#ffc531", "#ff4238")[stage]
        c.glow(690, 470, 90, lit + "d0", 150)
        c.box(684, 300, 14, 240, "#05070d")
        c.box(642, 66, 98, 262, "#0c1018", 20)
        c.box(648, 72, 86, 250, "#1a212c", 16)
        for i, dim in enumerate(("#123b2c", "#40330f", "#431516")):
            y = 280 - 80 * i
            c.disc(691, y, 33, "#05070d")
            c.disc(691, y, 29, lit if i == stage else dim)
            if i == stage:
                c.glow(691, y, 26, "#ffffffd0")
                c.glow(691, y, 190, lit + "a0")
            c.poly(place(visor, 691, y), "#05070d")
        for x, y, near in drops:
            fall = (y + (700 + 500 * near) * t) % 640 - 60
            streak = place(pts("0,0 -5,34"), x - 0.15 * fall, fall, 0.5 + near)
            c.line(streak, 0.6 + near, "#cfe0ff50", cap=False)
        return c

    return draw
