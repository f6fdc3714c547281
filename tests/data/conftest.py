import pytest
from small_regions import PATCH

from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings


@pytest.fixture
def load_whole(tmp_path):
    """`load_whole(folder, **settings)`: a data set of whole regions of 12 px, all of train staying there."""

    def load(folder, **options):
        defaults = {"cache_dir": tmp_path / "cache", "patch_size": PATCH, "context_size": 3, "validation_fraction": 0}
        return load_regions(DataSettings(str(folder), **(defaults | options)))

    return load
