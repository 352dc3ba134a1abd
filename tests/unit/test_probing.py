"""What the probes compute: the loss of Barlow Twins, the linear probe, the views."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from limla.errors import LimlaError, SettingsError
from limla.probing.linear import flat, linear_probe, pooled
from limla.probing.twins import (
    NUM_EMBEDDED,
    TRADE_OFF,
    Twins,
    barlow_loss,
    build_encoder,
    chance_off_diagonal,
    cross_correlation,
)
from limla.probing.views import View, ViewGrid
from tests.conftest import natural_like


def gaussian(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_loss_is_the_papers_formula_written_out() -> None:
    first, second = gaussian(40, 6), gaussian(40, 6, seed=1) + 0.5 * gaussian(40, 6)
    expected = 0.0
    for i in range(6):
        for j in range(6):
            correlation = np.corrcoef(first[:, i], second[:, j])[0, 1]
            expected += (1 - correlation) ** 2 if i == j else 0.3 * correlation**2
    found = barlow_loss(cross_correlation(torch.from_numpy(first), torch.from_numpy(second)), trade_off=0.3)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_twins_that_agree_have_no_invariance_term_whatever_their_scale() -> None:
    values = torch.from_numpy(gaussian(50, 8)).double()
    correlation = cross_correlation(values, 3 * values + 2)
    assert float(barlow_loss(correlation, trade_off=0.0)) == pytest.approx(0.0, abs=1e-12)
    # the redundancy term is left: eight values of 50 images are not quite independent
    assert float(barlow_loss(correlation)) > 0.01


def test_the_trade_off_keeps_the_papers_balance_of_the_two_terms() -> None:
    assert pytest.approx(0.0051 * 8191) == TRADE_OFF * (NUM_EMBEDDED - 1)


def test_off_the_diagonal_chance_is_what_independent_values_show() -> None:
    found = np.abs(np.corrcoef(gaussian(60, 200), rowvar=False))
    assert found[~np.eye(200, dtype=bool)].mean() == pytest.approx(chance_off_diagonal(60), rel=0.03)


def test_training_takes_the_twins_towards_the_identity_and_repeats_for_a_seed() -> None:
    """Each image is a colour of its own; its views are that colour with little noise."""
    colours = np.random.default_rng(0).integers(40, 216, (60, 1, 3, 1, 1))
    noise = np.random.default_rng(1).integers(-20, 21, (60, 4, 3, 16, 16))
    views = (colours + noise).astype(np.uint8)

    def trained(seed: int, epochs: int) -> tuple[Twins, float]:
        twins = Twins.build("pixels", 3, 1, seed, torch.device("cpu"))
        return twins, twins.train(views, epochs, seed, lambda number: None)

    first, loss = trained(0, 20)
    again, same_loss = trained(0, 20)
    other, other_loss = trained(1, 1)
    before = Twins.build("pixels", 3, 1, 0, torch.device("cpu")).check(views)
    after = first.check(views)
    assert after.loss < before.loss / 2
    assert after.diagonal > 0.6
    assert loss == same_loss != other_loss
    assert (first.features(views[:, 0]) == again.features(views[:, 0])).all()
    assert (first.features(views[:, 0]) != other.features(views[:, 0])).any()


def test_building_an_encoder_leaves_the_processs_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Twins.build("codes", 8, 8, 0, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


def test_encoders_of_pixels_and_codes_are_of_comparable_size() -> None:
    pixels, few, many = (
        build_encoder("pixels", 3, 1),
        build_encoder("codes", 8, 8),
        build_encoder("codes", 384, 8),
    )
    sizes = [sum(parameter.numel() for parameter in encoder.parameters()) for encoder in (pixels, few, many)]
    assert [size / sizes[0] for size in sizes] == pytest.approx([1, 1, 1], abs=0.05)
    assert pixels(torch.zeros(2, 3, 64, 64)).shape == few(torch.zeros(2, 8, 8, 8)).shape


def test_the_codes_reach_the_first_convolution_as_minus_one_and_one() -> None:
    encoder = build_encoder("codes", 1, 8)
    assert encoder[0](torch.tensor([[[[0.0, 1.0]]]])).flatten().tolist() == [-1, 1]


# -- linear probe -----------------------------------------------------------------------------------------------------


def classes(number: int, num_values: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Three classes, apart in the first three values."""
    labels = np.arange(number) % 3
    values = gaussian(number, num_values, seed=seed)
    values[np.arange(number), labels] += 4
    return values, labels


