"""Packages offer tasks and objectives by entry points; what none offers gets the nearest name."""

import sys

import pytest

from isentropic.own.packages import load_offered, offered, version


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package as pip would install it: a module, and metadata with entry points."""
    (tmp_path / "words_of_mine.py").write_text("class Words:\n    pass\n")
    metadata = tmp_path / "words_of_mine-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: words-of-mine\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(
        "[isentropic.tasks]\nwords = words_of_mine:Words\nbroken = words_of_mine:Absent\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("words_of_mine", None)


def test_what_a_package_offers_is_found_loaded_and_versioned(package):
    assert {"words", "broken"} <= set(offered("task"))
    assert not {"words"} & set(offered("objective"))
    assert load_offered("task.class_name", "task", "words").__name__ == "Words"
    assert version("task", "words") == "words-of-mine 1.2"


def test_what_none_offers_and_what_cannot_be_imported_is_refused(package):
    with pytest.raises(ValueError, match=r"task.class_name=word: no installed package.*'words'"):
        load_offered("task.class_name", "task", "word")
    with pytest.raises(ValueError, match=r"broken .words_of_mine:Absent. cannot be imported"):
        load_offered("task.class_name", "task", "broken")
