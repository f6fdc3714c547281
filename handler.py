"""SPIDER behind Hugging Face's Inference Endpoints: their toolkit finds `EndpointHandler` here, beside the model.

A request is an image file (`Content-Type: image/png`), or JSON with one or several image files in base64:

    {"inputs": "iVBORw0KG...", "parameters": {"top_k": 3}}

The answer to one image is a list of `{"label", "score"}`, the most probable class first; to a list of images, a list of
these. Where the model finds a region unlike what it has learnt from, each entry also says `"is_familiar": false`: the
class is a guess. The toolkit answers any error with HTTP 400 and its sentence.

The file needs the model's folder, transformers, torch and pillow, and nothing else. Nothing is fetched, and no file of
the server's is opened for a request. The backbone runs in float32 unless the endpoint's environment says
`SPIDER_ENDPOINT_DTYPE=bfloat16`; on a GPU where there is one.
"""

import base64
import binascii
import io
import logging
import math
import os
import re
import threading
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

logger = logging.getLogger(__name__)

MAX_IMAGES = 32  # of one request: 15 MB each once they are cut into patches
MAX_BYTES = 32 * 2**20  # of one image file; a region of 1120 px without any compression has 4 MB
MAX_PIXELS = 50_000_000  # of one image, known before it is decoded
AT_ONCE = 8  # regions on the device
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEFAULT_ALPHA = 0.1
PARAMETERS = ("top_k", "allow_missing_context", "details", "alpha", "function_to_apply")

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII | re.IGNORECASE)
_EXPECTED = "expected an image, its bytes, a string with an image file in base64, or a list of these"


