"""Invented corpora for downstream tasks, adapters to put to work, and the flags of small runs."""

import json
import random
from pathlib import Path

from helpers import shake, small_adapter
from tiny_runs import PEOPLE, PLACES, SPECIAL, relation_record, with_special_tokens, write_backbone
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import RobertaForMaskedLM

from kadapter import KAdapterModel

SIZES = {"train": 36, "dev": 13, "test": 11}
SEMEVAL = {"P937": "Member-Collection(e1,e2)", "P19": "Entity-Origin(e1,e2)", "P20": "Other"}
TYPES = {"open_entity": ("person", "place"), "figer": ("/person", "/location"), "entity_typing": ("who", "where")}
TYPES["wiki_et"] = ("person", "location")


def tokenizer_of_pieces(pieces):
    """A byte-level BPE with exactly these pieces: each is merged from left to right."""
    tokens, merges = [*SPECIAL, *pre_tokenizers.ByteLevel.alphabet()], []
    for piece in pieces:
        for end in range(2, len(piece) + 1):
            if piece[:end] not in tokens:
                tokens.append(piece[:end])
                merges.append((piece[: end - 1], piece[end - 1]))
    vocab = {token: number for number, token in enumerate(tokens)}
    one = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return with_special_tokens(one)


def tokenizer_of_words(words):
    """An uncased WordPiece as BERT's, which drops what is no visible character; its words are these."""
    vocab = {token: number for number, token in enumerate([*SPECIAL, *words])}
    one = Tokenizer(models.WordPiece(vocab=vocab, unk_token="<unk>"))
    one.normalizer, one.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return with_special_tokens(one)


# ---- one corpus of each layout ------------------------------------------------------------------------------------


def relation(number, rng):
    return {**relation_record(number, rng), "id": f"invented-{number}"}


def fewrel(records):
    groups = {}
    for one in records:
        token, ends = one["token"], [(one[f"{side}_start"], one[f"{side}_end"]) for side in ("subj", "obj")]
        head, tail = ([" ".join(token[a : b + 1]), "", [list(range(a, b + 1))]] for a, b in ends)
        groups.setdefault(one["relation"], []).append({"tokens": token, "h": head, "t": tail})
    return groups


def semeval(records):
    lines = []
    for one in records:
        number = one["id"].removeprefix("invented-")
        token = list(one["token"])
        for side, tag in (("subj", "e1"), ("obj", "e2")):
            token[one[f"{side}_start"]] = f"<{tag}>" + token[one[f"{side}_start"]]
            token[one[f"{side}_end"]] += f"</{tag}>"
        lines += [f'{number}\t"{" ".join(token)}"', SEMEVAL[one["relation"]], "Comment:", ""]
    return "\n".join(lines) + "\n"


def typed(number, rng, types=("who", "where")):
    """A mention with its type, and sometimes with none or both."""
    who, where = rng.choice(PEOPLE), rng.choice(PLACES)
    text, person = f"In {where} lived {who} .", bool(number % 2)
    start = text.index(who if person else where, 3)
    labels = [[types[0] if person else types[1]], [], list(types)][(number % 9 == 7) + 2 * (number % 9 == 8)]
    return {"sent": text, "start": start, "end": start + len(who if person else where), "labels": labels}


def choice(number, rng):
    people = rng.sample(PEOPLE, 4)
    label = number % 4
    context = f"{people[label]} works in {rng.choice(PLACES)} , and has for long ."
    answers = {f"answer{place}": f"It was {one} ." for place, one in enumerate(people)}
    return {"id": f"q{number}", "context": context, "question": "Who works ?", **answers, "label": label}


def asked(number, rng):
    """A question and its passages in OpenQA's layout; now and then the answer stands twice or nowhere."""
    who, where, other = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(PEOPLE[:3])
    told = f"{who if number % 7 else other} lives near the river in {where} today"
    passages = [told, f"some say that {other} lived there for many years", told][: 2 + (number % 3 == 0)]
    question = f"who lives in {where}"
    documents = [{"question": question.split(), "document": one.split()} for one in passages]
    return {"question": question, "answers": [who, who.upper()]}, documents


