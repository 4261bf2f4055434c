"""EntityQuestions: simple questions about entities, ranked among the answers of their relation, of any length.

python trainers/run_probe.py --probe entity_questions --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC
    --output_dir OUT
Each question is followed by the mask. With `--candidates vocabulary --multi_token skip` only answers of one token are
asked, as in map-tuning (Zhang et al., ACL 2023).
Published: none for K-Adapter. Ours: docs/results.md.
"""

from __future__ import annotations

from ._facts import FactProbe


class Probe(FactProbe):
    """By the question and a mask, among the answers of the relation."""

    corpus = "entity_questions"
    candidates = "relation"
    multi_token = "closed"
