"""`mswitch export-hf`: write a checkpoint for `from_pretrained`."""

from pathlib import Path

from cyclopts import App

from mswitch.flows.stages.common import use_only_cpu
from mswitch.flows.stages.stage import Summary, stage

app = App(name="export-hf")


@stage(app, "export-hf", reads={"run": "runs"})
def export_hf(
    run: str,
    *,
    out: Path,
    vocab: str | None = None,
    step: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Summary:
    """Write config.json and safetensors, which transformers loads as MT5, T5 or Switch.

    A Switch model needs ReLU experts (presets switch-base-*): Hugging Face has no gated experts.

        mswitch export-hf runs/mt5-tiny --out hf/mt5-tiny --vocab runs/vocabulary

    Args:
        run: a run directory, or its gs:// or s3:// URL.
        out: the new directory.
        vocab: the run's vocabulary, a directory or a SentencePiece model file, which is also
            written, as tokenizer.json.
        step: step of the checkpoint; by default the one that `mswitch predict --select` chose, else
            the newest.
        max_shard_bytes: largest size of a file.
    """
    from mswitch.models.huggingface.convert import export_hf as run_export

    use_only_cpu()
    return run_export(run, out, vocab=vocab, step=step, max_shard_bytes=max_shard_bytes)
