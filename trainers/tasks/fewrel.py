"""FewRel: relations of Wikidata with 700 sentences each (Han et al., EMNLP 2018), supervised or in episodes.

accelerate launch trainers/run_task.py --task fewrel --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC OUT_LIN
    --output_dir OUT --do_train --do_eval --learning_rate 1e-3 --num_train_epochs 10
accelerate launch trainers/run_task.py --task fewrel --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC OUT_LIN
    --output_dir OUT --episodes 1000 --way 5 --shot 1
Published: none for K-Adapter; in episodes, FewRel's own baselines on its hidden test relations (5-way 1-shot):
Prototypical Network 69.2 +- 0.2, human 92.2. Ours: not measured on those.

Episodes are the N-way K-shot protocol by which the FewRel paper evaluates, without its episodic training: nothing is
trained, and backbone and adapters are frozen. In each episode, each of `--way` classes has `--shot` labelled
sentences, drawn by `--seed`, whose mean is its prototype; another sentence of each class, the same for all seeds, is
assigned to the nearest prototype. Features are those that a head would read, layer-normed for each source and
concatenated, so there is no fusion. The published files share no relation between train and validation; for the
supervised task give the files names without split words, so that sentences are held out by a hash.
"""

from __future__ import annotations

from ._relations import RelationTask


class Task(RelationTask):
    """Accuracy, over held-out sentences or over the queries of episodes."""

    corpus = "fewrel"
