"""Facts are ranked as one would by hand: by the scores of candidates at the mask."""

from math import exp

import pytest
import torch
from helpers import save_backbone
from tiny_lm import WORDS, ask, fact, language_model, tiny_bert, words_tokenizer

from kadapter.language_modeling_kadapter import KAdapterForMaskedLM
from kadapter.trainers.fact_probing.candidates import vocabulary
from kadapter.trainers.fact_probing.language_model import LanguageModel
from kadapter.trainers.fact_probing.prompts import Prompter
from kadapter.trainers.fact_probing.scoring import ListScorer, VocabularyScorer, rank_of

SCORES = {"tarnstad": 5.0, "lind": 4.0, "kell": 3.0, "paris": 2.0, "<mask>": 9.0}
LIST = ["Tarnstad", "Lind", "Kell", "Newton", "Newby"]


def whole(scores=SCORES, **options):
    model = language_model(scores, **options)
    return VocabularyScorer(model, vocabulary(model.prompter))


def by_hand(model, text, *tokens):
    """The mean log-probability of tokens at the masks of a text, computed by transformers alone."""
    tokenizer = model.prompter.tokenizer
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        logs = model.model(input_ids=ids).logits.log_softmax(dim=-1)[0]
    masks = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0]
    return float(
        sum(logs[mask, tokenizer.convert_tokens_to_ids(token)] for mask, token in zip(masks, tokens, strict=True))
    ) / len(tokens)


# ---- single tokens among a vocabulary -----------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "rank"), [("Tarnstad", 1), ("lind", 2), ("KELL", 3), ("Paris", 4)])
def test_the_rank_of_an_answer_counts_the_words_that_score_more(answer, rank):
    ((answered,), reasons) = ask(whole(), fact(answer))
    assert (answered.rank, reasons) == (rank, {})
    assert answered.candidates == len(WORDS)  # all but the five special tokens, the best of which is the mask
    assert [name for name, _ in answered.top][:4] == ["tarnstad", "lind", "kell", "paris"]


def test_probabilities_are_those_of_the_whole_vocabulary():
    ((answered,), _) = ask(whole(), fact("lind"))
    total = sum(exp(score) for score in SCORES.values()) + len(WORDS) + 5 - len(SCORES)
    assert answered.probability == pytest.approx(exp(4) / total)
    assert answered.top[0][1] == pytest.approx(exp(5) / total)


def test_ties_count_against_the_model():
    assert rank_of(torch.tensor([1.0, 1.0, 0.0]), [0]) == 2
    assert rank_of(torch.zeros(7), [3]) == 7
    ((answered,), _) = ask(whole({}), fact("lind"))
    assert answered.rank == len(WORDS)


def test_the_best_of_several_right_answers_counts_and_the_others_do_not_compete():
    ((answered,), _) = ask(whole(), fact("Paris", "Lind"))
    assert answered.rank == 2
    ((answered,), _) = ask(whole(), fact("Paris", "Tarnstad", "Lind"))
    assert answered.rank == 1
    assert rank_of(torch.tensor([3.0, 2.0, 2.0, 2.0]), [1, 2]) == 3


def test_a_fact_with_several_prompts_is_one_answer_from_the_means_of_its_scores():
    model = language_model()
    texts = ["Mira was born in <mask>.", "Mira Voss is in <mask>, old baker."]
    scorer = VocabularyScorer(model, vocabulary(model.prompter))
    ((answered,), _) = ask(scorer, fact("lind", prompts=[text.replace("<mask>", "[MASK]") for text in texts]))
    means = {word: sum(by_hand(model, text, word) for text in texts) / 2 for word in WORDS}
    assert answered.rank == 1 + sum(score > means["lind"] for score in means.values())
    assert answered.probability == pytest.approx(exp(means["lind"]), rel=1e-4)
    assert answered.top[0][1] == pytest.approx(exp(max(means.values())), rel=1e-4)


