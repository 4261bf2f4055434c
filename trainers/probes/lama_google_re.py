"""LAMA Google-RE: where and when people were born and where they died, by template or in a sentence.

python trainers/run_probe.py --probe lama_google_re --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC
    --candidates common --common_with bert-large-cased --output_dir OUT
Published (macro P@1 in percent, common vocabulary of all compared models; the first version of the K-Adapter paper):
    BERT-large 12.1, RoBERTa-large 4.8, K-Adapter with facts 7.0; on LAMA-UHN 6.5, 2.5 and 3.7.
Ours: docs/results.md.
"""

from __future__ import annotations

from ._facts import FactProbe


class Probe(FactProbe):
    """By template, or by the sentence that people judged."""

    corpus = "lama_google_re"
    prompts = ("template", "evidence")
