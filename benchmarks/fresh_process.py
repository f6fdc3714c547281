"""What `cold_start` measures: `python -m benchmarks.fresh_process STEPS FOLDER DEVICE` prints one JSON object.

A process that has imported nothing yet times its own imports, so nothing is imported outside the functions. `seconds`
are by step, `draws` says whether a step drew random numbers for weights, `answers` are for comparing the ways.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Stopwatch:
    """Seconds of one step after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, step: str, work: Callable[[], Any]) -> Any:
        """What `work` returns, after noting how long it took."""
        start = time.perf_counter()
        result = work()
        self.seconds[step] = time.perf_counter() - start
        return result


def read(folder: Path, device: str) -> dict[str, Any]:
    """The bytes of the weights, read into memory; and the tensors, each copied out of the mapped file."""
    watch, path = Stopwatch(), folder / "model.safetensors"
    watch.run("read", lambda: len(path.read_bytes()))
    watch.run("import", lambda: _import(device))
    from safetensors.torch import load_file

    watch.run("copy", lambda: len([tensor.clone() for tensor in load_file(path).values()]))
    return {"seconds": watch.seconds, "draws": False, "answers": {}}


def ours(folder: Path, device: str) -> dict[str, Any]:
    """As users load."""

    def load() -> Any:
        from transformers import AutoModel

        return AutoModel.from_pretrained(folder, trust_remote_code=True)

    return _from_import_to_answer(folder, device, load)


def naive(folder: Path, device: str) -> dict[str, Any]:
    """A model of random weights, which the saved ones then replace."""

    def load() -> Any:
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        model = AutoModel.from_config(config, trust_remote_code=True)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()

    return _from_import_to_answer(folder, device, load)


def project(folder: Path, device: str) -> dict[str, Any]:
    """`load_spider` and `load_backbone` of spider_tools, both strict, from the folder and its folder "backbone"."""
    watch = Stopwatch()
    watch.run("import", lambda: _import(device))
    import torch

    from spider_tools.weights.loading import load_backbone, load_spider

    before = torch.get_rng_state()
    spider = watch.run("load_spider", lambda: _in_memory(load_spider(str(folder))))
    pixels = _pixels(folder)
    with torch.inference_mode():
        answers = {"logits": spider(**pixels).logits[0].tolist()}
    del spider
    backbone = watch.run("load_backbone", lambda: _in_memory(load_backbone(str(folder / "backbone"))))
    draws = not torch.equal(before, torch.get_rng_state())
    with torch.inference_mode():
        center = pixels["pixel_values"][pixels["context_mask"]]
        answers["embedding"] = backbone(center).pooler_output[0].tolist()
    del backbone
    _start_training(watch, folder)
    return {"seconds": watch.seconds, "draws": draws, "answers": answers}


def _start_training(watch: Stopwatch, folder: Path) -> None:
    """The model that training starts from, on a backbone and from a model of other classes: with a head of its own."""
    from spider_tools.training.settings import TrainingSettings
    from spider_tools.training.starting_model import starting_model

    sources = {"on a backbone": {"backbone": str(folder / "backbone")}, "on a model": {"init_from": str(folder)}}
    for step, source in sources.items():
        settings = TrainingSettings(output_dir=folder / "run", **source)
        watch.run(step, lambda settings=settings: _in_memory(starting_model(settings, ["one", "two"], 5, 224)))


def _from_import_to_answer(folder: Path, device: str, load: Callable[[], Any]) -> dict[str, Any]:
    watch = Stopwatch()
    watch.run("import", lambda: _import(device))
    import torch

    before = torch.get_rng_state()
    model = watch.run("load", lambda: _in_memory(load()))
    draws = not torch.equal(before, torch.get_rng_state())
    model = watch.run("to device", lambda: model.to(device))
    with torch.inference_mode():
        output = watch.run("first answer", lambda: _answer(model, folder))
        watch.run("second answer", lambda: _answer(model, folder))
        pixels = _pixels(folder).to(device)
        center = pixels["pixel_values"][pixels["context_mask"]]
        embedding = model.embed_patches(center)[0].tolist()
    return {"seconds": watch.seconds, "draws": draws, "answers": {"logits": output, "embedding": embedding}}


def _answer(model: Any, folder: Path) -> list[float]:
    output = model(**_pixels(folder).to(model.device))
    assert output.predicted_class_names[0] in model.config.class_names
    return output.logits[0].tolist()


def _pixels(folder: Path) -> Any:
    """The processor's inputs of a region of one patch, whose surroundings are missing: the smallest there is."""
    import numpy as np
    from transformers import AutoProcessor

    patch = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    return processor(images=patch, allow_missing_context=True, return_tensors="pt")


def _import(device: str) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor  # noqa: F401

    torch.zeros(1, device=device)  # a GPU's context is no part of loading


def _in_memory(model: Any) -> Any:
    """The model, after reading one value of every page: what is mapped from the file is then read from it."""
    for parameter in model.parameters():
        parameter.detach().flatten()[:: 4096 // parameter.element_size()].sum()
    return model


STEPS = {function.__name__: function for function in (read, ours, naive, project)}

if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])))
