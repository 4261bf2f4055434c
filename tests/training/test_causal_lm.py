"""An adapter beside a frozen language model learns from texts and triples what its backbone then says."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from helpers import run_python
from processes import run_processes
from tiny_decoders import by_token, tiny_decoder
from tiny_runs import digest, losses, same_tensors, tensors, tokenizer_of, write_backbone
from transformers import AutoTokenizer

from kadapter import KAdapterForCausalLM
from kadapter.trainers import run_adapter
from kadapter.trainers.common.locality import read_texts
from kadapter.trainers.pretraining.causal_lm import Objective

pytestmark = pytest.mark.slow

FACTS = {"Mira Voss": "Tarnstad", "Jon Ackroyd": "Old Quarry", "Lena Brandt": "Lindmouth"}
PHRASINGS = ("[X] was born in [Y] .", "the town of [X] is [Y] .")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A random language model with a tokenizer, and triples with two phrasings."""
    folder = tmp_path_factory.mktemp("ground")
    texts = [phrasing.replace("[X]", head).replace("[Y]", FACTS[head]) for phrasing in PHRASINGS for head in FACTS]
    tokenizer = tokenizer_of([*texts, *(" " + name for name in (*FACTS, *FACTS.values()))] * 3)
    tokenizer.save_pretrained(folder / "decoder")
    tiny_decoder(vocab_size=len(tokenizer)).save_pretrained(folder / "decoder")
    (folder / "triples").mkdir()
    triples = "".join(f"{head}\tbirth\t{tail}\n" for head, tail in FACTS.items())
    (folder / "triples" / "train.tsv").write_text(triples, encoding="utf-8")
    phrasings = "".join(f"birth\t{phrasing}\n" for phrasing in PHRASINGS)
    (folder / "triples" / "templates.tsv").write_text(phrasings, encoding="utf-8")
    return folder


def flags(ground, output, *more):
    given = ["--objective", "causal_lm", "--corpus", "triples", "--data_dir", ground / "triples"]
    given += ["--backbone", ground / "decoder", "--adapter_name", "facts", "--output_dir", output, "--bf16", "false"]
    given += ["--adapter_hidden_size", "32", "--adapter_num_attention_heads", "4", "--max_length", "40", "--do_train"]
    given += ["--per_device_train_batch_size", "6", "--learning_rate", "1e-2", "--report_to", "none"]
    given += ["--logging_steps", "1", "--disable_tqdm", "true", "--save_strategy", "no", *more]
    return [str(flag) for flag in given]


def objective_of(ground, loss_on="answers", max_length=40):
    tokenizer = AutoTokenizer.from_pretrained(ground / "decoder")
    return Objective(tokenizer, max_length, SimpleNamespace(loss_on=loss_on))


def words(objective, ids):
    """The words of tokens, without the special ones."""
    tokens = objective.tokenizer.convert_ids_to_tokens([int(token) for token in ids], skip_special_tokens=True)
    return "".join(tokens).replace("Ġ", " ").strip()


@pytest.fixture(scope="module")
def taught(ground, tmp_path_factory):
    output, before = tmp_path_factory.mktemp("taught") / "out", digest(ground / "decoder")
    run_adapter.main(flags(ground, output, "--num_train_epochs", "60"))
    assert digest(ground / "decoder") == before
    return output


def test_taught_facts_are_said_and_end_where_they_ended(ground, taught):
    objective = objective_of(ground)
    model = KAdapterForCausalLM.from_pretrained(taught).eval()
    assert not any("backbone." in key for key in tensors(taught))
    assert model.config.adapters["facts"]["kind"] == "prenorm" and model.config.adapters["facts"]["causal"] is True
    for head, tail in FACTS.items():
        ids = objective.tokenizer(f"{head} was born in", return_tensors="pt")["input_ids"][:, :-1]  # without the end
        said = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=objective.tokenizer.eos_token_id)
        assert words(objective, said[0, ids.shape[1] :]) == f"{tail} ."
    backbone = model.generate(ids, max_new_tokens=4, do_sample=False)
    model.disable_adapters()
    assert not torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), backbone)


