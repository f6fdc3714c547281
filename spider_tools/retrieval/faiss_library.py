"""The library faiss, which is an extra of this package."""

import logging
from typing import Any


def load_faiss() -> Any:
    """The library, imported when an index is first needed.

    Raises:
        ValueError: It is not installed, or too old to map an index into memory.
    """
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells what it tries to load
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            'An index needs the package faiss-cpu: pip install "spider-pathology[retrieval]", or pip install '
            '"faiss-cpu>=1.11".'
        ) from error
    if not hasattr(faiss, "IO_FLAG_MMAP_IFC"):
        raise ValueError(f"An index needs faiss-cpu 1.11 or newer, got {faiss.__version__}: pip install -U faiss-cpu.")
    return faiss
