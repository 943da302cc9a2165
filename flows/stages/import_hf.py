"""`mswitch import-hf`: make a run from a Hugging Face model."""

from pathlib import Path

from cyclopts import App

from mswitch.flows.stages.common import use_only_cpu
from mswitch.flows.stages.stage import Summary, stage

app = App(name="import-hf")


@stage(app, "import-hf", makes="runs")
def import_hf(directory: Path, *, out: str) -> Summary:
    """Read config.json and safetensors (sharded or not) into a run with one checkpoint, of step 0.

    `mswitch evaluate`, `predict`, `finetune` and `export-hf` accept this run like any other.

        mswitch import-hf mt5-small --out runs/mt5-small
        mswitch evaluate --run runs/mt5-small --examples EXAMPLES

    Args:
        directory: the model's directory, from `save_pretrained` or a download.
        out: the run directory, or a gs:// or s3:// URL.
    """
    from mswitch.models.huggingface.convert import import_hf as run_import

    use_only_cpu()
    return run_import(directory, out)
