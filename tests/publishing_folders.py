"""What tests of publishing share: accounts, model folders, and looks at what arrived on the Hub."""

import numpy as np
from hub_client import WRITER

from spider_tools import remote_code
from spider_tools.evaluation.predictions import Predictions
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.results import ReportContext
from spider_tools.model_folder import save_model_folder
from spider_tools.publishing.checks import model_files
from spider_tools.publishing.model_card import write_model_card
from spider_tools.publishing.settings import PublishSettings

ROOT = remote_code.REPOSITORY_ROOT
REPO = "lab/spider-skin"
SETTINGS = PublishSettings(token=WRITER)
MODEL_FILES = [
    "backbone_spider.py",
    "certainty_spider.py",
    "checks_spider.py",
    "config.json",
    "configuration_spider.py",
    "head_spider.py",
    "image_processor_spider.py",
    "images_spider.py",
    "model.safetensors",
    "modeling_spider.py",
    "outputs_spider.py",
    "pixels_spider.py",
    "preprocessor_config.json",
    "processing_spider.py",
    "processor_config.json",
    "sources_spider.py",
]


def save_model(model, folder):
    model.config.training = {"dataset": "histai/SPIDER-skin", "regions": 40, "settings": {"epochs": 2}}
    save_model_folder(model, remote_code.image_processor_class()(patch_size=model.config.patch_size), folder)


def evaluate_at_random(folder, class_names):
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(len(class_names)), 50)
    labels = rng.integers(0, len(class_names), 50)
    slides = [f"slide {i % 11}" for i in range(50)]
    context = ReportContext(dataset="histai/SPIDER-skin", split="test", model="runs/first", resamples=50)
    write_report(folder, Predictions(probabilities, labels, slides, class_names), context)


def as_shards(folder, make_model):
    """Cut the weights of a folder into many files; gives their names."""
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    make_model().save_pretrained(folder, max_shard_size="8KB")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 7  # more than the client sends at once
    return shards


def with_card(folder):
    return model_files(folder) | {"README.md": write_model_card(folder)}


def names(hub, repo_id=REPO, revision="main"):
    return sorted(set(hub.files(repo_id, revision)) - {".gitattributes"})


def commits(hub, repo_id=REPO):
    return [commit.title for commit in hub.repositories[repo_id].commits.values()]
