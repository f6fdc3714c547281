"""Full-size Hibou backbones with random weights: our loaded backbone against an independent forward pass in float64.

`python benchmarks/backbone_parity.py [--size L|B] [--images N]` prints the largest difference of any token and of the
embedding, for the state dict with HistAI's own names and for the folder in Transformers format. The backbone runs once
in float32, as it is loaded, and once in float64, which tells rounding from a wrong function. Needs 8 GB of memory.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from independent_dinov2 import forward, in_transformers_4_names, random_state_dict, save_folder  # noqa: E402

from spider_tools.weights.loading import load_backbone  # noqa: E402

SIZES = {"B": {"hidden": 768, "layers": 12, "width": 2048}, "L": {"hidden": 1024, "layers": 24, "width": 2736}}
HEADS = {"B": 12, "L": 16}
CONFIG = {"model_type": "dinov2", "image_size": 224, "patch_size": 14, "use_swiglu_ffn": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="L")
    parser.add_argument("--images", type=int, default=1)
    options = parser.parse_args()
    state = random_state_dict(**SIZES[options.size], token=14, grid=16, registers=4, swiglu=True, std=0.03)
    pixels = torch.randn(options.images, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    expected = forward(state, pixels, HEADS[options.size])
    with tempfile.TemporaryDirectory() as folder:
        native = Path(folder, "hibou.pth")
        torch.save(state, native)
        report("native state dict", str(native), pixels, expected)
        native.unlink()
        config = {**CONFIG, "num_attention_heads": HEADS[options.size], "hidden_size": SIZES[options.size]["hidden"]}
        config["num_hidden_layers"] = SIZES[options.size]["layers"]
        source = save_folder(Path(folder, "hibou"), in_transformers_4_names(state), config)
        report("Transformers folder", source, pixels, expected)


def report(name: str, source: str, pixels: torch.Tensor, expected: torch.Tensor) -> None:
    """Load a backbone and print how far it is from the expected tokens, `(N, 261, hidden)` in float64."""
    start = time.perf_counter()
    backbone = load_backbone(source)
    seconds = time.perf_counter() - start
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    print(f"{name}: {parameters:,} parameters in {seconds:.1f} s, values of standard deviation {expected.std():.2g}")
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            output = backbone.to(dtype)(pixels.to(dtype))
        tokens = (output.last_hidden_state.double() - expected).abs().max()
        embedding = (output.pooler_output.double() - expected[:, 0]).abs().max()
        print(f"  {dtype}: largest difference of a token {tokens:.2g}, of the embedding {embedding:.2g}")


if __name__ == "__main__":
    main()
