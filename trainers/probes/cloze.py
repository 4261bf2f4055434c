"""Cloze: your own prompts with a mask, as JSON lines or TSV.

python trainers/run_probe.py --probe cloze --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC --output_dir OUT
DIR holds lines such as `{"prompt": "Mira was born in [MASK].", "answers": ["Tarnstad"], "relation": "birth"}`, or
prompt, answer and relation separated by tabs; see data_builders/prompts.py.
Published: none. Ours: none.
"""

from __future__ import annotations

from ._facts import FactProbe


class Probe(FactProbe):
    """By the prompt alone."""

    corpus = "prompts"
    prompts = ("evidence",)