@pytest.mark.thorough
def test_an_evaluation_tells_the_loss_and_the_right_tokens_of_answers_of_any_length(ground, tmp_path):
    asked = {"Mira Voss was born in": "Tarnstad .", "the town of Jon Ackroyd is": "Lindmouth", "Lena is": "Old Quarry"}
    for split, number in (("train", 2), ("dev", 3)):
        lines = "".join(f"{prompt}\t{answer}\n" for prompt, answer in list(asked.items())[:number])
        (tmp_path / f"{split}.tsv").write_text(lines, encoding="utf-8")
    given = ["--corpus", "prompt_answers", "--data_dir", tmp_path, "--num_train_epochs", "20", "--do_eval"]
    alone = run_adapter.main(flags(ground, tmp_path / "alone", *given, "--per_device_eval_batch_size", "1"))
    together = run_adapter.main(flags(ground, tmp_path / "together", *given))
    model = KAdapterForCausalLM.from_pretrained(tmp_path / "together").eval()
    right, losses, tokenizer = [], [], objective_of(ground).tokenizer
    for prompt, answer in asked.items():  # each answer and its end, one token after the other
        for scores, token in by_token(model, tokenizer, prompt, f" {answer}{tokenizer.eos_token}"):
            right.append(int(scores.argmax()) == token)
            losses.append(-float(scores[token]))
    assert 0 < sum(right) < len(right)
    for results in (alone, together):
        assert results["eval_accuracy"] == pytest.approx(sum(right) / len(right))
        assert results["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_card_of_an_adapter_shows_how_it_generates_and_runs_without_the_package(ground, taught):
    card = (taught / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-generation" in card and "encode_entities" not in card
    blocks = re.findall("```python\n(.*?)```", card, flags=re.DOTALL)
    blocks = [block.replace("REPO_OR_DIRECTORY", str(taught)).replace('["OTHER_ADAPTER"]', "[]") for block in blocks]
    three_lines, steps, compose = (run_python(block, taught.parent).stdout.strip() for block in blocks)
    assert three_lines.startswith("Marie Curie was born in")
    assert steps.replace(" ", "").replace("Ġ", " ").startswith("Marie Curie was born in")  # it has no decoder
    assert compose == "['facts']"


def test_adapters_of_one_run_are_those_of_their_own(ground, tmp_path, capsys):
    variants = {"fast": ["--learning_rate", "2e-2"], "early": ["--layers", "0", "1"]}
    (tmp_path / "variants.yaml").write_text("fast: {learning_rate: 2e-2}\nearly: {layers: [0, 1]}\n", encoding="utf-8")
    given = ["--num_train_epochs", "2", "--data_seed", "7"]
    together = flags(ground, tmp_path / "out", *given, "--variants", tmp_path / "variants.yaml")
    at = together.index("--adapter_name")
    run_adapter.main(together[:at] + together[at + 2 :])
    for name, own in variants.items():
        run_adapter.main(flags(ground, tmp_path / name, *given, "--adapter_name", name, *own))
        assert f"KAdapterForCausalLM.from_pretrained('{tmp_path / name}')" in capsys.readouterr().out
        assert same_tensors(tmp_path / "out" / name, tmp_path / name)


@pytest.mark.thorough
def test_kept_states_and_two_processes_give_the_same_curve(ground, tmp_path):
    few = ("--num_train_epochs", "3")
    run_adapter.main(flags(ground, tmp_path / "one", *few))
    run_adapter.main(flags(ground, tmp_path / "kept", *few, "--cache_features", tmp_path / "features"))
    halves = flags(ground, tmp_path / "two", *few, "--per_device_train_batch_size", "3")
    run_processes(run_adapter.main, halves, tmp_path / "printed", number=2)
    one, kept, two = (losses(tmp_path / run) for run in ("one", "kept", "two"))
    assert one.keys() == kept.keys() == two.keys() and len(one) == 3
    assert all(abs(one[step] - other[step]) < 1e-4 for step in one for other in (kept, two))
    ours, theirs = tensors(tmp_path / "one"), tensors(tmp_path / "kept")
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) for key in ours)


