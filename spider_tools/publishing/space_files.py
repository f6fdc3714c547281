"""What a Space is made of: code that is there already, and a few texts that name the model and every version."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from ..model_folder import CONFIG_FILES, code_files
from ..remote_code import REPOSITORY_ROOT

SETTINGS_NAME = "app_settings.yaml"
"""Read by app.py, see `web_app.settings`."""

# Those of pyproject.toml, and of its extra `slides`; gradio itself comes with the Space's `sdk_version`.
PACKAGES = (
    "accelerate",
    "datasets",
    "evaluate",
    "filelock",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "numpy",
    "openslide-bin",
    "openslide-python",
    "pillow",
    "pyarrow",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "scipy",
    "shapely",
    "tifffile",
    "torch",
    "tqdm",
    "transformers",
    "xxhash",
)
_PACKAGE = Path(__file__).resolve().parents[1]
_KINDS = (".css", ".j2", ".js", ".json", ".md", ".py", ".txt", ".typed")

_README = """
# {title}

Names the tissue of a pathology region, and maps small slides, with the model
[{model_id}](https://huggingface.co/{model_id}). For research only: not a medical device, and not for diagnosis.

The page is `app.py` of SPIDER, with the package `spider_tools` beside it. `app_settings.yaml` names the model and its
commit. A private model is read with the Space's secret `HF_TOKEN`. The weights are under the licence of the model.
"""


def code_of_space() -> dict[str, Path]:
    """app.py, this package, and the model files that it needs, by their names in the Space.

    A Space installs its requirements before its files are there, so that a wheel among them would come too late: the
    package lies beside app.py.
    """
    files = {
        f"spider_tools/{path.relative_to(_PACKAGE).as_posix()}": path
        for path in sorted(_PACKAGE.rglob("*"))
        if path.suffix in _KINDS and path.is_file() and not _is_left_out(path.relative_to(_PACKAGE))
    }
    for name in (*code_files(REPOSITORY_ROOT), *CONFIG_FILES):
        files[f"spider_tools/repository/{name}"] = REPOSITORY_ROOT / name
    return {"app.py": REPOSITORY_ROOT / "app.py", **files}


def folder_of(name: str, path: Path) -> Path:
    """The folder that a file of `code_of_space` must not lead out of."""
    return path.parents[name.count("/") - 1] if path.is_relative_to(_PACKAGE) else REPOSITORY_ROOT


def _is_left_out(place: Path) -> bool:
    """Whether it is hidden, or one of the root's files, which a wheel holds in the package too."""
    return place.parts[0] == "repository" or any(part.startswith(".") for part in place.parts)


def texts_of_space(model_id: str, commit: str) -> dict[str, str]:
    """README.md, requirements.txt and `SETTINGS_NAME`, with the versions that are installed here.

    Args:
        model_id: `"org/name"`.
        commit: Of the model.

    Raises:
        ValueError: A package is not installed, or the versions here do not go together.
    """
    installed = {name: _installed(name) for name in (*PACKAGES, "gradio")}
    if int(installed["transformers"].split(".")[0]) < 5:
        raise ValueError(
            f"A Space needs Transformers 5, got {installed['transformers']}: gradio does not go with version 4."
        )
    title = f"{model_id.split('/')[-1]}: what tissue is this?"
    matter = {
        "title": title,
        "emoji": "\N{MICROSCOPE}",
        "colorFrom": "green",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": installed.pop("gradio"),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "pinned": False,
        "license": "apache-2.0",
        "models": [model_id],
        "tags": ["pathology", "histology", "whole-slide-imaging", "spider"],
        "short_description": "Names the tissue of pathology regions and slides",
    }
    head = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    # Another machine than this one listens, and the Hub asks on this port.
    values = {"model": model_id, "revision": commit, "host": "0.0.0.0", "port": 7860}
    return {
        "README.md": f"---\n{head}---\n{_README.format(title=title, model_id=model_id)}",
        "requirements.txt": "".join(f"{name}=={number}\n" for name, number in installed.items()),
        SETTINGS_NAME: yaml.safe_dump(values, sort_keys=False),
    }


def _installed(name: str) -> str:
    """The version of a package, without what only this machine's build of it is called."""
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError as error:
        extra = "app" if name == "gradio" else "slides"
        raise ValueError(
            f'A Space is made of the versions that are installed, and {name} is not: pip install "spider-pathology'
            f'[{extra}]".'
        ) from error