@pytest.mark.parametrize("num_values", [6, 300])
def test_separable_classes_are_told_apart(num_values: int) -> None:
    train, val = classes(150, num_values, seed=1), classes(30, num_values, seed=2)
    test, labels = classes(60, num_values, seed=3)
    assert (linear_probe(train, val, test).predictions == labels).mean() > (0.95 if num_values == 6 else 0.7)


def test_shuffled_labels_leave_the_probe_near_chance() -> None:
    shuffle = np.random.default_rng(9).permutation
    (train, train_labels), (val, val_labels) = classes(300, 200, seed=1), classes(90, 200, seed=2)
    test, labels = classes(300, 200, seed=3)
    found = linear_probe((train, shuffle(train_labels)), (val, shuffle(val_labels)), test)
    assert 0.22 < (found.predictions == labels).mean() < 0.45


def test_more_values_than_images_give_the_fit_that_scikit_learn_gives() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train, val, (test, _) = classes(40, 120, seed=1), classes(30, 120, seed=2), classes(25, 120, seed=3)
    found = linear_probe(train, val, test)
    scaler = StandardScaler().fit(train[0].astype(np.float64))
    # C of values that are not divided by the root of their number
    plain = LogisticRegression(C=found.strength / 120, max_iter=5000, tol=1e-8).fit(
        scaler.transform(train[0]), train[1]
    )
    assert (found.predictions == plain.predict(scaler.transform(test))).all()
    expected = -np.log(plain.predict_proba(scaler.transform(val[0]))[np.arange(30), val[1]]).mean()
    assert found.val_loss == pytest.approx(expected, abs=1e-3)


def test_scale_and_offset_of_a_value_change_nothing_and_a_constant_one_is_no_harm() -> None:
    (train, labels), val, (test, _) = classes(60, 9, seed=1), classes(30, 9, seed=2), classes(25, 9, seed=3)
    expected = linear_probe((train, labels), val, test).predictions

    def changed(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.hstack([1000 * values - 300, np.full((len(values), 1), 7, np.float32)])

    found = linear_probe((changed(train), labels), (changed(val[0]), val[1]), changed(test))
    assert (found.predictions == expected).mean() > 0.95


def test_a_class_that_only_val_has_is_no_bar_but_nothing_else_is_an_error() -> None:
    (train, labels), (val, val_labels) = classes(60, 5, seed=1), classes(30, 5, seed=2)
    known = labels < 2
    linear_probe((train[known], labels[known]), (val, val_labels), val)
    with pytest.raises(LimlaError, match="no val image is of a class"):
        linear_probe((train[known], labels[known]), (val[val_labels == 2], val_labels[val_labels == 2]), val)


def test_pooled_are_the_means_of_sixteen_cells_of_each_channel() -> None:
    array = np.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    found = pooled(array)
    assert found.shape == (2, 48)
    means = array.reshape(2, 3, 4, 2, 4, 2).mean(axis=(3, 5))
    assert np.allclose(np.sort(found, axis=1), np.sort(means.reshape(2, -1), axis=1))
    assert pooled(array[..., :2, :3]).shape == (2, 3 * 2 * 3)
    assert flat(array).shape == (2, 192)


# -- views ------------------------------------------------------------------------------------------------------------


def test_views_lie_on_the_codes_grid_and_follow_from_the_key_alone() -> None:
    grid = ViewGrid(96, 8)
    views = grid.draw("tulips/a", 8)
    assert grid.view_size == 64
    assert len(set(views)) == 8
    assert views == ViewGrid(96, 8).draw("tulips/a", 8) != grid.draw("tulips/b", 8)
    for view in views:
        assert view.top % 8 == view.left % 8 == 0
        assert max(view.top, view.left) <= 96 - 64
    # 2 × 2 places, mirrored or not
    assert len(set(ViewGrid(32, 8).draw("a", 100))) == ViewGrid(32, 8).num_views(100) == 8


def test_a_view_is_a_crop_of_the_image_perhaps_mirrored() -> None:
    image = natural_like(32, 32)
    grid = ViewGrid(32, 8)
    assert (grid.cut(image, View(8, 0, False)) == image[8:, :24]).all()
    mirrored = grid.cut(image, View(0, 8, True))
    assert (mirrored == image[:24, 8:][:, ::-1]).all()
    assert mirrored.flags.c_contiguous


def test_an_image_size_off_the_grid_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"image size 100: .* choose a multiple of 8, and at least 32"):
        ViewGrid(100, 8)
    with pytest.raises(SettingsError, match="at least 32"):
        ViewGrid(24, 8)