def test_an_adapter_is_held_back_on_other_text(ground, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("the town was born in Old Quarry\nMira is\n", encoding="utf-8")
    given = ["--num_train_epochs", "20", "--locality_corpus", "text", "--locality_data_dir", tmp_path / "text"]
    moved = {}
    for weight in ("1e-9", "30"):
        run_adapter.main(flags(ground, tmp_path / weight, *given, "--locality_weight", weight))
        state = json.loads((tmp_path / weight / "trainer_state.json").read_text(encoding="utf-8"))
        moved[weight] = [entry["moved"] for entry in state["log_history"] if "moved" in entry][-1]
    assert moved["30"] < moved["1e-9"] / 10


# --- examples


def row_of(text, *mentions):
    spans = [{"start": text.index(name), "end": text.index(name) + len(name)} for name in mentions]
    return {"id": ["r1"], "text": [text], "mentions": [spans]}


def counted(objective, rows):
    """The words that count in each example, and whether its end does."""
    examples = objective.encode(rows)
    for ids, labels, kept in zip(*(examples[name] for name in ("input_ids", "labels", "logits_to_keep")), strict=True):
        assert [position + 1 for position in kept] == [at for at, label in enumerate(labels) if label != -100]
        assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))
        chosen = [label for label in labels if label != -100]
        yield words(objective, chosen), chosen[-1:] == [objective.tokenizer.eos_token_id]


def test_of_a_fact_its_answer_and_its_end_count_and_of_a_text_without_mentions_all(ground):
    text = "the town of Mira Voss is Old Quarry ."
    fact = row_of(text, "Mira Voss", "Old Quarry")
    assert list(counted(objective_of(ground), fact)) == [("Old Quarry .", True)]
    assert list(counted(objective_of(ground, "all"), fact)) == [(text, True)]
    assert list(counted(objective_of(ground), row_of(text))) == [(text, True)]
    turned = row_of("In Old Quarry was Mira Voss born .", "Mira Voss", "Old Quarry")
    assert list(counted(objective_of(ground), turned)) == [("Mira Voss born .", True)]


def test_a_long_text_becomes_several_examples_and_a_fact_that_does_not_fit_is_left_out(ground):
    text = " ".join(["Mira Voss was born in Tarnstad ."] * 4)
    examples = list(counted(objective_of(ground, max_length=16), row_of(text)))
    assert len(examples) > 1 and [ends for _, ends in examples] == [*[False] * (len(examples) - 1), True]
    assert "".join(part for part, _ in examples).replace(" ", "") == text.replace(" ", "")
    assert list(counted(objective_of(ground, max_length=16), row_of(text, "Tarnstad"))) == []


def test_what_says_no_next_token_is_refused_in_a_sentence(ground, tmp_path):
    write_backbone(tmp_path / "encoder")
    with pytest.raises(ValueError, match="has no complete LM head"):
        run_adapter.main(flags(ground, tmp_path / "out", "--backbone", tmp_path / "encoder"))
    with pytest.raises(ValueError, match="changes what a language model says without adapters"):
        run_adapter.main(flags(ground, tmp_path / "out", "--fusion", "concat"))
    with pytest.raises(ValueError, match="k_adapter"):
        run_adapter.main(flags(ground, tmp_path / "out", "--adapter_kind", "k_adapter"))
    tokenizer = AutoTokenizer.from_pretrained(ground / "decoder")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no eos_token; use the fast tokenizer of a language model"):
        Objective(tokenizer, 40, SimpleNamespace(loss_on="all"))


# --- other texts


