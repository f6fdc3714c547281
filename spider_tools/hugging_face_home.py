"""The Hugging Face home, into which Transformers copies remote code before it runs it."""

from transformers.dynamic_module_utils import HF_MODULES_CACHE

from . import remote_code

_CHOOSE = "Set HF_HOME (or HF_MODULES_CACHE) to a folder that can be written."


def require_hugging_face_home() -> None:
    """Have all remote code copied now, so that a home that cannot be written is found before the work and not after it.

    Part of the code is needed only when a model is saved. A read-only home that has all of it already will do.

    Raises:
        OSError: Code cannot be copied there.
    """
    if HF_MODULES_CACHE.startswith("~"):  # would become a folder of that name
        raise OSError(f"This account has no home folder for {HF_MODULES_CACHE}, where remote code goes. {_CHOOSE}")
    try:
        remote_code.config_class()
        remote_code.image_processor_class()
        remote_code.processor_class()
        remote_code.model_class()
    except OSError as error:
        raise OSError(f"Transformers cannot copy remote code into {HF_MODULES_CACHE} ({error}). {_CHOOSE}") from error