class EndpointHandler:
    """A SPIDER model that answers requests; several threads may call it.

    Args:
        path: The model's folder; by default the one that this file lies in.

    Raises:
        ValueError: It is no model's folder, or `SPIDER_ENDPOINT_DTYPE` is none of `DTYPES`.
    """

    def __init__(self, path: Union[str, os.PathLike] = "") -> None:
        folder = os.fspath(path) or os.path.dirname(os.path.abspath(__file__))
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise ValueError(f"Expected the folder of a SPIDER model, got {folder!r}, which has no config.json.")
        dtype = os.environ.get("SPIDER_ENDPOINT_DTYPE", "float32")
        if dtype not in DTYPES:
            raise ValueError(f"SPIDER_ENDPOINT_DTYPE must be one of {', '.join(DTYPES)}, got {dtype!r}.")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        local = {"trust_remote_code": True, "local_files_only": True}
        self.model = AutoModel.from_pretrained(folder, dtype=DTYPES[dtype], **local).to(self.device).eval()
        self.processor = AutoProcessor.from_pretrained(folder, **local)
        self._lock = threading.Lock()  # what one request takes of the device's memory is bounded, that of many is not
        logger.info("%s answers on %s in %s", folder, self.device, dtype)

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """Answer one request.

        Args:
            data: `inputs` is a PIL image, the bytes of an image file, a string with these in base64, with or without
                `data:image/png;base64,` before it, or a list of at most `MAX_IMAGES` of these. `parameters`, which may
                be missing, are

                - `top_k`: how many classes an answer names, 1 to all, which is the default;
                - `allow_missing_context`: whether images smaller than a region are taken, as the processor does;
                - `details`: whether an answer is an object with all that the model says of a region: `labels`,
                  `is_familiar`, `unfamiliarity`, `prediction_set`, `alpha` and `context_patches`, how many patches of
                  the region the image covers; null where the model knows none;
                - `alpha`: of the prediction set, with `details`; above 0, below 1, by default 0.1;
                - `function_to_apply`: "softmax", which clients may send; there is no other.

                `options` of the Hub's clients are about its caches and change nothing here.

        Returns:
            For one image a list of `{"label": str, "score": float}` by falling score, in [0, 1], or an object with
            `details`. For a list of images, one or more, a list of these.

        Raises:
            ValueError: The request cannot be answered; the message names the image by its place in the list.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            got = f"the keys {sorted(map(str, data))!s:.200}" if isinstance(data, dict) else type(data).__name__
            raise ValueError(f'Expected an object with "inputs", got {got}.')
        unknown = sorted(str(key) for key in data.keys() - {"inputs", "parameters", "options"})
        if unknown:
            raise ValueError(f'Unknown beside "inputs": {", ".join(unknown):.200}. Settings go into "parameters".')
        wishes = _read_parameters(data.get("parameters"), self.model.config.class_names)
        if wishes.alpha is not None and getattr(self.model, "class_sets", None) is None:
            raise ValueError('The model has no prediction sets, so that "alpha" means nothing. Leave it out.')
        inputs = data["inputs"]
        is_batch = isinstance(inputs, (list, tuple))
        if is_batch and not 0 < len(inputs) <= MAX_IMAGES:
            raise ValueError(f'"inputs" is a list of {len(inputs)} images, expected 1 to {MAX_IMAGES}.')
        items = [(f"inputs[{i}]", item) for i, item in enumerate(inputs)] if is_batch else [("inputs", inputs)]
        regions = [self._tile(name, _open(name, item), wishes) for name, item in items]  # all, before any is classified
        answers = [
            answer for i in range(0, len(regions), AT_ONCE) for answer in self._ask(regions[i:][:AT_ONCE], wishes)
        ]
        return answers if is_batch else answers[0]

    def _tile(self, name: str, image: Image.Image, wishes: "_Wishes") -> Any:
        """The processor's tensors of one image, on the CPU, `pixel_values` `(1, patches, 3, side, side)`."""
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{name} has {image.width}x{image.height} px, expected at most {MAX_PIXELS:,} px: a region."
            )
        if _has_pages(name, image):
            raise ValueError(f"{name} holds several pages or frames, expected one image for each region.")
        given = {} if wishes.allow_missing_context is None else {"allow_missing_context": wishes.allow_missing_context}
        try:
            return self.processor(images=image, return_tensors="pt", **given)
        except ValueError as error:  # which calls a single image "The image"
            raise ValueError(re.sub(r"^The image\b", lambda _: name, str(error))) from error

    def _ask(self, regions: list[Any], wishes: "_Wishes") -> list[Any]:
        """The answers to some regions, from `_tile`."""
        mask = torch.cat([region["context_mask"] for region in regions])
        pixel_values = torch.cat([region["pixel_values"] for region in regions])
        with self._lock, torch.inference_mode():
            pixel_values = pixel_values.to(self.device)
            if pixel_values.is_floating_point():  # the model itself normalises bytes
                pixel_values = pixel_values.to(self.model.dtype)
            outputs = self.model(pixel_values=pixel_values, context_mask=mask.to(self.device))
            probabilities = outputs.logits.float().softmax(dim=-1).cpu()
        if not bool(probabilities.isfinite().all()):
            raise ValueError("The model's scores are not finite, so that there is no answer. Is its dtype too narrow?")
        return _answers(outputs, probabilities, mask.sum(dim=1).tolist(), wishes)


@dataclass(frozen=True)
class _Wishes:
    """What a request asks for; see `EndpointHandler.__call__`."""

    top_k: int
    class_names: tuple[str, ...]
    allow_missing_context: Optional[bool] = None
    details: bool = False
    alpha: Optional[float] = None


def _read_parameters(given: Any, class_names: list[str]) -> _Wishes:
    """The parameters of a request, checked."""
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError(f'"parameters" must be an object, got {type(given).__name__}.')
    unknown = sorted(str(name) for name in given.keys() - set(PARAMETERS))
    if unknown:
        raise ValueError(f"Unknown parameters: {', '.join(unknown):.200}. Expected {', '.join(PARAMETERS)}.")
    # Clients send null for what nobody set.
    parameters = {name: value for name, value in given.items() if value is not None}
    classes = len(class_names)
    top_k = parameters.get("top_k", classes)
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= classes:
        raise ValueError(f'"top_k" must be an integer from 1 to {classes}, the number of classes, got {top_k!r:.60}.')
    for name in ("allow_missing_context", "details"):
        if not isinstance(parameters.get(name, False), bool):
            raise ValueError(f'"{name}" must be true or false, got {parameters[name]!r:.60}.')
    if parameters.get("function_to_apply", "softmax") != "softmax":
        raise ValueError(f'"function_to_apply" must be "softmax", got {parameters["function_to_apply"]!r:.60}.')
    details, alpha = parameters.get("details", False), parameters.get("alpha")
    if alpha is not None:
        alpha = _read_alpha(alpha)
        if not details:
            raise ValueError('"alpha" is of the prediction set, which answers hold with "details": true alone.')
    return _Wishes(top_k, tuple(class_names), parameters.get("allow_missing_context"), details, alpha)


