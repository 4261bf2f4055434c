"""Measure how a corpus of millions of records is built and streamed: time, size on disk and peak memory.

    python experiments/corpus_scale.py --records 2000000 --files 16 --num_proc 2

Invented T-REx records (`--layout prepared`, K-Adapter's own; `--layout raw`, documents of the raw release) are written
into a temporary folder, built with `data_builders.load("trex", ...)`, streamed once, and deleted. Peak memory is the
largest sum of the resident memory of this process and all its children, sampled ten times a second; pages that several
processes share are counted for each of them, and mapped Arrow pages count too, so it is an upper bound. Two million
records take roughly six minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from tqdm import tqdm

from kadapter.data_builders import load
from kadapter.trainers.common.entry_point import run_program

SYLLABLES = ("mi", "ra", "vo", "tarn", "stad", "hal", "den", "lind", "o", "le", "brand", "ka", "su", "ne", "ri")
ENTITY = "http://www.wikidata.org/entity/"
PROPERTY = "http://www.wikidata.org/prop/direct/"


class PeakMemory:
    """A context manager that samples the resident memory of this process and its children."""

    def __enter__(self) -> PeakMemory:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        parent = psutil.Process()
        while not self._stop.wait(0.1):
            self.bytes = max(self.bytes, sum(map(_resident, [parent, *parent.children(recursive=True)])))


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:  # it ended between being listed and being read
        return 0


def prepared(random: Random) -> dict[str, Any]:
    """Return an invented record in K-Adapter's layout: 12 to 30 words, two mentions that do not overlap."""
    tokens = ["".join(random.choices(SYLLABLES, k=random.randint(1, 3))) for _ in range(random.randint(12, 30))]
    spans = [(start, start + random.randint(0, 2)) for start in (random.randint(0, 4), random.randint(7, 9))]
    random.shuffle(spans)
    (subj_start, subj_end), (obj_start, obj_end) = spans
    subject, object_ = (f"Q{random.randint(1, 10**6)}" for _ in range(2))
    return {
        "docid": subject,
        "token": tokens,
        "relation": f"P{random.randint(1, 430)}",
        "subj_start": subj_start,
        "subj_end": subj_end,
        "obj_start": obj_start,
        "obj_end": obj_end,
        "subj_label": subject,
        "obj_label": object_,
    }


def raw(random: Random) -> dict[str, Any]:
    """Return an invented record as a document of the raw release: one sentence, one triple."""
    record, words = prepared(random), []
    for token in record["token"]:
        start = words[-1][1] + 1 if words else 0
        words.append([start, start + len(token)])
    mentions = {
        name: {
            "uri": ENTITY + record[f"{short}_label"],
            "boundaries": [words[record[f"{short}_start"]][0], words[record[f"{short}_end"]][1]],
        }
        for name, short in (("subject", "subj"), ("object", "obj"))
    }
    return {
        "docid": ENTITY + record["docid"],
        "text": " ".join(record["token"]),
        "words_boundaries": words,
        "sentences_boundaries": [[0, words[-1][1]]],
        "triples": [{"sentence_id": 0, "predicate": {"uri": PROPERTY + record["relation"]}, **mentions}],
    }


LAYOUTS: dict[str, Callable[[Random], dict[str, Any]]] = {"prepared": prepared, "raw": raw}


def write_corpus(folder: Path, records: int, files: int, layout: str) -> None:
    """Write invented records as files that hold a JSON array each."""
    with tqdm(total=records, desc="writing", unit=" records") as bar:
        for number in range(files):
            share = records // files + (number < records % files)
            with (folder / f"train-{number:02d}.json").open("w", encoding="utf-8") as handle:
                for line in _array(layout, Random(number), share):
                    handle.write(line)
                    bar.update()
                handle.write("]")


def _array(layout: str, random: Random, share: int) -> Iterator[str]:
    for index in range(share):
        yield ("," if index else "[") + json.dumps(LAYOUTS[layout](random))


def size_of(folder: Path) -> int:
    """Return the total size in bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def build(corpus: Path, cache: Path, num_proc: int) -> int:
    """Build the Arrow files and return the number of rows."""
    return load("trex", corpus, "train", cache_dir=cache, num_proc=num_proc).num_rows


def stream(corpus: Path, records: int) -> int:
    """Read the whole corpus as a stream and return the number of rows."""
    rows = load("trex", corpus, "train", streaming=True)
    return sum(1 for _ in tqdm(rows, total=records, desc="streaming", unit=" rows"))


def measured(step: Callable[[], int], folder: Path) -> dict[str, float]:
    """Run a step and return its rows, its seconds, its peak memory and the final size of its folder, both in MiB."""
    begin = time.perf_counter()
    with PeakMemory() as peak:
        rows = step()
    seconds = time.perf_counter() - begin
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "peak_memory_mib": round(peak.bytes / 2**20),
        "disk_mib": round(size_of(folder) / 2**20),
    }


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Run the measurement, print the results as a table and as JSON, and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--num_proc", type=int, default=2)
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="prepared")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="corpus_scale_") as scratch:
        corpus, cache = Path(scratch, "corpus"), Path(scratch, "cache")
        corpus.mkdir()
        write_corpus(corpus, options.records, options.files, options.layout)
        results = {
            "build": measured(lambda: build(corpus, cache, options.num_proc), cache),
            "stream": measured(lambda: stream(corpus, options.records), corpus),
        }
    columns = list(results["build"])
    print(" ".join(f"{name:>16}" for name in ["step", *columns]))
    for step, row in results.items():
        print(" ".join(f"{value:>16}" for value in [step, *row.values()]))
    print(json.dumps({**vars(options), **results}))
    return results


if __name__ == "__main__":
    run_program(main)
