"""What JAX's devices refuse, in words for users."""

import contextlib
import os
from collections.abc import Iterator

import jax

from mswitch.pipelines.errors import UserError, is_disk_full


def check_devices() -> None:
    """Find out whether JAX can compute at all. Before a job is joined is too early to ask."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # a platform without its plugin is the latter
        if "DEADLINE_EXCEEDED" in str(error):
            raise  # another process of the job did not come
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it has no plugin"
        asked = os.environ.get("JAX_PLATFORMS")
        raise UserError(
            f"JAX cannot compute on {f'JAX_PLATFORMS={asked}' if asked else 'this machine'} "
            f"({reason}): install what it needs, or set JAX_PLATFORMS=cpu (`mswitch doctor` says "
            "what JAX finds)"
        ) from error


@contextlib.contextmanager
def memory_explained() -> Iterator[None]:
    """Say what helps where a device runs out of memory."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or is_disk_full(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"a device has too little memory ({reason}): spread the model over more of them "
            "(--model-parallel, and where there are these options --expert-parallel and "
            "--data-parallel), or give less at a time (--batch-size); a training also takes less "
            "with --microbatches, --remat layers and --loss-chunks (`mswitch plan` finds what fits "
            "a TPU slice)"
        ) from error
