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
    report: Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Summary:
    """Write config.json, safetensors and a model card, for `from_pretrained` of transformers.

    transformers loads the model as MT5, T5, umT5 or Switch. If it has no class for the model, the
    directory has a modelling file: load it with `trust_remote_code=True`.

        mswitch export-hf runs/mt5-tiny --out hf/mt5-tiny --vocab runs/vocabulary

    Args:
        run: a run directory, or its gs:// or s3:// URL.
        out: the new directory.
        vocab: the run's vocabulary, a directory or a SentencePiece model file, which is also
            written, as tokenizer.json.
        step: step of the checkpoint; by default the one that `mswitch predict --select` chose, else
            the newest.
        report: directory of a report on the run, whose result the model card quotes.
        max_shard_bytes: largest size of a file.
    """
    from mswitch.models.huggingface.convert import export_hf as run_export

    use_only_cpu()
    return run_export(
        run, out, vocab=vocab, step=step, report=report, max_shard_bytes=max_shard_bytes
    )
