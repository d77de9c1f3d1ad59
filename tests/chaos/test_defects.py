"""The list of defects fits the present tree, so that proving the instrument stays possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.defect_list import DEFECTS, Defect
from tests.chaos.defects import edited
from tests.chaos.faults import FAULTS
from tests.faults.nodes import ROOT


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_still_applies(defect: Defect) -> None:
    for path, text in edited(ROOT, defect).items():
        assert text != path.read_text()
        if path.suffix == ".py":
            compile(text, str(path), "exec")


def test_the_faults_that_defects_name_exist() -> None:
    assert {name for defect in DEFECTS for name in defect.faults} <= {fault.name for fault in FAULTS}


def test_there_are_ten_defects_and_more() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 10


def test_a_tree_without_the_text_is_refused(tmp_path: Path) -> None:
    defect = DEFECTS[0]
    target = tmp_path / defect.edits[0].path
    target.parent.mkdir(parents=True)
    target.write_text("something else")
    with pytest.raises(ValueError, match="0 times, not once"):
        edited(tmp_path, defect)
