"""What may happen to regions between the tissue and a model: turns, stain, light, focus, compression, magnification.

A disturbance is fixed, and the same for all patches, so that a whole slide changes alike. `disturbed_patches` makes the
pixels. Evaluation asks a model about disturbed regions; training shows them to it as further views.
"""

from dataclasses import asdict, dataclass
from typing import Optional

_TURNS = tuple(
    f"{turned}{mirrored}".strip(", ")
    for mirrored in ("", ", mirrored")
    for turned in ("", "turned by 90 degrees", "turned by 180 degrees", "turned by 270 degrees")
)
# Factors of hematoxylin and eosin in the further views. They are none of those that an evaluation asks about.
_STAINS = ((1.2, 1.2), (0.8, 0.8), (1.2, 0.8), (0.8, 1.2))
MOST_VIEWS = len(_TURNS) * (1 + len(_STAINS))


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """One change of all regions; the defaults change nothing.

    Attributes:
        name: For people.
        turn: From 0 to 7, how whole regions are turned and mirrored, see `loaders.turn`: the patches, and their grid.
        hematoxylin: Factor of the amount of the blue stain.
        eosin: Factor of the amount of the pink stain.
        brightness: Factor of the light.
        blur_um: Standard deviation of a Gaussian in um.
        mpp_ratio: The true um/px of the slide, divided by what it is taken for. Below 1 tissue comes too large, above 1
            too small. Each patch is resampled about its own centre, as if it came alone.
        jpeg_quality: Of one more compression; None for none.
    """

    name: str
    turn: int = 0
    hematoxylin: float = 1.0
    eosin: float = 1.0
    brightness: float = 1.0
    blur_um: float = 0.0
    mpp_ratio: float = 1.0
    jpeg_quality: Optional[int] = None

    @property
    def fingerprint(self) -> str:
        """Tells disturbances of other pixels apart, whatever they are called; empty for one that changes none."""
        plain = asdict(UNDISTURBED)
        changed = {field: value for field, value in asdict(self).items() if field != "name" and value != plain[field]}
        return ", ".join(f"{field}={value!r}" for field, value in changed.items())


UNDISTURBED = Disturbance(name="undisturbed")
# What an evaluation asks about.
DISTURBANCES = (
    *(Disturbance(name=name, turn=number) for number, name in enumerate(_TURNS) if number),
    Disturbance(name="hematoxylin +30%", hematoxylin=1.3),
    Disturbance(name="hematoxylin -30%", hematoxylin=0.7),
    Disturbance(name="eosin +30%", eosin=1.3),
    Disturbance(name="eosin -30%", eosin=0.7),
    Disturbance(name="brightness -20%", brightness=0.8),
    Disturbance(name="brightness +20%", brightness=1.2),
    Disturbance(name="JPEG of quality 50", jpeg_quality=50),
    Disturbance(name="blur of 1 um", blur_um=1.0),
    Disturbance(name="um/px x 0.8: tissue too large", mpp_ratio=0.8),
    Disturbance(name="um/px x 1.2: tissue too small", mpp_ratio=1.2),
)


def views(count: int) -> tuple[Disturbance, ...]:
    """The first of the views in which the same regions can be shown.

    The eight turns and mirrors come first, then each turn with each of four stains, all stains equally often.

    Args:
        count: From 1, the undisturbed one alone, to `MOST_VIEWS`.

    Raises:
        ValueError: There are not so many.
    """
    if not 1 <= count <= MOST_VIEWS:
        raise ValueError(f"Expected from 1 to {MOST_VIEWS} views, got {count}.")
    return (UNDISTURBED, *(_view(number) for number in range(1, count)))


def _view(number: int) -> Disturbance:
    round_, turn = divmod(number, len(_TURNS))
    name = _TURNS[turn]
    if round_ == 0:
        return Disturbance(name=name, turn=turn)
    hematoxylin, eosin = _STAINS[(turn + round_) % len(_STAINS)]
    stain = f"hematoxylin {hematoxylin - 1:+.0%}, eosin {eosin - 1:+.0%}"
    return Disturbance(name=f"{name}, {stain}".strip(", "), turn=turn, hematoxylin=hematoxylin, eosin=eosin)
