"""Weights come from a model's own folder: an index that names files elsewhere is refused before any is opened."""

import json
import os
import shutil

import pytest
import torch
from huggingface_hub import constants

INDEX = "model.safetensors.index.json"
COMMIT = "ab" * 20


@pytest.fixture
def shards(model, processor, tmp_path):
    """A folder whose weights lie in several files, with one of them beside it, outside, too."""
    folder = tmp_path / "outer" / "model"
    model.save_pretrained(folder, max_shard_size="20KB")
    processor.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def first_of(folder, index=INDEX):
    return sorted(json.loads((folder / index).read_text())["weight_map"].values())[0]


def lead_out(folder, name, index=INDEX):
    """Have an index name another file instead of its first one."""
    content = json.loads((folder / index).read_text())
    first = first_of(folder, index)
    content["weight_map"] = {k: name if file == first else file for k, file in content["weight_map"].items()}
    (folder / index).write_text(json.dumps(content))


def same_weights(one, two):
    return all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())


def ways_out(folder):
    """Names of the same file, copied to a place outside of its folder."""
    first = first_of(folder)
    outside = shutil.copy(folder / first, folder.parent / "outside.safetensors")
    return ["../outside.safetensors", str(outside), f"../{folder.name}/{first}", f"{first}/../{first}"]


@pytest.mark.parametrize("way", range(4))
def test_an_index_that_names_a_file_elsewhere_is_refused_in_words(shards, load_model, model, way):
    name = ways_out(shards)[way]
    lead_out(shards, name)
    for load in (load_model, type(model).from_pretrained):
        with pytest.raises(
            ValueError, match=rf"{INDEX} of .*model names '.*\.safetensors' as a file of weights, which"
        ):
            load(shards)


@pytest.mark.parametrize(
    "name", ["..\\outside.safetensors", "C:\\outside.safetensors", "\\\\host\\x", 7, None, "a/../.."]
)
def test_names_of_other_systems_and_what_is_no_name_are_refused(shards, load_model, name):
    lead_out(shards, name)
    with pytest.raises(ValueError, match=r"names .* as a file of weights, which lies elsewhere"):
        load_model(shards)


def test_shards_of_ones_own_are_loaded_in_folders_too(shards, load_model, model):
    assert same_weights(load_model(shards), model)
    assert same_weights(type(model).from_pretrained(str(shards)), model)
    first = first_of(shards)
    (shards / "parts").mkdir()
    (shards / first).rename(shards / "parts" / first)
    lead_out(shards, f"./parts/{first}")
    assert same_weights(load_model(shards), model)


def test_a_whole_file_beside_a_bad_index_does_not_hide_it(model_folder, shards, load_model):
    lead_out(shards, "../outside.safetensors")
    shutil.copy(model_folder / "model.safetensors", shards)
    with pytest.raises(ValueError, match="lies elsewhere"):
        load_model(shards)


def test_a_variant_and_a_subfolder_have_indexes_of_their_own(model, tmp_path):
    cls = type(model)
    model.save_pretrained(tmp_path / "sub", max_shard_size="20KB", variant="mine")
    options = {"subfolder": "sub", "variant": "mine"}
    index = "model.safetensors.index.mine.json"
    assert same_weights(cls.from_pretrained(tmp_path, **options), model)
    assert same_weights(cls.from_pretrained(tmp_path, config=model.config, **options), model)
    lead_out(tmp_path / "sub", "../outside.safetensors", index)
    with pytest.raises(ValueError, match=rf"{index} of .* names '\.\./outside"):
        cls.from_pretrained(tmp_path, **options)
    model.save_pretrained(tmp_path / "sub")
    assert same_weights(cls.from_pretrained(tmp_path, subfolder="sub"), model)  # which reads no index of the variant


@pytest.mark.parametrize("given", [False, True])
def test_a_configuration_that_names_weights_elsewhere_is_refused(shards, load_model, model, given):
    fields = json.loads((shards / "config.json").read_text())
    options = {}
    for name in ("../outside.safetensors", "/etc/outside.safetensors.index.json"):
        (shards / "config.json").write_text(json.dumps({**fields, "transformers_weights": name}))
        if given:
            options["config"] = type(model.config).from_pretrained(shards)
        with pytest.raises(ValueError, match=r"config\.json of .* names '.*outside.*' as a file of weights"):
            type(model).from_pretrained(shards, **options)
    (shards / INDEX).rename(shards / "mine.safetensors.index.json")
    (shards / "config.json").write_text(json.dumps({**fields, "transformers_weights": "mine.safetensors.index.json"}))
    assert same_weights(load_model(shards), model)
    lead_out(shards, "../outside.safetensors", "mine.safetensors.index.json")
    with pytest.raises(ValueError, match=r"mine\.safetensors\.index\.json of .* names '\.\./outside"):
        load_model(shards)


def test_an_index_of_pickles_counts_where_they_are_asked_for(model_folder, load_model, tmp_path, model):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "pytorch_model.bin.index.json").write_text('{"metadata": {}, "weight_map": {"a": "../outside.bin"}}')
    assert same_weights(load_model(folder), model)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin\.index\.json of .* names '\.\./outside\.bin'"):
        load_model(folder, use_safetensors=None)


def test_models_without_files_and_folders_without_an_index_are_left_to_transformers(model, tmp_path):
    cls = type(model)
    loaded = cls.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert same_weights(loaded, model)
    model.config.save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        cls.from_pretrained(tmp_path)
    for content in ("", "[]", '{"weight_map": 3}', '{"weight_map"'):
        (tmp_path / INDEX).write_text(content)
        with pytest.raises(Exception) as told:  # noqa: PT011 - whatever Transformers says
            cls.from_pretrained(tmp_path)
        assert "lies elsewhere" not in str(told.value)
    with pytest.raises(OSError, match=r"neither|not a local folder|couldn't connect|offline"):
        cls.from_pretrained("lab/absent")


@pytest.fixture
def cached(shards):
    """A repository in the Hub's cache, `lab/cached`, as a download leaves it: links to files of other names."""
    repository = os.path.join(constants.HF_HUB_CACHE, "models--lab--cached")
    snapshot = os.path.join(repository, "snapshots", COMMIT)
    os.makedirs(snapshot)
    for folder in ("refs", "blobs"):
        os.makedirs(os.path.join(repository, folder))
    with open(os.path.join(repository, "refs", "main"), "w") as file:
        file.write(COMMIT)
    for number, path in enumerate(sorted(shards.iterdir())):
        shutil.copy(path, os.path.join(repository, "blobs", str(number)))
        os.symlink(f"../../blobs/{number}", os.path.join(snapshot, path.name))
    yield snapshot
    shutil.rmtree(repository)


@pytest.mark.parametrize("options", [{}, {"revision": "main"}, {"revision": COMMIT}, {"local_files_only": True}])
def test_a_model_in_the_cache_of_the_hub_is_held_to_the_same(cached, load_model, model, tmp_path, options):
    assert same_weights(load_model("lab/cached", **options), model)
    name = str(shutil.copy(os.path.join(cached, INDEX), tmp_path / INDEX))
    lead_out(tmp_path, str(shutil.copy(os.path.join(cached, first_of(tmp_path)), tmp_path / "outside.safetensors")))
    os.unlink(os.path.join(cached, INDEX))
    shutil.copy(name, os.path.join(cached, INDEX))
    for load in (load_model, type(model).from_pretrained):
        with pytest.raises(ValueError, match=rf"{INDEX} of lab/cached names '/.*outside\.safetensors'"):
            load("lab/cached", **options)
