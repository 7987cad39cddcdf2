"""Print the ten commonest words of this Python's own standard library, or of the .py files below a directory.

    $ python3 scoop_lite.py -n 4 examples/word_count.py
    ... self
    ... words, ... of them different, in ... files
"""
import argparse
import collections
import re
from functools import reduce
from pathlib import Path


def count_words(path):
    """Count the words of one file; bytes that are no UTF-8 separate words."""
    return collections.Counter(re.findall(r"[^\W\d_]+", path.read_text("utf-8", "replace").lower()))


def merge(left, right):
    """Add the smaller count to the larger and return that: a new Counter each time would cost most of the time."""
    small, large = sorted((left, right), key=len)
    large.update(small)
    return large


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Count the words of .py files.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path(collections.__file__).parents[1])
    parser.add_argument("--serial", action="store_true", help="count without scoop_lite: the same result")
    args = parser.parse_args()
    files = [path for path in sorted(args.directory.rglob("*.py")) if path.is_file()
             and not {"site-packages", "dist-packages"}.intersection(path.relative_to(args.directory).parts)]
    if not files:
        parser.error(f"there is no .py file below {args.directory}")
    if not args.serial:
        from scoop_lite import futures  # not at the top: --serial runs without it
    total = reduce(merge, map(count_words, files)) if args.serial else futures.mapReduce(count_words, merge, files)
    for word, count in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:10]:
        print(f"{count:8} {word}")
    print(f"{sum(total.values())} words, {len(total)} of them different, in {len(files)} files")
