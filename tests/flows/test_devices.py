"""What is said of devices that cannot be used."""

import pytest

from mswitch.flows import devices
from mswitch.pipelines.errors import UserError


def test_a_driver_that_ends_the_process_without_a_word_is_said(monkeypatch):
    monkeypatch.setattr(devices, "_SCRIPT", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(UserError, match=r"JAX ended with code -11 without a word"):
        devices.find_devices()
