"""What the toolkit of Inference Endpoints does with handler.py and with a request, step by step, without its server.

Its steps: the file is imported by its path, `EndpointHandler` made with the folder as a string; the body of a request
is read as its content type says, the query string joins as parameters, and what the handler returns becomes JSON. Every
error is an HTTP 400 with its sentence. Below stand the images of these tests.
"""

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

SIDE = 140  # px of a region of the tiny model


def start(folder: Path) -> Any:
    """The handler of a model's folder."""
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    paths = list(sys.path)
    sys.path.insert(0, str(folder))
    sys.modules["handler.EndpointHandler"] = module
    try:
        spec.loader.exec_module(module)
        return module.EndpointHandler(str(folder))
    finally:
        sys.path[:] = paths


def post(handler: Any, body: Any, content_type: str = "application/json", query: str = "") -> tuple[int, Any]:
    """Status and JSON of the answer to a request; `body` is bytes, or what is to be JSON."""
    try:
        if content_type == "application/json":
            data = json.loads(body if isinstance(body, bytes) else json.dumps(body))
        else:
            data = {"inputs": Image.open(io.BytesIO(body)).convert("RGB")}
        if "inputs" not in data:
            raise ValueError("Body needs to provide a inputs key")
        if query and "parameters" not in data:
            data["parameters"] = {name: _int_or_bool(value) for name, value in parse_qsl(query)}
        return 200, json.loads(json.dumps(handler(data), allow_nan=False))
    except Exception as error:
        return 400, {"error": str(error)}


def _int_or_bool(value: str) -> Any:
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.isnumeric() else value


def region(seed: int = 0, side: int = SIDE) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def file_of(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    """The bytes of its file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def text_of(image: Any) -> str:
    """An image, or the bytes of a file, in base64."""
    return base64.b64encode(image if isinstance(image, bytes) else file_of(image)).decode()
