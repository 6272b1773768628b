"""Specs that were put on disk come back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.prompts.fields import Found
from src.prompts.spec_spool import SpecSpool
from src.prompts.specs import PromptSpec

TEXT = st.text(max_size=5)
VALUES = st.none() | st.integers() | TEXT | st.lists(TEXT, max_size=2) | st.dictionaries(TEXT, TEXT, max_size=2)
PATHS = st.sampled_from([Path("a.mp4"), Path("b.mp4")])
SPECS = st.builds(
    PromptSpec,
    *(
        TEXT,
        TEXT,
        TEXT,
        st.none() | TEXT,
        st.none() | PATHS,
        PATHS,
        TEXT,
        TEXT,
        st.dictionaries(TEXT, VALUES, max_size=3),
    ),
    found=st.builds(Found, st.none() | TEXT),
    unused=st.lists(TEXT, max_size=2).map(tuple),
    note=TEXT,
)


@given(st.lists(SPECS, max_size=3))
def test_specs_come_back_in_order(tmp_path_factory: pytest.TempPathFactory, written: list[PromptSpec]) -> None:
    spool = SpecSpool(tmp_path_factory.getbasetemp())
    for spec in written:
        spool.add(spec)
    assert list(spool) == list(spool) == written
