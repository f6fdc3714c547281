"""Images of patches as examples: embedded as those of the index were."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np
import torch
from PIL import Image

from ..images import DECODING_ERRORS, to_rgb
from ..launching import make_accelerator
from ..slide_files.file_check import IMAGE_FORMATS, check_is_file
from ..slides.model import SlideModel
from ..weights.loading import load_image_processor, load_spider
from .sources import require_alike

if TYPE_CHECKING:
    from .patch_index import PatchIndex


def embed_images(files: Sequence[str], model: str, revision: Optional[str], index: "PatchIndex") -> np.ndarray:
    """Embed the central patch of each image, with the precision of the index.

    Args:
        files: Images at the um/px of the index, each at least as large as a patch.
        model: Folder or Hub id.
        revision: Of a model on the Hub.
        index: Says how to embed.

    Returns:
        Unit vectors, float32 `(n, hidden)`.

    Raises:
        ValueError: An image cannot be used, or the model embeds otherwise than the index was.
        OSError: The model cannot be loaded.
    """
    side = int(index.content["preprocessing"]["patch_size"])
    patches = np.stack([_central_patch(Path(file), side) for file in files])
    spider, processor = load_spider(model, revision), load_image_processor(model, revision)
    embedder = SlideModel(spider, processor, make_accelerator().device, str(index.content["dtype"]))
    content = {key: value for key, value in embedder.content.items() if key != "source"}
    require_alike(index.content, f"The index {index.folder}", content, f"the model {model}")
    embeddings = embedder.embed(torch.from_numpy(patches)).float().cpu().numpy()
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise FloatingPointError(f"The model {model} embeds the images as NaN, infinite or 0.")
    return embeddings / norms


def _central_patch(path: Path, side: int) -> np.ndarray:
    """Uint8 `(side, side, 3)`."""
    check_is_file(path, "image")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            pixels = to_rgb(image)
    except DECODING_ERRORS as error:
        raise ValueError(f"The image {path} cannot be read ({', '.join(IMAGE_FORMATS)}): {error}") from error
    height, width = pixels.shape[:2]
    if min(height, width) < side:
        raise ValueError(f"The image {path} has {width} x {height} px, expected a patch of {side} x {side} or more.")
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
