"""Random designs follow the published recipe, whatever the sharding; the user's are checked."""

import numpy as np
import pytest
from PIL import Image

from crumple import designs
from crumple.config import Config
from crumple.errors import UserError
from crumple.layout import QUARTER

SETTINGS = Config().designs


def _spectral_slope(exponent: float) -> float:
    generator = np.random.default_rng(0)
    size = QUARTER
    spectrum = designs.amplitude(size, exponent)
    fields = [designs.gaussian_random_field(generator, spectrum) for _ in range(200)]
    power = np.mean([np.abs(np.fft.fft2(field)) ** 2 for field in fields], axis=0)
    k = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(k[:, None], k[None, :])
    middle = (radius >= 2) & (radius <= 15)
    return np.polyfit(np.log(radius[middle]), np.log(power[middle]), 1)[0]


@pytest.mark.parametrize("exponent", [2.0, 3.0])
def test_power_spectrum_is_the_squared_amplitude(exponent):
    assert _spectral_slope(exponent) == pytest.approx(-2 * exponent, abs=0.05)


def test_field_is_standardised():
    field = designs.gaussian_random_field(np.random.default_rng(1), designs.amplitude(48, 3.0))
    assert field.mean() == pytest.approx(0, abs=1e-12)
    assert field.std() == pytest.approx(1)


def test_designs_depend_on_seed_and_index_only(tmp_path):
    together = {}
    for size, shards in ((2, (1, 0)), (3, (0, 1))):
        config = Config(designs={"count": 4, "shard_size": size})
        for shard in shards:
            path = tmp_path / f"{size}-{shard}.npz"
            designs.sample_shard(config, shard, path)
            with np.load(path) as file:
                for i, quarter in zip(file["index"], file["quarter"], strict=True):
                    together.setdefault(int(i), []).append(quarter)
    assert sorted(together) == [0, 1, 2, 3]
    for first, second in together.values():
        assert np.array_equal(first, second)
    other_seed = designs.sample(1, 0, SETTINGS).quarter
    assert not np.array_equal(other_seed, together[0][0])
    assert not np.array_equal(together[0][0], together[1][0])


def test_designs_are_the_same_on_every_machine():
    found = [designs.sample(0, index, SETTINGS) for index in range(4)]
    assert [design.tries for design in found] == [60, 47, 104, 78]
    assert [int(design.quarter.sum()) for design in found] == [1082, 1030, 1255, 1177]


def test_sampled_designs_satisfy_the_rules():
    for index in range(10):
        quarter, threshold, _ = designs.sample(3, index, SETTINGS)
        assert 0 <= threshold <= SETTINGS.threshold_max
        assert np.array_equal(designs.accept(quarter, SETTINGS), quarter)
        assert min(side.sum() for side in (quarter[0], quarter[-1])) >= 4
        designs.check_cell(designs.mirror(quarter), "design")


def _cross(width: int) -> np.ndarray:
    """A plus of bars that leave through the middle of each side."""
    image = np.zeros((48, 48), np.uint8)
    image[20 : 20 + width] = 1
    image[:, 20 : 20 + width] = 1
    return image


def test_acceptance_counts_pixels_on_each_side():
    assert designs.accept(_cross(4), SETTINGS) is not None
    assert designs.accept(_cross(3), SETTINGS) is None
    one_side_short = _cross(4)
    one_side_short[20, -1] = 0
    assert designs.accept(one_side_short, SETTINGS) is None


def test_acceptance_needs_one_domain():
    island = _cross(4)
    island[2, 2] = 1
    assert designs.accept(island, SETTINGS) is None
    drop = SETTINGS.model_copy(update={"islands": "drop"})
    assert np.array_equal(designs.accept(island, drop), _cross(4))
    broken = _cross(4)
    broken[10] = 0
    assert designs.accept(broken, SETTINGS) is None


def test_pixels_that_touch_at_a_corner_are_not_neighbours():
    image = np.zeros((48, 48), np.uint8)
    image[:24, :24] = image[24:, 24:] = 1
    assert designs.accept(image, SETTINGS) is None
    image[24, 23] = 1
    assert designs.accept(image, SETTINGS) is not None


def test_mirror_keeps_the_upper_left_quarter():
    quarter = designs.sample(0, 0, SETTINGS).quarter
    cell = designs.mirror(quarter)
    assert cell.shape == (96, 96)
    assert np.array_equal(cell[:48, :48], quarter)
    assert np.array_equal(cell, cell[::-1])
    assert np.array_equal(cell, cell[:, ::-1])