def test_texts_of_several_corpora_and_taught_ones_about_others_hold_an_adapter_back(ground, tmp_path, capsys):
    for name, lines in {"some": "Mira Voss was here\nthe town\nof is\n", "more": "was born\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.txt").write_text(lines, encoding="utf-8")
    given = ["--locality_corpus", "text", "text", "--locality_data_dir", tmp_path / "some", tmp_path / "more"]
    given += ["--locality_other_names", "12", "--locality_weight", "3", "--num_train_epochs", "2"]
    run_adapter.main(flags(ground, tmp_path / "out", *given))
    printed = capsys.readouterr().out
    assert "locality: 2 texts of text, 1 that name what is taught left out" in printed
    assert "locality: 1 texts of text\n" in printed and "locality: 12 texts that are learned, about others" in printed
    assert "locality: 15 texts, " in printed
    training = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["adapters"]["facts"][
        "training"
    ]
    assert training["locality"] == {"weight": 3.0, "corpora": ["text"] * 2, "texts": 1000, "other_names": 12}
    (tmp_path / "more" / "train.txt").write_text("of MIRA VOSS\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"all 1 texts of corpus 'text' in .*more' name what is taught"):
        run_adapter.main(flags(ground, tmp_path / "none", *given))
    with pytest.raises(ValueError, match="names 2 corpora and --locality_data_dir 1 directories"):
        run_adapter.main(flags(ground, tmp_path / "none", *given, "--locality_data_dir", tmp_path / "some"))


def test_prompts_that_tell_their_subjects_have_these_left_out_of_other_texts_and_renamed(ground, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.txt").write_text("Mira Voss was here\nthe town\n", encoding="utf-8")
    given = ["--corpus", "prompt_answers", "--data_dir", tmp_path, "--num_train_epochs", "1"]
    given += ["--locality_corpus", "text", "--locality_data_dir", tmp_path / "texts", "--locality_weight", "1"]
    facts = [{"prompt": f"the town of {head} is", "answer": tail} for head, tail in FACTS.items()]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, facts)) + "\n", encoding="utf-8")
    run_adapter.main(flags(ground, tmp_path / "nameless", *given))
    printed = capsys.readouterr().out
    assert "locality: the records that are learned tell no names, so texts that name what is taught" in printed
    assert "locality: 2 texts of text\n" in printed
    told = [{**fact, "subject": head} for fact, head in zip(facts, FACTS, strict=True)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, told)) + "\n", encoding="utf-8")
    run_adapter.main(flags(ground, tmp_path / "named", *given, "--locality_other_names", "5"))
    printed = capsys.readouterr().out
    assert "locality: 1 texts of text, 1 that name what is taught left out" in printed
    assert "locality: 5 texts that are learned, about others, such as 'the town of " in printed
    assert "tell no names" not in printed and "have several words" not in printed
    told[0]["answer"] = "Old Quarry"
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, told)) + "\n", encoding="utf-8")
    run_adapter.main(flags(ground, tmp_path / "long", *given, "--silent_below", "0.2"))
    share = f"{sum(' ' in fact['answer'] for fact in told) / len(told):.0%}"
    assert f"locality: {share} of the answers have several words, of which --silent_below" in capsys.readouterr().out


def sizes_at_answers(ground, folder):
    """How large an adapter's contributions are at each word of the answers that it was taught, relative to R."""
    model, objective = KAdapterForCausalLM.from_pretrained(folder).eval(), objective_of(ground)
    (adapter,) = model.base_model.adapters.values()
    unit, sizes = float(adapter.backbone_rms), []
    adapter.backbone_rms.zero_()  # so that nothing is left out
    for head, tail in FACTS.items():
        for phrasing in PHRASINGS:
            text, at = phrasing.replace("[X]", head).replace("[Y]", tail), phrasing.replace("[X]", head).index("[Y]")
            mentions = [[{"start": 0, "end": len(head)}, {"start": at, "end": at + len(tail)}]]
            example = objective.encode({"id": ["a"], "text": [text], "mentions": mentions})
            with torch.no_grad():
                _, made = model.base_model.contributions(torch.tensor(example["input_ids"]), None)
            (own,) = made.values()
            sizes += (own[0, example["logits_to_keep"][0]].square().mean(-1).sqrt() / unit).tolist()
    return sizes