TEMPLATES = {"P19": "Where was [X] born?", "P20": "Where did [X] die?"}


def cloze(number, rng, relation):
    """A question of EntityQuestions whose answer is one token, perhaps after one that is not."""
    answers = [rng.choice(PLACES), rng.choice(("works", "river", "home"))]
    return {"question": TEMPLATES[relation].replace("[X]", rng.choice(PEOPLE)), "answers": answers[number % 3 == 0 :]}


def write_corpus(folder, name, sizes=SIZES):
    """Write an invented corpus in a layout that the builder of that name reads; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (split, size) in enumerate(sizes.items()):
        rng = random.Random(number)
        if name in ("searchqa", "quasar_t"):
            questions, passages = zip(*(asked(one, rng) for one in range(size)), strict=True)
            write_lines(folder / f"{split}.txt", questions)
            write_lines(folder / f"{split}.json", passages)
        elif name in ("cosmosqa", "multiple_choice"):
            write_lines(folder / f"{split}.jsonl", [choice(one, rng) for one in range(size)])
        elif name == "entity_questions":
            write_json(folder / "relation_query_templates.json", TEMPLATES)
            for pid in TEMPLATES:
                write_json(folder / f"{pid}.{split}.json", [cloze(one, rng, pid) for one in range(size)])
        elif name in TYPES:
            write_json(folder / f"{split}.json", [typed(one, rng, TYPES[name]) for one in range(size)])
        else:
            records = [relation(1000 * number + one, rng) for one in range(size)]
            write_relations(folder, name, split, records)
    return folder


def write_relations(folder, name, split, records):
    if name == "semeval2010_task8":  # one file, which is split by hash
        with (folder / "TRAIN_FILE.TXT").open("a", encoding="utf-8") as file:
            file.write(semeval(records))
    else:
        write_json(folder / f"{split}.json", fewrel(records) if name.startswith("fewrel") else records)


def write_json(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


# ---- runs ---------------------------------------------------------------------------------------------------------


def write_adapters(folder, backbone, *names):
    """Artifacts of adapters with large random weights, each in a folder of its name."""
    for number, name in enumerate(names):
        model = KAdapterModel.from_backbone(str(backbone), adapters={name: small_adapter()})
        shake(model, seed=number, std=0.3).save_adapter(folder / name, name)


def write_task_ground(folder, *corpora):
    """A backbone, two adapters and corpora, which no run may change."""
    write_backbone(folder / "backbone", model_class=RobertaForMaskedLM)  # some tasks need its LM head
    write_adapters(folder, folder / "backbone", "fac", "lin")
    for name in corpora:
        write_corpus(folder / name, name)
    return folder


def task_flags(ground, output, *more, task="relation_classification", adapters=("fac", "lin")):
    """The flags of one small run; adapters that lie in `ground` are named by their folders there."""
    named = [str(ground / one) if (ground / one).is_dir() else one for one in adapters]
    given = ["--task", task, "--data_dir", str(ground / task), "--backbone", str(ground / "backbone")]
    given += ["--adapters", *named, "--output_dir", str(output), "--states_dir", str(ground / "states")]
    given += ["--max_length", "40", "--report_to", "none", "--disable_tqdm", "True", "--save_strategy", "no"]
    given += ["--do_train", "--do_eval", "--learning_rate", "1e-2", "--num_train_epochs", "2", "--logging_steps", "1"]
    given += ["--bf16", "False"]  # whatever this machine is faster in, since bits are compared
    return [*given, *map(str, more)]


def predictions(folder, name="predictions.jsonl"):
    return [json.loads(line) for line in (Path(folder) / name).read_text(encoding="utf-8").splitlines()]


def run_of(folder):
    return json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
