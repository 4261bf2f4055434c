"""LAMA T-REx: facts of Wikidata, asked by a template for each relation or in sentences of Wikipedia.

python trainers/run_probe.py --probe lama_trex --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC
    --candidates common --common_with bert-large-cased --output_dir OUT
Published (macro P@1 in percent, common vocabulary of all compared models; the first version of the K-Adapter paper):
    BERT-large 33.9, RoBERTa-large 27.1, K-Adapter with facts 29.1; on LAMA-UHN 26.2, 20.1 and 23.0.
Ours: docs/results.md.
"""

from __future__ import annotations

from ._facts import FactProbe


class Probe(FactProbe):
    """By template, or by the sentences in which the answer stands as it is asked for."""

    corpus = "lama_trex"
    prompts = ("template", "evidence")
