"""Explain errors of JAX's devices to users."""

import contextlib
import os
from collections.abc import Iterator

import jax

from mswitch.pipelines.errors import UserError, is_disk_full


def check_devices() -> None:
    """Check that JAX can compute at all; call it only after joining a job."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError if a plugin is missing
        if "DEADLINE_EXCEEDED" in str(error):
            raise  # another process of the job did not join
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it has no plugin"
        asked = os.environ.get("JAX_PLATFORMS")
        raise UserError(
            f"JAX cannot compute on {f'JAX_PLATFORMS={asked}' if asked else 'this machine'} "
            f"({reason}): install what it needs, or set JAX_PLATFORMS=cpu (`mswitch doctor` lists "
            "the devices that JAX sees)"
        ) from error


@contextlib.contextmanager
def explain_memory() -> Iterator[None]:
    """Explain what helps if a device runs out of memory."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or is_disk_full(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"a device has too little memory ({reason}): spread the model over more devices "
            "(if the command has them: --model-parallel, --expert-parallel, --data-parallel), or "
            "use a smaller --batch-size; a training also needs less with --microbatches, "
            "--remat layers and --loss-chunks (`mswitch plan` finds settings that fit a TPU slice)"
        ) from error
