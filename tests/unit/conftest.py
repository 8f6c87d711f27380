"""Fixtures of the unit tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from chromium import Chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One for all tests of pages; each says how it looks and opens its own."""
    profile = tmp_path_factory.mktemp("profile")
    with Chromium(profile) as chromium:
        yield chromium
    shutil.rmtree(profile, ignore_errors=True)
