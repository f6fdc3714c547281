"""Entropy and the columns of a table of predictions."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from spider_tools.probabilities import class_column, entropy, probability_columns, probability_name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_entropy_is_that_of_scipy(dtype):
    probabilities = np.random.default_rng(0).dirichlet([0.3] * 5, 200).astype(dtype)
    expected = scipy.stats.entropy(probabilities.astype(np.float64), axis=1)
    got = entropy(probabilities)
    assert (got.dtype, got.shape) == (np.float64, (200,))
    # scipy divides by the sum first, which float32 leaves a rounding away from 1.
    np.testing.assert_allclose(got, expected, rtol=1e-5 if dtype is np.float32 else 1e-12)


def test_entropy_of_a_coin_of_certainty_and_of_ignorance():
    got = entropy(np.array([[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0.25] * 4]))
    assert got == pytest.approx([np.log(2), 0, np.log(4)])


def test_certainty_has_no_negative_entropy():
    certain = entropy(np.array([[1, 0], [np.nextafter(np.float32(1), np.float32(2)), 0]], dtype=np.float32))
    assert certain.tolist() == [0, 0]
    assert not np.signbit(certain).any()


def test_no_prediction_has_no_entropy():
    assert entropy(np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_is_a_column_per_class_in_its_order_and_one_of_the_entropy(dtype):
    probabilities = np.array([[0.25, 0.75], [1, 0], [0.5, 0.5]], dtype=dtype)
    columns = probability_columns(probabilities, ["Stroma", "Fat & <oil>"])
    assert list(columns) == ["probability: Stroma", "probability: Fat & <oil>", "entropy"]
    assert columns["probability: Stroma"].to_pylist() == [0.25, 1, 0.5]
    assert columns[probability_name("Fat & <oil>")].to_pylist() == [0.75, 0, 0.5]
    assert columns["probability: Stroma"].type == pa.from_numpy_dtype(dtype)
    assert columns["entropy"].type == pa.float64()
    assert columns["entropy"].to_pylist() == entropy(probabilities).tolist()


def test_classes_are_a_dictionary_of_all_names():
    column = class_column(np.array([2, 0, 2]), ("A", "B", "C"))
    assert column.type == pa.dictionary(pa.int32(), pa.string())
    assert column.to_pylist() == ["C", "A", "C"]
    assert column.dictionary.to_pylist() == ["A", "B", "C"]