def test_ranks_do_not_depend_on_what_is_read_together():
    facts = [fact("lind", prompts=[f"{'Mira ' * n}was born in [MASK]."], name=str(n)) for n in range(9)]
    ranks = []
    for tokens in (1, 40, 4096):
        model = language_model(batch_tokens=tokens)
        answered, _ = ask(VocabularyScorer(model, vocabulary(model.prompter)), *facts)
        ranks.append({each.fact.id: (each.rank, round(each.probability, 5)) for each in answered})
    assert ranks[0] == ranks[1] == ranks[2] and len(ranks[0]) == 9


def test_the_first_of_two_masks_is_asked():
    model = language_model()
    ((answered,), _) = ask(
        VocabularyScorer(model, vocabulary(model.prompter)), fact("lind", prompts=["In [MASK] Mira was in [MASK]."])
    )
    tokenizer = model.prompter.tokenizer
    ids = tokenizer("In <mask> Mira was in <mask>.", return_tensors="pt").input_ids
    with torch.no_grad():
        logs = model.model(input_ids=ids).logits.log_softmax(dim=-1)[0, 2]
    assert answered.probability == pytest.approx(float(logs[tokenizer.convert_tokens_to_ids("lind")].exp()), rel=1e-4)


def test_a_model_of_ours_without_adapters_ranks_as_its_backbone_does(tmp_path):
    tokenizer = words_tokenizer()
    tiny_bert(tokenizer).save_pretrained(tmp_path)
    facts = [fact(word, name=word) for word in ("lind", "kell", "paris")]
    ranks = []
    for model in (tiny_bert(tokenizer), KAdapterForMaskedLM.from_backbone(str(tmp_path))):
        own = LanguageModel(model, Prompter(tokenizer))
        answered, _ = ask(VocabularyScorer(own, vocabulary(own.prompter)), *facts)
        ranks.append([(each.rank, each.probability) for each in answered])
    assert ranks[0] == [(rank, pytest.approx(probability, rel=1e-4)) for rank, probability in ranks[1]]


# ---- a closed list ------------------------------------------------------------------------------------------------


def test_without_answers_of_several_tokens_the_list_holds_single_ones():
    scorer = ListScorer(language_model(SCORES), LIST, "skip")
    answered, reasons = ask(scorer, fact("Kell"), fact("Newton", name="g"))
    assert [(each.rank, each.candidates) for each in answered] == [(3, 3)]
    assert reasons == {"answer_of_several_tokens": 1}


def test_answers_of_several_tokens_are_means_over_as_many_masks():
    model = language_model()
    ((answered,), reasons) = ask(ListScorer(model, LIST, "closed"), fact("Newton"))
    scores = {name: by_hand(model, "Mira was born in <mask>.", name.lower()) for name in LIST[:3]}
    for name, piece in (("Newton", "##ton"), ("Newby", "##by")):
        scores[name] = by_hand(model, "Mira was born in <mask> <mask>.", "new", piece)
    assert answered.rank == 1 + sum(score > scores["Newton"] for score in scores.values())
    assert answered.probability == pytest.approx(exp(scores["Newton"]), rel=1e-4)
    assert dict(answered.top) == pytest.approx({name: exp(score) for name, score in scores.items()}, rel=1e-4)
    assert reasons == {}


def test_pseudo_log_likelihood_masks_each_token_in_turn():
    model = language_model()
    ((answered,), _) = ask(ListScorer(model, LIST, "pll"), fact("Newton"))
    tokenizer = model.prompter.tokenizer
    ids = tokenizer("Mira was born in newton.", return_tensors="pt").input_ids
    turns = []
    for token in ("new", "##ton"):
        own = tokenizer.convert_tokens_to_ids(token)
        masked = ids.masked_fill(ids == own, tokenizer.mask_token_id)
        with torch.no_grad():
            logs = model.model(input_ids=masked).logits.log_softmax(dim=-1)[0]
        turns.append(float(logs[(ids[0] == own).nonzero()[0, 0], own]))
    assert answered.probability == pytest.approx(exp(sum(turns) / 2), rel=1e-4)
    closed = ask(ListScorer(model, LIST, "closed"), fact("Kell"))[0][0]
    assert ask(ListScorer(model, LIST, "pll"), fact("Kell"))[0][0].probability == pytest.approx(closed.probability)


