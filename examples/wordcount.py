"""Count the words of files with several workers: python examples/wordcount.py -n 4 README.md docs/*.md"""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Iterator
from pathlib import Path

import execgw

BLOCK = 1 << 20  # bytes; a larger file goes to several workers, in blocks


def count(channel: execgw.Channel) -> None:
    """Runs in a worker, without this file around it: blocks of text come, the counts of their words go back."""
    import collections
    import re

    for block in channel:
        words = re.findall(r"[^\W\d_]+", block.decode("utf-8", "replace").lower())
        channel.send((len(block), dict(collections.Counter(words))))


def blocks(files: list[Path]) -> Iterator[bytes]:
    """The bytes of all files in blocks that end where a line ends, unless it is longer than a block itself."""
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block + file.readline(BLOCK)


def show(progress: str, last: bool = False) -> None:
    """Only a terminal can show the same line again and again; elsewhere the last one is enough."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="\n" if last else "", file=sys.stderr, flush=True)
    elif last:
        print(progress, file=sys.stderr)


def count_words(files: list[Path], workers: int) -> collections.Counter[str]:
    """The words of all files.  A worker gets its next block when it has answered for one: the fast ones get more."""
    words: collections.Counter[str] = collections.Counter()
    done, total = 0, sum(path.stat().st_size for path in files)
    work = blocks(files)
    with execgw.Group() as group:
        group.makegateways(["popen"] * workers)  # they start at the same time
        channels = group.remote_exec(count)
        answers = channels.make_receive_queue(endmarker=None)
        free = [*channels, *channels]  # two blocks each, so that none waits while its answer travels
        waiting = 0
        while True:
            while free and (block := next(work, None)) is not None:
                free.pop().send(block)
                waiting += 1
            show(f"{done:,} of {total:,} bytes, {workers} workers", last=not waiting)
            if not waiting:
                return words
            channel, answer = answers.get()
            if answer is None:
                channel.waitclose()  # it has ended, and this raises why
            size, found = answer
            done, waiting = done + size, waiting - 1
            words.update(found)
            free.append(channel)


def main() -> None:
    """Read the command line, count, print the table."""
    parser = argparse.ArgumentParser(description="Count the words of files with several local workers.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("-n", "--workers", type=int, default=2, metavar="N", help="processes that count (default: 2)")
    parser.add_argument("-t", "--top", type=int, default=10, metavar="ROWS", help="rows of the table (default: 10)")
    args = parser.parse_args()
    if args.workers < 1:
        parser.error("-n must be at least 1")
    missing = [str(path) for path in args.files if not path.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    words = count_words(args.files, args.workers)
    width = max([len(word) for word, _ in words.most_common(args.top)], default=4)
    print(f"{'word':{width}}  {'count':>8}")
    for word, number in words.most_common(args.top):
        print(f"{word:{width}}  {number:8,}")
    print(f"{words.total():,} words, {len(words):,} different, in {len(args.files)} files")


if __name__ == "__main__":
    main()
