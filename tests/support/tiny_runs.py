"""Invented corpora, a small tokenizer and a random backbone on disk, and the real commands that train on them."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = ("Mira Voss", "Halden Brek", "Ilse Tarn", "Oduya", "Nora Mebrak", "Pell Ankor", "Sirin Vale", "Jory")
PLACES = ("Tarnstad", "Bethoncourt", "Old Quarry", "Lumen Bay", "Ostrava Heights", "Kell")
FRAMES = {
    "P937": ("{} works in {} .", "{} has for many long years worked in the old town of {} ."),
    "P19": ("{} was born in {} .", "It is said that {} was born near the river in {} , far away ."),
    "P20": ("{} died in {} .", "After a short illness {} died at home in {} ."),
}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZES = ["--layers", "0", "2", "4", "--adapter_hidden_size", "12", "--adapter_num_attention_heads", "2"]
SIZES += ["--adapter_intermediate_size", "16", "--max_length", "40"]
NO_DROPOUT = ["--adapter_dropout", "0", "--classifier_dropout", "0"]
EVALUATED = ("eval_loss", "eval_uas", "eval_micro_f1", "eval_macro_f1", "eval_accuracy")
CORPORA = {"factual": "trex", "linguistic": "conllu"}
NAMES = {"factual": "fac", "linguistic": "lin", "masked_lm": "mlm"}


def tokenizer_of(texts, vocab_size=160):
    """A small byte-level tokenizer with RoBERTa's special tokens and the bare markers, trained on a few texts."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return with_special_tokens(tokenizer)


def with_special_tokens(tokenizer):
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=60, **names)


def relation_record(number, rng):
    """One record in T-REx's prepared layout."""
    relation = list(FRAMES)[number % len(FRAMES)]
    frame = FRAMES[relation][rng.random() < 0.4].split()
    token, spans = [], {}
    for word in frame:
        if word == "{}":
            side = "obj" if spans else "subj"
            name = rng.choice(PLACES if spans else PEOPLE).split()
            spans.update({f"{side}_start": len(token), f"{side}_end": len(token) + len(name) - 1})
            token += name
        else:
            token.append(word)
    return {"docid": f"Q{number}", "token": token, "relation": relation, **spans, "subj_label": "", "obj_label": ""}


def sentence(number, rng):
    """One sentence in CoNLL-U: each word hangs on the one before it or on the first."""
    words = [rng.choice(" ".join((*PEOPLE, *PLACES)).split()) for _ in range(rng.randint(3, 9))]
    heads = [0, *(rng.choice((1, n)) for n in range(1, len(words)))]
    lines = [
        f"{n}\t{word}\t_\t_\t_\t_\t{head}\tdep\t_\t_"
        for n, (word, head) in enumerate(zip(words, heads, strict=True), 1)
    ]
    return "\n".join([f"# sent_id = invented-{number}", *lines]) + "\n\n"


def write_corpora(folder, train=40, held_out=13):
    """Write a relation corpus and a treebank, and return the folder."""
    rng = random.Random(0)
    for name, size in (("train", train), ("dev", held_out)):
        (folder / "trex").mkdir(parents=True, exist_ok=True)
        (folder / "conllu").mkdir(parents=True, exist_ok=True)
        records = [relation_record(number, rng) for number in range(size)]
        (folder / "trex" / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
        trees = "".join(sentence(f"{name}-{number}", rng) for number in range(size))
        (folder / "conllu" / f"{name}.conllu").write_text(trees, encoding="utf-8")
    return folder


def write_backbone(folder, tokenizer=None, num_hidden_layers=4, longest=60, model_class=RobertaModel, **changes):
    """Save a random RoBERTa with a tokenizer of its own, and return its directory."""
    texts = [*PEOPLE, *PLACES, *(frame for frames in FRAMES.values() for frame in frames)]
    tokenizer = tokenizer or tokenizer_of([" " + text for text in texts] * 3)
    tokenizer.model_max_length = longest
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=longest + 4,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **changes,
    )
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_ground(folder):
    """Write all that runs stand on, which none of them may change: corpora and a backbone."""
    write_corpora(folder)
    write_backbone(folder / "backbone")
    return folder


def flags(ground, objective, output, *more):
    """The flags of one small run; `ground` holds `backbone` and the corpora."""
    name, corpus = NAMES[objective], CORPORA.get(objective, "trex")
    given = ["--objective", objective, "--corpus", corpus, "--data_dir", str(ground / corpus)]
    given += ["--backbone", str(ground / "backbone"), "--adapter_name", name, "--output_dir", str(output), *SIZES]
    given += ["--do_train", "--do_eval", "--logging_steps", "1", "--save_steps", "2", "--learning_rate", "1e-2"]
    given += ["--bf16", "False"]  # whatever this machine is faster in, since bits are compared
    return [*given, "--disable_tqdm", "True", "--num_train_epochs", "2", *map(str, more)]


def run_command(command, **changes):
    """Run a command to its end, with changes to the environment; a failure shows its output."""
    command = [str(part) for part in command]
    environment = {**os.environ, **changes}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name):
    """The command of an installed package, of this very environment."""
    return str(Path(sys.executable).parent / name)


def tensors(folder):
    """All tensors of an artifact."""
    return load_file(Path(folder) / "model.safetensors")


def trainable_told(printed):
    """How many parameters a run said that it trains."""
    return int(re.search(r"trainable params: ([\d,]+)", printed).group(1).replace(",", ""))


def same_tensors(one, other):
    one, other = tensors(one), tensors(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def losses(folder):
    """The logged training losses by step."""
    state = json.loads((Path(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


@contextmanager
def sentences_read():
    """Tells how many sentences backbones have read so far, batch by batch."""
    sizes = []

    def count(module, given):
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings > 100:  # that of the words
            sizes.append(len(given[0]))

    hook = register_module_forward_pre_hook(count)
    try:
        yield sizes
    finally:
        hook.remove()


def digest(folder):
    """A hash of all files of a folder."""
    total = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        total.update(path.read_bytes() if path.is_file() else path.name.encode())
    return total.hexdigest()


def results(folder):
    return json.loads((Path(folder) / "all_results.json").read_text(encoding="utf-8"))


def backbone_tensors_in(output, ground):
    """Names of the backbone's tensors whose bytes are found in a file of a run; constant ones, as zeros, aside."""
    files = [path.read_bytes() for path in Path(output).rglob("*") if path.is_file()]
    stored = {key: one for key, one in tensors(ground / "backbone").items() if one.unique().numel() > 1}
    assert len(stored) > 20 and len(files) > 10
    return [key for key, one in stored.items() if any(one.numpy().tobytes()[:64] in file for file in files)]


def results_alike(one, other):
    """Whether two runs evaluated to the same, times aside."""
    ours, theirs = ({key: value for key, value in results(run).items() if key in EVALUATED} for run in (one, other))
    return len(ours) > 1 and ours.keys() == theirs.keys() and all(abs(theirs[key] - ours[key]) < 1e-4 for key in ours)
