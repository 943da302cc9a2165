"""What is said of devices that cannot be used."""

import pytest

from mswitch.flows import devices_found
from mswitch.pipelines.errors import UserError


def test_a_driver_that_ends_the_process_without_a_word_is_said(monkeypatch):
    monkeypatch.setattr(devices_found, "_SCRIPT", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(UserError, match=r"JAX ended silently with code -11"):
        devices_found.find_devices()