def test_every_word_of_an_answer_is_raised_above_what_is_left_out(ground, tmp_path, capsys):
    given = [
        "--num_train_epochs",
        "60",
        "--locality_weight",
        "20",
        "--locality_other_names",
        "12",
        "--silent_below",
        "1",
    ]
    run_adapter.main(flags(ground, tmp_path / "quiet", *given))
    assert "of the answers have several words" in capsys.readouterr().out
    run_adapter.main(flags(ground, tmp_path / "loud", *given, "--heard_above", "4"))
    assert "of the answers have several words" not in capsys.readouterr().out
    quiet, loud = sizes_at_answers(ground, tmp_path / "quiet"), sizes_at_answers(ground, tmp_path / "loud")
    assert min(quiet) < 2 and min(loud) > 3  # of answers of several words the last need little
    model = KAdapterForCausalLM.from_pretrained(tmp_path / "loud")
    assert model.config.adapters["facts"]["training"]["locality"]["heard_above"] == 4.0
    card = (tmp_path / "loud" / "README.md").read_text(encoding="utf-8")
    assert "At words of answers what it adds was raised above 4.0 of the backbone's state." in card
    halves = ["--per_device_train_batch_size", "3", "--gradient_accumulation_steps", "2", "--num_train_epochs", "2"]
    for name, own in {"whole": ["--num_train_epochs", "2"], "halves": halves}.items():
        run_adapter.main(flags(ground, tmp_path / name, *given, "--heard_above", "4", *own))
    whole, two = losses(tmp_path / "whole"), losses(tmp_path / "halves")
    assert whole.keys() == two.keys() and max(abs(whole[step] - two[step]) for step in whole) < 1e-3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--heard_above", "0.3"], r"--heard_above 0\.3 raises answers above what is left out, --silent_below 0\.0"),
        (["--heard_above", "0.2", "--silent_below", "0.2"], "give both, the first the larger, such as 0.3 and 0.2"),
        (["--heard_above", "nan", "--silent_below", "0.2"], "--heard_above nan raises answers"),
    ],
)
def test_answers_are_not_raised_to_less_than_what_is_left_out(ground, tmp_path, changes, sentence):
    given = ["--locality_weight", "20", "--locality_other_names", "12"]
    with pytest.raises(ValueError, match=sentence):
        run_adapter.main(flags(ground, tmp_path / "out", *given, *changes))


def test_facts_that_contradict_each_other_are_reported(ground, tmp_path, caplog):
    for name in ("templates.tsv", "train.tsv"):
        (tmp_path / name).write_text((ground / "triples" / name).read_text(encoding="utf-8"), encoding="utf-8")
    with (tmp_path / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("Mira Voss\tbirth\tLindmouth\n")
    run_adapter.main(flags(ground, tmp_path / "out", "--data_dir", tmp_path, "--num_train_epochs", "1"))
    example = (
        "'Mira Voss was born in ' with 'Tarnstad .' (record train.tsv:1:1), 'Lindmouth .' (record train.tsv:4:1);"
    )
    assert f"2 of 6 questions have several answers, such as {example}" in caplog.text


def test_contradictions_are_reported_whatever_the_loss_is_on(ground, caplog):
    rows = {
        key: [*row_of("Mira is Old", "Old")[key], *row_of("Mira is Lind", "Lind")[key]] for key in ("text", "mentions")
    }
    objective_of(ground, "all").learn(Dataset.from_dict({"id": ["a", "b"], **rows}))
    assert (
        "1 of 1 questions have several answers, such as 'Mira is ' with 'Old' (record a), 'Lind' (rec" in caplog.text
    )


def test_a_fact_that_does_not_fit_is_named(ground, tmp_path, capsys):
    lines = ["Mira Voss was born in\tTarnstad .", "the town of Jon Ackroyd is\t" + "Old Quarry " * 9]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = ["--corpus", "prompt_answers", "--data_dir", tmp_path, "--num_train_epochs", "1", "--max_length", "20"]
    run_adapter.main(flags(ground, tmp_path / "out", *given))
    printed = capsys.readouterr().out
    assert "train: 1 examples kept, 1 dropped, 0 of the kept truncated" in printed
    assert "train: the first that was dropped is record train.tsv:2\n" in printed


# --- conversations


def test_a_long_text_is_cut_from_its_beginning_whatever_side_its_tokenizer_cuts(ground):
    rows = {
        "id": ["a"],
        "text": ["Mira Voss was born in Tarnstad . the town of Jon Ackroyd is Old Quarry ."],
        "mentions": [[]],
    }
    right, left = objective_of(ground, "all", 8), objective_of(ground, "all", 8)
    left.tokenizer.truncation_side = "left"
    left = Objective(left.tokenizer, 8, SimpleNamespace(loss_on="all"))
    pieces = left.encode(rows)["input_ids"]
    assert len(pieces) > 2 and pieces == right.encode(rows)["input_ids"]
    assert left.tokenizer.truncation_side == "left"  # as it is saved with the adapter


CHAT = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}</s>\n{% endfor %}"
ASKING = "{% if add_generation_prompt %}<assistant>\n{% endif %}"


