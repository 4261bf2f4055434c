"""The contract of every metric, tested on the sample in its file; new metrics are tested without further ado."""

import random

import evaluate
import numpy as np
import pytest

from kadapter import metrics

each_metric = pytest.mark.parametrize("name", metrics.available())


def sample(name):
    """Return a metric, the predictions and references of its sample, and its settings."""
    metric = metrics.load(name)
    settings = dict(metric.SAMPLE)
    return metric, settings.pop("predictions"), settings.pop("references"), settings


def face(metric):
    """Return the class of a metric's file that the evaluate library uses."""
    classes = [item for item in vars(metric).values() if isinstance(item, type) and issubclass(item, evaluate.Metric)]
    (own,) = [item for item in classes if item.__module__ == metric.__name__]
    return own


# ---- what every metric does ---------------------------------------------------------------------------------------


def test_metrics_are_found_by_their_names():
    assert {"accuracy", "attachment", "entity_typing", "question_answering", "semeval", "tacred"} <= set(
        metrics.available()
    )
    with pytest.raises(ValueError, match=r"no metric 'tacerd'; there are .*; did you mean 'tacred'\?"):
        metrics.load("tacerd")


@each_metric
def test_results_are_those_of_the_summed_statistics_of_each_example(name):
    metric, predictions, references, settings = sample(name)
    rows = metric.per_example(predictions, references, **settings)
    results = metric.compute(predictions, references, **settings)
    assert rows.ndim == 2 and len(rows) == len(predictions)
    assert results == metric.from_total(rows.sum(axis=0))
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in results.values())
    assert 0 < sum(results.values()) < len(results), "the sample should be neither all right nor all wrong"


@each_metric
def test_an_example_is_measured_independently_of_all_others(name):
    metric, predictions, references, settings = sample(name)
    alone = [metric.per_example([p], [r], **settings) for p, r in zip(predictions, references, strict=True)]
    assert np.array_equal(np.vstack(alone), metric.per_example(predictions, references, **settings))


@each_metric
def test_results_do_not_depend_on_the_order_of_examples(name):
    metric, predictions, references, settings = sample(name)
    order = random.Random(0).sample(range(len(predictions)), len(predictions))
    again = metric.compute([predictions[i] for i in order], [references[i] for i in order], **settings)
    assert again == pytest.approx(metric.compute(predictions, references, **settings))


@each_metric
def test_many_totals_are_turned_into_results_at_once(name):
    metric, predictions, references, settings = sample(name)
    rows = metric.per_example(predictions, references, **settings)
    weights = np.random.default_rng(0).multinomial(len(rows), np.ones(len(rows)) / len(rows), size=(3, 5))
    together = metric.from_total(weights @ rows)  # (3, 5) for each result
    for index in np.ndindex(3, 5):
        alone = metric.from_total(weights[index] @ rows)
        assert {key: value[index] for key, value in together.items()} == pytest.approx(alone)


@each_metric
def test_a_weighting_of_rows_is_a_choice_of_examples(name):
    metric, predictions, references, settings = sample(name)
    twice = [0, 0, *range(len(predictions) - 1)]
    weights = np.bincount(twice, minlength=len(predictions))
    rows = metric.per_example(predictions, references, **settings)
    chosen = metric.compute([predictions[i] for i in twice], [references[i] for i in twice], **settings)
    assert metric.from_total(weights @ rows) == pytest.approx(chosen)


@each_metric
def test_right_predictions_score_one(name):
    metric, predictions, references, settings = sample(name)
    is_text = isinstance(predictions[0], str)
    right = [true[0] if is_text and not isinstance(true, str) else true for true in references]
    assert set(metric.compute(right, references, **settings).values()) == {1.0}


@each_metric
def test_unequal_or_no_examples_are_refused(name):
    metric, predictions, references, settings = sample(name)
    number = len(references)
    with pytest.raises(ValueError, match=f"{number - 1} predictions and {number} references can't be compared"):
        metric.compute(predictions[1:], references, **settings)
    with pytest.raises(ValueError, match="at least one example"):
        metric.compute([], [], **settings)


@each_metric
def test_values_of_another_type_are_refused_by_number_and_value(name):
    metric, predictions, references, settings = sample(name)
    for bad in (None, 1.5, {"label": 1}):
        with pytest.raises(ValueError, match=r"prediction 1 is .*; it must be"):
            metric.compute([predictions[0], bad, *predictions[2:]], references, **settings)
        with pytest.raises(ValueError, match=r"reference 0 is .*; it must be"):
            metric.compute(predictions, [bad, *references[1:]], **settings)


# ---- with the evaluate library ------------------------------------------------------------------------------------


@each_metric
def test_the_evaluate_library_computes_the_same(name, tmp_path):
    metric, predictions, references, settings = sample(name)
    own = face(metric)(cache_dir=str(tmp_path))
    expected = metric.compute(predictions, references, **settings)
    assert own.compute(predictions=predictions, references=references, **settings) == expected
    for start in range(0, len(references), 2):
        own.add_batch(predictions=predictions[start : start + 2], references=references[start : start + 2])
    assert own.compute(**settings) == expected
    assert own.description == face(metric).__doc__


@each_metric
def test_the_evaluate_library_loads_the_file_itself(name, tmp_path):
    metric, predictions, references, settings = sample(name)
    loaded = evaluate.load(metric.__file__, cache_dir=str(tmp_path))
    expected = metric.compute(predictions, references, **settings)
    assert loaded.compute(predictions=predictions, references=references, **settings) == expected


def test_accuracy_takes_numbers_of_labels_as_the_function_does(tmp_path):
    metric = metrics.load("accuracy")
    values = {"predictions": [0, 3, 1, 1], "references": [0, 2, 1, 3]}
    assert face(metric)(cache_dir=str(tmp_path)).compute(**values) == metric.compute(*values.values())