def test_statistics_name_rate_and_range():
    text = designs.statistics(np.array([1, 3]), np.array([0.41, 0.62]))
    assert "50.00% of 4 fields" in text
    assert "mean 0.515, from 0.410 to 0.620" in text
    assert "0.40-0.45      1" in text


def test_missing_shard_is_one_sentence(tmp_path):
    config = Config(designs={"count": 4, "shard_size": 2})
    with pytest.raises(UserError, match="shard 2 does not exist: this run has shards 0 to 1"):
        designs.sample_shard(config, 2, tmp_path / "x.npz")


def _png(path, image, mode="L"):
    Image.fromarray(((1 - image) * 255).astype(np.uint8)).convert(mode).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "P"])
def test_black_pixels_of_a_png_are_solid(tmp_path, mode):
    quarter = designs.sample(0, 1, SETTINGS).quarter
    cell = designs.read_design(_png(tmp_path / "quarter.png", quarter, mode))
    assert np.array_equal(cell, designs.mirror(quarter))
    assert np.array_equal(designs.read_design(_png(tmp_path / "cell.png", cell, mode)), cell)


def test_transparent_pixels_are_void(tmp_path):
    cell = designs.mirror(_cross(4))
    rgba = np.zeros((96, 96, 4), np.uint8)
    rgba[..., 3] = 255 * cell
    Image.fromarray(rgba).save(tmp_path / "x.png")
    assert np.array_equal(designs.read_design(tmp_path / "x.png"), cell)


def test_unsymmetric_cells_are_read_as_they_are(tmp_path):
    cell = designs.mirror(_cross(4))
    cell[0:40, 40:60] = 1
    np.savez(tmp_path / "x.npz", anything=cell.astype(bool))
    assert np.array_equal(designs.read_design(tmp_path / "x.npz"), cell)


def _floating() -> np.ndarray:
    image = _cross(4)
    image[:10, :10] = 1
    return image


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"a": np.ones((50, 48))}, "the design is 50x48; give 48x48"),
        ({"a": np.ones((3, 48, 48))}, "a is 3 x 48 x 48, not rows x columns"),
        ({"a": np.full((48, 48), 0.5)}, "not binary"),
        ({"a": np.full((48, 48), np.nan)}, "not binary"),
        ({"a": np.zeros((48, 48))}, "does not touch the top platen"),
        ({"a": np.eye(96)[:48].repeat(2, axis=0)}, "is disconnected"),
        ({"quarter": _floating()}, r"disconnected: 3 parts \(of 1472, 200, 200 pixels\)"),
        ({"a": np.ones((48, 48)), "b": np.ones(3)}, "holds several arrays"),
    ],
)
def test_unusable_arrays_are_one_sentence(tmp_path, arrays, sentence):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=sentence):
        designs.read_design(tmp_path / "x.npz")


def test_unusable_files_are_one_sentence(tmp_path):
    for name, sentence in (("x.png", "give a PNG image"), ("x.npz", "give a PNG image, or an npz")):
        (tmp_path / name).write_text("hello")
        with pytest.raises(UserError, match=sentence):
            designs.read_design(tmp_path / name)
    grey = Image.fromarray(np.full((48, 48), 128, np.uint8))
    grey.save(tmp_path / "grey.png")
    with pytest.raises(UserError, match="not binary; draw only black"):
        designs.read_design(tmp_path / "grey.png")


def test_one_platen_is_not_enough():
    cell = np.zeros((96, 96), np.uint8)
    cell[:90, 40:50] = 1
    with pytest.raises(UserError, match="does not touch the bottom platen"):
        designs.check_cell(cell, "design")


def test_parts_joined_through_the_period_are_one():
    cell = np.zeros((96, 96), np.uint8)
    cell[:60, :5] = 1
    cell[50:, -5:] = 1
    designs.check_cell(cell, "design")
    cell[:, -1] = 0
    with pytest.raises(UserError, match="disconnected: 2 parts"):
        designs.check_cell(cell, "design")


def test_settings_that_no_field_meets_end_in_one_sentence(monkeypatch):
    monkeypatch.setattr(designs, "MOST_TRIES", 50)
    with pytest.raises(UserError, match="design 3: none of 50 .* designs.spectral_exponent"):
        designs.sample(0, 3, Config().designs.model_copy(update={"spectral_exponent": 0.5}))
