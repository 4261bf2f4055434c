"""Invented corpora for downstream tasks, adapters to put to work, and the flags of small runs."""

import json
import random
from pathlib import Path

from helpers import shake, small_adapter
from tiny_runs import relation_record, write_backbone

from kadapter import KAdapterModel

RELATIONS = ("P937", "P19", "P20")


def relation_records(number, rng):
    """Records in TACRED's layout, with an id of their own."""
    records = []
    for place in range(number):
        record = relation_record(place, rng)
        record["id"] = f"invented-{place}"
        records.append(record)
    return records


def write_json(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def write_relations(folder, train=36, validation=13, test=11):
    """A relation corpus in TACRED's layout with three splits; returns its folder."""
    rng = random.Random(1)
    for name, size in (("train", train), ("dev", validation), ("test", test)):
        write_json(folder / f"{name}.json", relation_records(size, rng))
    return folder


def write_adapters(folder, backbone, *names):
    """Artifacts of adapters with large random weights, each in a folder of its name."""
    for number, name in enumerate(names):
        model = KAdapterModel.from_backbone(str(backbone), adapters={name: small_adapter()})
        shake(model, seed=number, std=0.3).save_adapter(folder / name, name)
    return [folder / name for name in names]


def write_ground(folder):
    """A backbone, two adapters and a relation corpus, which no run may change."""
    write_backbone(folder / "backbone")
    write_adapters(folder, folder / "backbone", "fac", "lin")
    write_relations(folder / "relations")
    return folder


def flags(ground, output, *more, task="relation_classification", data="relations", adapters=("fac", "lin")):
    """The flags of one small run; adapters that lie in `ground` are named by their folders there."""
    named = [str(ground / one) if (ground / one).is_dir() else one for one in adapters]
    given = ["--task", task, "--data_dir", str(ground / data), "--backbone", str(ground / "backbone")]
    given += ["--adapters", *named, "--output_dir", str(output), "--states_dir", str(ground / "states")]
    given += ["--max_length", "40", "--report_to", "none", "--disable_tqdm", "True", "--save_strategy", "no"]
    given += ["--do_train", "--do_eval", "--learning_rate", "1e-2", "--num_train_epochs", "2", "--logging_steps", "1"]
    return [*given, *map(str, more)]


def predictions(folder, name="predictions.jsonl"):
    return [json.loads(line) for line in (Path(folder) / name).read_text(encoding="utf-8").splitlines()]


def run_of(folder):
    return json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
