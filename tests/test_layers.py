"""The house keeps its layers: no import runs upwards, no room and no module needs itself in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from tiny_spider import ROOT

PACKAGE = ROOT / "spider_tools"
# From the ground up. Modules at the top level of the package are the ground.
LAYERS = (
    ("",),
    ("data", "annotations", "slide_files"),
    ("embeddings", "weights", "slide_sources", "tissue"),
    ("training", "evaluation", "slides", "publishing", "export"),
    ("demo", "building", "retrieval", "calibration", "cohorts", "web_app"),
    ("train", "evaluate", "segment_slide", "build_dataset", "app"),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
REMOTE_FILES = sorted(["handler", *(path.stem for path in ROOT.glob("*_spider.py"))])


def imports_of(path):
    """Absolute names of what a file imports, but for annotations alone."""
    package = ("spider_tools", *path.relative_to(PACKAGE).parts[:-1]) if PACKAGE in path.parents else ()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_annotations = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_annotations:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                whole = [*base, alias.name]
                is_module = (ROOT.joinpath(*whole).with_suffix(".py")).is_file()
                yield ".".join(whole if is_module else base)


def own_imports(path):
    return {name for name in imports_of(path) if name.startswith("spider_tools.")}


def room_of(module):
    parts = module.removeprefix("spider_tools.").split(".")
    return parts[0] if len(parts) > 1 or parts[0] in LEVEL else ""


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): own_imports(path) for path in sorted(PACKAGE.rglob("*.py"))}


def test_every_room_has_a_layer_and_says_what_it_holds():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(LEVEL) - {"", *LAYERS[-1]}
    for room in rooms:
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
        assert len(ast.get_docstring(tree)) > 200, room
        assert len(tree.body) == 1, room


def test_no_import_runs_upwards():
    upwards = [
        f"{module} -> {imported}"
        for module, imports in MODULES.items()
        for imported in imports
        if module != "spider_tools" and LEVEL[room_of(imported)] > LEVEL[room_of(module)]
    ]
    assert upwards == []


@pytest.mark.parametrize("name", LAYERS[-1])
def test_nothing_imports_a_script_and_scripts_hold_no_logic(name):
    assert not any(name in imports for imports in MODULES.values())
    assert len((ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60


def test_modules_and_rooms_form_no_circle():
    rooms = {}
    for module, imports in MODULES.items():
        if room_of(module):
            rooms.setdefault(room_of(module), set()).update({room_of(name) for name in imports} - {room_of(module), ""})
    for graph in (MODULES, rooms):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(" -> ".join(error.args[1]))


def test_no_private_name_crosses_a_file():
    crossing = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("spider_tools")):
                crossing += [
                    f"{path.name}: {a.name}" for a in node.names if a.name.startswith("_") and a.name[1] != "_"
                ]
    assert crossing == []


@pytest.mark.parametrize("name", REMOTE_FILES)
def test_the_model_files_know_nothing_of_the_package(name):
    imported = {module.split(".")[0] for module in imports_of(ROOT / f"{name}.py")}
    assert "spider_tools" not in imported


def test_a_look_upwards_would_be_seen(tmp_path, monkeypatch):
    """The rules above can fail: a made-up module of data that imports training breaks them."""
    path = PACKAGE / "data" / "made_up.py"
    monkeypatch.setattr(
        type(path), "read_text", lambda self, **_: "from ..training.run import train\nfrom .. import flags\n"
    )
    assert own_imports(path) == {"spider_tools.training.run", "spider_tools.flags"}
    assert LEVEL[room_of("spider_tools.training.run")] > LEVEL[room_of("spider_tools.data.made_up")]


def test_no_file_has_outgrown_its_idea():
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("spider_tools", "tests", "benchmarks", ".")
        for path in (ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > (300 if folder == "spider_tools" else 400)
    }
    assert long == {}


@pytest.mark.parametrize("room", ["annotations", "building", "data"])
def test_what_is_tested_on_one_version_of_transformers_needs_none(room):
    """`make test` leaves these rooms out on Transformers 4."""
    for path in (PACKAGE / room).glob("*.py"):
        assert not any(name.split(".")[0] == "transformers" for name in imports_of(path)), path
