"""Loading a SPIDER data set, the first time and later; and its headers judged by first bytes, beside Pillow.

The data set has the size of skin: 160,000 records with 2.7 million images. By itself this looks at the memory too:

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
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import Goal, Options, Section, alternate, seconds_of, spread

SKIN_RECORDS = 160_000
KEYS = [f"{row}_{column}" for row in range(5) for column in range(5)]
NEW_PER_RECORD = 17  # patches that a record does not share with the one before it
CLASSES, SLIDES = 24, 3784
LINKS = 50_000  # per file, below the 65,000 that ext4 allows


def measure(options: Options) -> list[Section]:
    """Headers in both ways, one process each, and loading as a whole."""
    records, rounds = (60, 1) if options.quick else (SKIN_RECORDS, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tissue"
        write_folder(folder, records)
        names = sorted(os.listdir(folder / "images"))
        return [_headers(folder / "images", names[:20_000], rounds, options), _loading(folder, len(names), options)]


def _headers(images: Path, names: list[str], rounds: int, options: Options) -> Section:
    from spider_tools.data.patches import bad_images, check_image

    def by_pillow() -> list[str]:
        return [name for name in names if check_image(images, name, 224, False)]

    ways = {"Pillow": by_pillow, "first bytes": partial(bad_images, images, 224, False, names)}
    if any(way() for way in ways.values()):
        raise RuntimeError("Good headers were called bad.")
    seconds = alternate(ways, rounds, options.device, warm_up=0)
    rows = [_row(way, times, len(names), median(seconds["Pillow"])) for way, times in seconds.items()]
    notes = f"{len(names)} JPEG headers in one process, files and folder in memory."
    goals = [Goal("first bytes, times Pillow", rows[1]["times faster"], 5)]
    return Section("Headers", notes, rows, [] if options.quick else goals)


def _loading(folder: Path, images: int, options: Options) -> Section:
    from spider_tools.data.loading import load_regions
    from spider_tools.data.settings import DataSettings

    settings = DataSettings(str(folder), cache_dir=folder.parent / "cache")
    time.sleep(0 if options.quick else 3)  # what has just been written is not taken for settled
    first = [seconds_of(lambda: load_regions(settings), options.device)]
    later = [seconds_of(lambda: load_regions(settings), options.device) for _ in range(1 if options.quick else 3)]
    rows = [_row(way, times, images, first[0]) for way, times in (("first load", first), ("later loads", later))]
    if _has_gnu_find():
        alone = [seconds_of(partial(_find, folder / "images"), options.device) for _ in later]
        rows.append(_row("GNU find alone", alone, images, first[0]))
    notes = (
        f"{images} images, hard links to few files, in memory; {os.cpu_count()} cores. The first load reads every file "
        "for the fingerprint and judges every header; later ones look at names, sizes and times, which GNU find does "
        "in one process here, without hashing them."
    )
    goals = [Goal("later loads, s", rows[1]["s"], 5, at_least=False)]
    return Section("Loading as a whole", notes, rows, [] if options.quick else goals)


def _has_gnu_find() -> bool:
    found = shutil.which("find")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
    return "GNU" in version


def _find(folder: Path) -> None:
    facts = [folder, "-printf", r"%P\0%s\0%T@\0%C@\0"]
    subprocess.run(["find", *facts], check=True, stdout=subprocess.DEVNULL)


def _row(way: str, times: list[float], images: int, reference: float) -> dict[str, Any]:
    seconds = median(times)
    return {
        "way": way,
        "s": seconds,
        "spread": f"{spread(times):.0%}",
        "us per image": seconds / images * 1e6,
        "times faster": reference / seconds,
    }


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
    parser.add_argument("--records", type=int, default=SKIN_RECORDS)
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
