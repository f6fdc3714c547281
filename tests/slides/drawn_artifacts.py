"""H&E drawn at 8 um/px with artifacts whose place is known, and detail that is as fine as that of tissue."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

STROMA, NUCLEUS, GLASS = (222, 150, 190), (95, 60, 140), (243, 241, 244)
HEIGHT, WIDTH = 240, 320


def drawn_tissue(strength=1.0, seed=0, glass=GLASS):
    """uint8 `(240, 320, 3)`: an ellipse of stroma with nuclei on glass; and bool, where it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = ((x - 150) / 130) ** 2 + ((y - 120) / 105) ** 2 < 1
    nuclei = ndimage.gaussian_filter((rng.random((HEIGHT, WIDTH)) < 0.2).astype(float), 0.7)[..., None]
    color = (1 - nuclei) * STROMA + nuclei * NUCLEUS + rng.normal(0, 5, (HEIGHT, WIDTH, 1))
    light = np.where(inside[..., None], (np.clip(color, 1, 255) / 255) ** strength, 1) * glass
    return np.clip(np.rint(light + rng.normal(0, 1, light.shape)), 0, 255).astype(np.uint8), inside


def band(points, width):
    """Share of every px in a line of `width` px, float64 `(240, 320)`."""
    large = Image.new("L", (WIDTH * 4, HEIGHT * 4))
    ImageDraw.Draw(large).line([(4 * x, 4 * y) for x, y in points], fill=255, width=4 * width, joint="curve")
    return np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.BOX)) / 255


def mixed(pixels, other, share):
    """`other` in place of `pixels`, where and as far as `share` says."""
    share = np.asarray(share, dtype=np.float64)[..., None]
    return np.rint(pixels * (1 - share) + np.asarray(other, dtype=np.float64) * share).astype(np.uint8)


def folded(pixels, share):
    """Tissue from 9 px away lies over what is there: light passes both, so that absorptions add up."""
    pixels = pixels.astype(np.float64)
    return mixed(pixels, pixels * np.roll(pixels, (5, 7), (0, 1)) / 255, share)


def with_bubble(pixels, center=(150, 120), radius=30, rim=3, washed=0.5):
    """A dark ring around what is washed out; and bool, what lies in it, rim included."""
    y, x = np.mgrid[: HEIGHT * 4, : WIDTH * 4] / 4 + 0.125
    distance = np.hypot(x - center[0], y - center[1])
    ring, disk = (
        part.reshape(HEIGHT, 4, WIDTH, 4).mean(axis=(1, 3))
        for part in (abs(distance - radius) < rim / 2, distance < radius)
    )
    paler = mixed(pixels, 255 - (255 - pixels.astype(np.float64)) * washed, disk)
    return mixed(paler, (45, 44, 46), ring), disk + ring > 0.5


def fine_tissue(height, width, mpp, blur_um=0.0, strength=1.0, seed=0):
    """uint8 `(height, width, 3)`, tissue without glass whose detail is as strong at every size, to 50 um; blurred.

    Its spectrum falls with the frequency, as that of tissue does; the blur is made in the spectrum.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height, mpp)[:, None], np.fft.rfftfreq(width, mpp))  # per um
    seen = np.exp(-2 * (np.pi * blur_um * frequency) ** 2)
    noise = np.fft.rfft2(rng.normal(size=(height, width))) / np.maximum(frequency, 1e-9)
    noise[frequency < 1 / 50] = 0
    detail = np.fft.irfft2(noise * seen, s=(height, width)) / np.fft.irfft2(noise, s=(height, width)).std()
    color = 255 - strength * (np.array([40, 100, 60]) + 45 * detail[..., None] + rng.normal(0, 1, (height, width, 1)))
    return np.clip(np.rint(color), 0, 255).astype(np.uint8)