def _read_alpha(value: Any) -> float:
    try:
        # The toolkit leaves a fraction of the query string a string.
        alpha = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        alpha = float("nan")
    if not 0 < alpha < 1:
        raise ValueError(f'"alpha" must be a number above 0 and below 1, got {value!r:.60}.')
    return alpha


def _open(name: str, item: Any) -> Image.Image:
    """One image of a request, opened and not decoded."""
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, str):
        item = _from_base64(name, item)
    if not isinstance(item, (bytes, bytearray, memoryview)):
        raise ValueError(f"{name} is {type(item).__name__}, {_EXPECTED}.")
    content = bytes(item)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name} is a file of {len(content):,} bytes, expected at most {MAX_BYTES:,}: a region.")
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} has too many px, expected at most {MAX_PIXELS:,}: a region.") from error
    except Exception as error:  # Pillow's readers raise errors of many classes
        raise ValueError(
            f"{name} is {len(content):,} bytes that are no image file, expected {', '.join(FORMATS)}."
        ) from error


def _has_pages(name: str, image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception as error:  # which reads on in the file, with errors of many classes
        raise ValueError(f"{name} cannot be decoded, expected a whole image file. {error}") from error


def _from_base64(name: str, text: str) -> bytes:
    """The bytes that a string stands for."""
    encoded = text.strip()
    if found := _DATA_URL.match(encoded):
        encoded = encoded[found.end() :]
    if len(encoded) > MAX_BYTES * 3 // 2:  # 4 / 3, and line breaks
        raise ValueError(f"{name} is a string of {len(encoded):,} characters, expected a file of {MAX_BYTES:,} bytes.")
    try:
        content = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{name} is a string that is no base64, {text[:40]!r}, expected an image file in base64. Addresses and "
            "paths are not opened: send the image itself."
        ) from error
    if not content:
        raise ValueError(f"{name} is an empty string, expected an image file in base64.")
    return content


def _answers(outputs: Any, probabilities: torch.Tensor, context_patches: list[int], wishes: _Wishes) -> list[Any]:
    """What is said of each region, in what JSON holds; `probabilities` are `(regions, classes)`."""
    order = probabilities.argsort(dim=-1, descending=True, stable=True)[:, : wishes.top_k].tolist()
    scores = probabilities.tolist()
    familiar = _listed(outputs, "is_familiar")
    labels = [[{"label": wishes.class_names[k], "score": row[k]} for k in kept] for row, kept in zip(scores, order)]
    if not wishes.details:
        doubts = [{} if familiar is None or known else {"is_familiar": False} for known in familiar or scores]
        return [[entry | doubt for entry in entries] for entries, doubt in zip(labels, doubts)]
    unfamiliarity = _listed(outputs, "unfamiliarity")
    alpha = DEFAULT_ALPHA if wishes.alpha is None else wishes.alpha
    sets = outputs.prediction_sets(alpha) if getattr(outputs, "class_p_values", None) is not None else None
    return [
        {
            "labels": entries,
            "is_familiar": None if familiar is None else familiar[i],
            # JSON has no infinity, which a model that has lost its memory answers.
            "unfamiliarity": unfamiliarity[i] if unfamiliarity and math.isfinite(unfamiliarity[i]) else None,
            "prediction_set": None if sets is None else sets[i],
            "alpha": None if sets is None else alpha,
            "context_patches": context_patches[i],
        }
        for i, entries in enumerate(labels)
    ]


def _listed(outputs: Any, field: str) -> Optional[list[Any]]:
    """A field of the output, by region; None where the model, or its version, has none."""
    values = getattr(outputs, field, None)
    return None if values is None else values.tolist()
