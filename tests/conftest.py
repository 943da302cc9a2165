"""Fixtures that several layers share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# CLD3 crashes where TensorFlow, which has another protobuf, was imported before it.
import gcld3  # noqa: F401
import pytest
from hypothesis import settings

from mswitch.pipelines.garbage import collect_rarely

# As the commands do.
collect_rarely()

# What several tests compile, here or in processes that they start, is compiled once; and not again
# when the tests run again.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Here, before any test imports JAX, so that this process and those it starts compile alike.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the time of tests of models, most of it to make tiny models fast. The older
# emitters of fusions compile in half the time of the new ones.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

# Timings on a busy machine say nothing; examples are not kept between runs, of which each tries
# others. Continuous integration tries the same ones: what it finds shall come from the change.
settings.register_profile("mswitch", deadline=None, database=None, max_examples=30)
settings.register_profile("ci", settings.get_profile("mswitch"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "mswitch")


@pytest.fixture(scope="session", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let trainings of these tests wait for no others of this machine."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


RunDemo = Callable[..., subprocess.CompletedProcess[str]]

#: The longest files of `make test`, which come first: at the end no worker waits for another.
LONG = ("test_predict.py", "test_decode.py", "test_pretrain.py", "test_upcycle.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests: see LONG."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def demo_steps() -> int:
    """Training steps of each model in the tests' demo, each of them evaluated."""
    return 3


@pytest.fixture(scope="session")
def run_demo(demo_steps: int) -> RunDemo:
    """Give a function that runs `mswitch demo` as a user would."""

    def run(out: Path, *options: str, steps: int = demo_steps) -> subprocess.CompletedProcess[str]:
        arguments = ["demo", "--out", str(out), "--steps", str(steps)]
        if "--sample" not in options:
            arguments += ["--sample", "gflanguages", "--finetune-steps", "4"]  # needs no network
        return subprocess.run(
            [sys.executable, "-m", "mswitch.flows.cli.main", *arguments, *options],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, run_demo: RunDemo) -> Path:
    """Give the output of one real demo with few training steps.

    Tests that use it are in one file, which `--dist loadfile` gives to one worker: it runs once.
    """
    out = tmp_path_factory.mktemp("demo") / "demo"
    done = run_demo(out)
    assert done.returncode == 0, done.stderr
    return out
