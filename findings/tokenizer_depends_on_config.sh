#!/usr/bin/env bash
# transformers' AutoTokenizer: the same tokenizer files mean other token ids beside another model's config.json.
#
# Expected: tokenizer.json and tokenizer_config.json are the whole tokenizer; copied into the folder of a model that
# is built on that encoder (an adapter, a head, a composite with a model type of its own) they tokenise as before.
# Seen: where tokenizer_config.json names no class, as in roberta-large's repository ({"model_max_length": 512}), class
# and special tokens are inferred from the config.json that lies beside them. Beside RoBERTa's: <pad> and <mask>, ids
# [0, 5, 4, 2]. Beside an unknown model type or none: no pad, mask, bos or eos token at all. Beside BERT's: a
# BertTokenizer whose [CLS], [SEP], [PAD] and [MASK] are appended to the vocabulary, so ids exceed the encoder's
# embeddings. No warning in either case; `save_pretrained` of the loaded tokenizer writes all of it down.
# Output:  beside roberta: RobertaTokenizer, pad <pad>, mask <mask>, ids [0, 5, 4, 2]
#          beside nothing: TokenizersBackend, pad None, mask None, ids [3, 5, 3, 4]
#          beside bert: BertTokenizer, pad [PAD], mask [MASK], ids beyond the vocabulary of 7: True
# Versions: transformers 5.23.0, tokenizers 0.23.3, Python 3.11.
# Why it matters: whoever publishes weights that belong to another repository's encoder and copies its tokenizer files
# publishes a tokenizer that cannot pad or mask. Load it by the encoder's id and save that object instead.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3
cd "$work"
cat >probe.py <<'PY'
import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertConfig, RobertaConfig

words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b"]
source = Path("source")
source.mkdir()
tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>"))
tokenizer.add_special_tokens(words[:5])
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
tokenizer.save(str(source / "tokenizer.json"))
(source / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))


def beside(name, config):
    folder = Path(name)
    shutil.copytree(source, folder)
    if config is not None:
        config.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    return type(loaded).__name__, loaded.pad_token, loaded.mask_token, loaded("a <mask>")["input_ids"]


kind, pad, mask, ids = beside("roberta", RobertaConfig())
print(f"beside roberta: {kind}, pad {pad}, mask {mask}, ids {ids}")
assert (pad, mask, ids) == ("<pad>", "<mask>", [0, 5, 4, 2])
kind, pad, mask, ids = beside("nothing", None)
print(f"beside nothing: {kind}, pad {pad}, mask {mask}, ids {ids}")
assert (pad, mask) == (None, None), "special tokens now travel with the files: this finding is out of date"
kind, pad, mask, ids = beside("bert", BertConfig())
print(f"beside bert: {kind}, pad {pad}, mask {mask}, ids beyond the vocabulary of {len(words)}: {max(ids) >= len(words)}")
assert max(ids) >= len(words), "the ids now stay within the vocabulary: this finding is out of date"
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py
