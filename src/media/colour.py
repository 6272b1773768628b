"""Frames as a standard screen shows them: high dynamic range tone-mapped to BT.709, transparency over black.

Arithmetic on arrays; FFmpeg's own filters (zscale, libplacebo) are not in the libraries that PyAV brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from av.video.format import VideoFormat
    from numpy.typing import NDArray

    Light = NDArray[np.float32]

# Transfer characteristics by their number in ITU-T H.273, table 3.
HDR = {16: "PQ", 18: "HLG"}
WHITE_NITS = 203.0  # reference white of HDR programmes (ITU-R BT.2408)
PEAK_NITS = 1000.0  # of the display that HLG is shown on (ITU-R BT.2100), and of most PQ masters
KNEE = 0.5  # light up to this share of white is not compressed
_BT2020_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))  # BT.2087


def has_alpha(pixels: VideoFormat | None) -> bool:
    """Whether pixels of this format may be transparent; those of a palette may."""
    return bool(pixels and (pixels.name == "pal8" or any(c.is_alpha for c in pixels.components)))


def to_bt709(signal: NDArray[np.uint16], transfer: str) -> NDArray[np.uint8]:
    """BT.2020 RGB of 16 bits, PQ or HLG, shape (height, width, 3), as BT.709 RGB of 8 bits."""
    import numpy as np

    coded = np.asarray(signal / np.float32(65535), dtype=np.float32)
    nits = _pq_nits(coded) if transfer == "PQ" else _hlg_nits(coded)
    light = np.maximum(nits / WHITE_NITS @ np.array(_BT2020_TO_BT709, dtype=np.float32).T, 0)
    # The largest component decides, so that hues stay.
    largest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    light = np.minimum(light * (_compressed(largest) / largest), 1)
    bits: NDArray[np.uint8] = np.rint(light ** (1 / 2.4) * 255).astype(np.uint8)  # BT.1886: a standard screen's gamma
    return bits


def _pq_nits(coded: Light) -> Light:
    """SMPTE ST 2084, inverse."""
    import numpy as np

    power = coded ** np.float32(32 / 2523)
    linear = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return np.asarray(10_000 * linear ** np.float32(8192 / 1305), dtype=np.float32)


def _hlg_nits(coded: Light) -> Light:
    """ITU-R BT.2100: inverse OETF, then the system gamma of 1.2 of a screen with a peak of 1,000 nits."""
    import numpy as np

    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array((0.2627, 0.6780, 0.0593))
    return np.asarray(PEAK_NITS * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2, dtype=np.float32)


def _compressed(light: Light) -> Light:
    """Light as shares of white, what is above KNEE compressed to below 1: a Möbius transform, as in FFmpeg's tonemap."""
    import numpy as np

    peak, j = PEAK_NITS / WHITE_NITS, KNEE
    a = -j * j * (peak - 1) / (j * j - 2 * j + peak)
    b = (j * j - 2 * j * peak + peak) / (peak - 1)
    above = (b * b + 2 * b * j + j * j) / (b - a) * (light + a) / (light + b)
    return np.where(light <= j, light, above)