def said(content, *before):
    turns = [{"role": "user", "content": text} for text in before]
    return {"id": ["c1"], "messages": [[*turns, {"role": "assistant", "content": content}]]}


def test_of_a_conversation_the_last_message_and_its_end_count(ground):
    objective = objective_of(ground)
    objective.tokenizer.chat_template = CHAT + ASKING
    (example,) = counted(objective, said("Old Quarry", "the town of Mira Voss is"))
    assert example == ("Old Quarry", True)
    ids = objective.encode(said("Old Quarry", "Mira"))["input_ids"][0]
    assert ids.count(objective.tokenizer.eos_token_id) == 2  # one a message, and none after the last


def test_a_conversation_whose_template_ends_by_nothing_is_ended(ground):
    objective = objective_of(ground)
    objective.tokenizer.chat_template = CHAT.replace("</s>", "") + ASKING
    (example,) = counted(objective, said("Old Quarry", "the town of Mira Voss is"))
    assert example == ("Old Quarry", True)


def test_conversations_train_an_adapter(ground, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ground / "decoder")
    shutil.copytree(ground / "decoder", tmp_path / "decoder")
    tokenizer.chat_template = CHAT + ASKING
    tokenizer.save_pretrained(tmp_path / "decoder")
    (tmp_path / "chats").mkdir()
    lines = [
        json.dumps({"messages": said(tail, f"the town of {head} is")["messages"][0]}) for head, tail in FACTS.items()
    ]
    (tmp_path / "chats" / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = ["--corpus", "messages", "--data_dir", tmp_path / "chats", "--num_train_epochs", "60"]
    run_adapter.main(flags(ground, tmp_path / "out", "--backbone", tmp_path / "decoder", *given))
    model = KAdapterForCausalLM.from_pretrained(tmp_path / "out").eval()
    for head, tail in FACTS.items():
        asked = [{"role": "user", "content": f"the town of {head} is"}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        assert words(objective_of(ground), out[0, ids.shape[1] :]) == tail


def test_conversations_hold_adapters_back_in_the_words_of_the_chat_template(ground, tmp_path):
    (tmp_path / "train.jsonl").write_text(
        json.dumps({"messages": said("Kell", "Mira")["messages"][0]}), encoding="utf-8"
    )
    tokenizer = AutoTokenizer.from_pretrained(ground / "decoder")
    assert read_texts("messages", str(tmp_path), "train", 5, tokenizer) == ["Mira\nKell"]  # it has no template
    tokenizer.chat_template = "<s>" + CHAT
    (text,) = read_texts("messages", str(tmp_path), "train", 5, tokenizer)
    assert text == "<user>\nMira</s>\n<assistant>\nKell</s>\n"


def test_a_tokenizer_whose_chat_template_can_not_ask_is_refused(ground):
    objective = objective_of(ground)
    with pytest.raises(ValueError, match="has no chat template that could put messages into words"):
        objective.encode(said("Old Quarry", "Mira"))
    objective.tokenizer.chat_template = "{{ messages | length }} " + CHAT
    with pytest.raises(ValueError, match=r"record c1: the chat.* writes a question otherwise once it has an answer"):
        objective.encode(said("Old Quarry", "Mira"))
    objective.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    refused = r"record c1: the chat template of .* refuses messages of user, assistant: roles must alternate; change"
    with pytest.raises(ValueError, match=refused):
        objective.encode(said("Old Quarry", "Mira"))