def test_spellings_that_a_tokenizer_does_not_tell_apart_are_one_candidate():
    scorer = ListScorer(language_model(SCORES), ["Tarnstad", "tarnstad", "TARNSTAD", "Lind"], "closed")
    answered, _ = ask(scorer, fact("TARNSTAD"), fact("lind", name="g"))
    assert [(each.rank, each.candidates) for each in answered] == [(1, 2), (2, 2)]


# ---- what can't be asked ------------------------------------------------------------------------------------------


def test_facts_that_can_not_be_asked_are_counted_by_reason():
    words = vocabulary(language_model().prompter)
    model = language_model(SCORES, max_length=10)
    lind = model.prompter.tokenizer.convert_tokens_to_ids("lind")
    scorer = VocabularyScorer(model, words[words != lind])
    answered, reasons = ask(
        scorer,
        fact("Kell", name="asked"),
        fact("Newton", name="long"),
        fact("Zürich", name="unknown"),
        fact("Lind", name="left out"),
        fact("Kell", name="cut", prompts=["Mira " * 9 + "was born in [MASK]."]),
    )
    assert [each.fact.id for each in answered] == ["asked"]
    assert reasons == {
        "answer_no_candidate": 1,
        "answer_of_several_tokens": 1,
        "answer_without_tokens": 1,
        "mask_cut_off": 1,
    }


def test_a_prompt_that_is_cut_behind_its_mask_is_asked():
    ((answered,), reasons) = ask(whole(max_length=8), fact("Kell", prompts=["In [MASK] was " + "mira " * 20]))
    assert (answered.rank, reasons) == (3, {})


def test_probabilities_are_means_over_the_prompts_that_fit():
    long = "Mira " * 9 + "was born in [MASK]."
    scorer = whole(max_length=8)
    ((one,), _), ((two,), reasons) = (
        ask(scorer, fact("Kell")),
        ask(scorer, fact("Kell", prompts=["Mira was born in [MASK].", long])),
    )
    assert (two.rank, reasons) == (one.rank, {}) and two.probability == pytest.approx(one.probability)


def test_in_a_closed_list_the_longest_candidate_must_fit():
    scorer = ListScorer(language_model(SCORES, max_length=7), LIST, "closed")
    assert ask(scorer, fact("Kell"))[1] == {"mask_cut_off": 1}
    assert ask(ListScorer(language_model(SCORES, max_length=7), LIST, "skip"), fact("Kell"))[1] == {}


def test_an_lm_head_of_another_vocabulary_and_one_with_nan_are_refused():
    model = language_model()
    small = LanguageModel(tiny_bert(words_tokenizer(WORDS[:9])), model.prompter)
    with pytest.raises(
        ValueError, match=r"the LM head scores 14 tokens and the tokenizer has 34; use the LM head that"
    ):
        ask(VocabularyScorer(small, vocabulary(model.prompter)), fact("mira"))
    with torch.no_grad():
        model.model.cls.predictions.decoder.bias[7] = float("nan")
    with pytest.raises(ValueError, match="the LM head's scores are not finite"):
        ask(VocabularyScorer(model, vocabulary(model.prompter)), fact("lind"))


def test_a_trained_lm_head_of_another_backbone_is_refused(tmp_path):
    tokenizer = words_tokenizer()
    tiny_bert(tokenizer).save_pretrained(tmp_path / "bert")
    KAdapterForMaskedLM.from_backbone(str(tmp_path / "bert"), lm_head="linear").save_pretrained(tmp_path / "head")
    other = save_backbone(tmp_path / "other", "bert")
    with pytest.raises(ValueError, match="vocabulary of 34 tokens, and this backbone one of 60"):
        KAdapterForMaskedLM.from_backbone(other, lm_head=str(tmp_path / "head"))
