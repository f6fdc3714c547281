"""Processor of SPIDER: what `AutoProcessor` gives."""

import os
from types import SimpleNamespace
from typing import Any, Optional, Union

from transformers import BatchFeature, ProcessorMixin

from .sources_spider import make_replaceable


class SpiderProcessor(ProcessorMixin):
    r"""Turns regions into the inputs of `SpiderForImageClassification`.

    Args:
        image_processor (`SpiderImageProcessor`):
            Cuts a region into patches and normalises them; its docstring lists what it takes and refuses.
    """

    attributes = ["image_processor"]
    # Transformers 4 needs the name; Transformers 5 finds it by itself and warns if it is set.
    if not hasattr(ProcessorMixin, "get_attributes"):
        image_processor_class = "AutoImageProcessor"
    _auto_class = "AutoProcessor"

    def __init__(self, image_processor: Any, **kwargs: Any) -> None:
        super().__init__(image_processor, **kwargs)
        self.auto_map = {"AutoProcessor": "processing_spider.SpiderProcessor"}

    def __call__(self, images: Any = None, return_tensors: Optional[str] = None, **kwargs: Any) -> BatchFeature:
        """Tile regions; see `SpiderImageProcessor.preprocess` for the arguments and the errors."""
        return self.image_processor(images, return_tensors=return_tensors, **kwargs)

    @property
    def tokenizer(self) -> SimpleNamespace:
        """No special tokens: `Trainer(processing_class=processor)` asks for those of a tokenizer on every processor."""
        return SimpleNamespace(eos_token_id=None, bos_token_id=None, pad_token_id=None)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns."""
        return self.image_processor.model_input_names

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The processor's own fields. The image processor has its own file, in every version of Transformers."""
        fields = super().to_dict(*args, **kwargs)
        fields.pop("image_processor", None)
        return fields

    def save_pretrained(
        self, save_directory: Union[str, os.PathLike], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write `processor_config.json`, `preprocessor_config.json` and the code of both processors.

        Transformers 4 and 5 lay these files out differently, and a folder with both layouts is read differently by
        the two, so this always writes the flat pair that both read.

        Args:
            save_directory: Folder to write to, made if absent.
            push_to_hub: Whether to upload the files afterwards, as `push_to_hub(repo_id, **kwargs)`.
            **kwargs: For the upload: `repo_id` (by default the folder's name), `token`, `private` and so on.
        """
        make_replaceable()
        files = super().save_pretrained(save_directory) + self.image_processor.save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **kwargs)
        return files
