"""Wiki80: 80 relations of Wikidata between two marked mentions (Han et al., EMNLP 2019), made from FewRel.

accelerate launch trainers/run_task.py --task wiki80 --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC OUT_LIN
    --output_dir OUT --do_train --do_eval --learning_rate 1e-3 --num_train_epochs 20
Published: none for K-Adapter. Ours: docs/results.md, macro-F1.

With a map: --recipe recipes/wiki80_bert.yaml and wiki80_bert_map.yaml, which name the commands.
Published, map-tuning on bert-base-uncased (Zhang et al., ACL 2023, from the files of its repository), test accuracy:
without a map 86.1; general map, plugged in 86.7 (with LoRA 85.3 and 85.8, Adapter 85.7 and 85.9, BitFit 82.7 and
83.7); map tuned on the task 87.8; fine-tuned with a general map 88.7, with a map of the task's own text 88.7.
Ours, all-MiniLM-L6-v2 on 1,436 sentences (docs/map_tuning.md, one seed), macro-F1 on 757: without a map 0.602; general
map, plugged in 0.580; map tuned on the task 0.588, with a shuffled table 0.590. Those above were not measured again.

Wiki80 and FewRel share sentences: an adapter that was pre-trained on FewRel has seen some of them, with their
relations. A comparison must leave these sentences out of the files.
"""

from __future__ import annotations

from ._relations import RelationTask


class Task(RelationTask):
    """Macro-F1 over the relations that occur in the gold labels."""

    corpus = "wiki80"
    headline = "macro_f1"
