"""Seconds and peak memory of loading a SPIDER data set of the size of skin: 160,000 records, 2.7 million images.

    python benchmarks/data_loading.py --folder /scratch/skin-sized

The images are hard links to a few files, so that the folder takes a few hundred megabytes of directory and metadata.
Each measurement runs in a process of its own. Peak memory counts the pages of mapped files too, as the system does.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

KEYS = [f"{row}_{column}" for row in range(5) for column in range(5)]
NEW_PER_RECORD = 17  # patches that a record does not share with the one before it
CLASSES, SLIDES = 24, 3784
LINKS = 50_000  # per file, below the 65,000 that ext4 allows


def name_of(number: int) -> str:
    return f"skin-slide-{number // 713:05d}-patch-{number:08d}.jpg"


def write_folder(folder: Path, records: int) -> None:
    (folder / "images").mkdir(parents=True)
    for number in range(records * NEW_PER_RECORD + len(KEYS) - NEW_PER_RECORD):
        path = folder / "images" / name_of(number)
        if number % LINKS == 0:
            original = path
            Image.new("RGB", (224, 224), (200, 150, number // LINKS)).save(path)
        else:
            os.link(original, path)
    with open(folder / "metadata.json", "w", encoding="utf-8") as file:
        for number in range(records):
            names = [name_of(number * NEW_PER_RECORD + i) for i in range(len(KEYS))]
            slide = number * SLIDES // records
            record = {
                "slide_id": f"slide-{slide:05d}",
                "image_name": names[12],
                "context_info": {key: name for key, name in zip(KEYS, names) if key != "2_2"},
                "class": f"Tissue class {number % CLASSES:02d}",
                "split": "test" if slide % 6 == 0 else "train",
            }
            file.write("[" if number == 0 else ",\n")
            json.dump(record, file, indent=1)
        file.write("]\n")


def measure_load(folder: Path, cache: Path, context_size: int) -> None:
    from spider_tools.data.loading import load_regions
    from spider_tools.data.settings import DataSettings

    start = time.perf_counter()
    data = load_regions(DataSettings(str(folder), cache_dir=cache, context_size=context_size))
    seconds = time.perf_counter() - start
    own, workers = (
        resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    rows = {name: len(split) for name, split in data.splits.items()}
    print(f"{seconds:7.1f} s, peak {own:.2f} GiB (a worker {workers:.2f} GiB), {rows}")


def measure_parse(folder: Path, cache: Path) -> None:
    from spider_tools.data.spider_layout import read_batches
    from spider_tools.data.tables import table_schema, write_table

    start = time.perf_counter()
    write_table(
        cache / "parsed.arrow", table_schema(5), read_batches(folder / "metadata.json", table_schema(5), False, [])
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{time.perf_counter() - start:7.1f} s, peak {peak:.2f} GiB")


def measure_import() -> None:
    import spider_tools.data  # noqa: F401

    print(f"          peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="written if absent")
    parser.add_argument("--records", type=int, default=160_000)
    parser.add_argument("--measure", choices=["import", "parse", "5", "3"], help="used by the benchmark itself")
    args = parser.parse_args()
    cache = args.folder.with_name(args.folder.name + ".cache")
    if args.measure == "import":
        measure_import()
    elif args.measure == "parse":
        measure_parse(args.folder, cache)
    elif args.measure:
        measure_load(args.folder, cache, int(args.measure))
    else:
        if not args.folder.exists():
            write_folder(args.folder, args.records)
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        size = (args.folder / "metadata.json").stat().st_size / 2**20
        print(f"{args.records} records, metadata.json of {size:.0f} MiB, {os.cpu_count()} cores", flush=True)
        steps = {
            "imports alone": "import",
            "metadata.json to Arrow": "parse",
            "first load, every header checked": "5",
            "second load": "5",
            "first load with context_size 3": "3",
        }
        for label, step in steps.items():
            print(f"{label:34}", end="", flush=True)
            subprocess.run([sys.executable, __file__, "--folder", args.folder, "--measure", step], check=True)


if __name__ == "__main__":
    main()
