"""Folders with a SPIDER model: loaded whole or not at all, and new ones without weights."""

import json

import pytest
import torch
from independent_dinov2 import in_transformers_4_names
from safetensors.torch import load_file, save_file
from small_backbones import native, write_folder

from spider_tools import paper_results, remote_code
from spider_tools.output_folder import only_run_in
from spider_tools.weights import repositories
from spider_tools.weights.__main__ import main, parse_args
from spider_tools.weights.loading import load_spider


def test_a_model_of_this_project_is_loaded_whole(model_folder, make_model):
    loaded = load_spider(str(model_folder))
    expected = make_model().state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_model_with_missing_or_other_weights_is_refused(tmp_path, model_folder):
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["extra.weight"] = weights.pop("projection.weight")
    weights["classifier.bias"] = torch.zeros(9)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: projection.weight; unused: extra.weight; mis-shaped: .*classifier"):
        load_spider(str(tmp_path))


def test_a_published_checkpoint_has_to_be_imported_first(tmp_path):
    folder = write_folder(tmp_path / "skin", in_transformers_4_names(native()), {"class_names": ["Fat", "Nerves"]})
    with pytest.raises(ValueError, match=r"no SPIDER model of this project.*weights import-spider SOURCE OUT"):
        load_spider(folder)


@pytest.mark.parametrize("organ", ["skin", "colorectal", "thorax", "breast"])
def test_new_writes_a_repository_without_weights(tmp_path, capsys, organ):
    main(parse_args(["new", "--organ", organ, str(tmp_path / organ)]))
    assert f"Configurations of the {organ} model" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / organ).iterdir()}
    code = {path.name for path in remote_code.REPOSITORY_ROOT.glob("*_spider.py")}
    assert names == code | {"config.json", "preprocessor_config.json", "processor_config.json"}
    config = json.loads((tmp_path / organ / "config.json").read_text())
    assert config["class_names"] == paper_results.class_names(organ)
    assert config["architectures"] == ["SpiderForImageClassification"]


def test_new_writes_for_colorectal_what_this_repository_itself_publishes(tmp_path):
    main(parse_args(["new", "--organ", "colorectal", str(tmp_path / "new")]))
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        written, own = (
            json.loads((folder / name).read_text()) for folder in (tmp_path / "new", remote_code.REPOSITORY_ROOT)
        )
        for version in ("transformers_version", "spider_tools_version"):
            written.pop(version, None)
        assert written == own, name


def test_new_refuses_a_folder_with_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"must be a new or empty folder"):
        main(parse_args(["new", "--organ", "skin", str(tmp_path)]))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("words", [["new", "--organ", "skin"], ["import-spider", "no/such/model"]])
@pytest.mark.parametrize("place", ["notes.txt/out", "/proc/no_such_folder/out"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, words, place):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match=r"OUT .* cannot be written"):
        main(parse_args([*words, str(tmp_path / place)]))


def test_of_two_models_for_one_new_folder_the_second_is_refused(tmp_path):
    words = ["new", "--organ", "skin", str(tmp_path / "new")]
    with only_run_in(tmp_path / "new"), pytest.raises(OSError, match="new is being written by another run"):
        main(parse_args(words))
    main(parse_args(words))  # what is left of a lock does not fill a folder
    assert not (tmp_path / "new" / ".lock").exists()


def test_a_folder_that_another_run_filled_meanwhile_is_left_to_it(tmp_path, monkeypatch):
    def look(folder, setting):
        folder.mkdir()
        (folder / "theirs.txt").write_text("theirs")

    monkeypatch.setattr(repositories, "require_writable", look)
    with pytest.raises(FileExistsError, match="must be a new or empty folder"):
        main(parse_args(["new", "--organ", "skin", str(tmp_path / "new")]))
    assert {path.name for path in (tmp_path / "new").iterdir()} <= {"theirs.txt", ".lock"}
