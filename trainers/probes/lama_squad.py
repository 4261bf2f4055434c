"""LAMA SQuAD: questions of SQuAD as sentences with a mask.

python trainers/run_probe.py --probe lama_squad --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC
    --output_dir OUT
Published: none for K-Adapter. Ours: none.
"""

from __future__ import annotations

from ._facts import FactProbe


class Probe(FactProbe):
    """By the sentence alone."""

    corpus = "lama_squad"
    prompts = ("evidence",)
