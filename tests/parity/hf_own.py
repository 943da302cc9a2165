"""Load, decode, train and save models that have their own modelling file (needs no mswitch).

hf_own.py DIR OUT   DIR is an export with `expected.npz` (inputs, decoder_inputs, targets) in it
"""

import sys
from pathlib import Path

import numpy as np
import torch
from hf_models import GENERATED, decoding, logits
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

STEPS = 50


def load(directory: Path, dtype: str = "float32") -> torch.nn.Module:
    model, info = AutoModelForSeq2SeqLM.from_pretrained(
        directory, trust_remote_code=True, output_loading_info=True, torch_dtype=dtype
    )
    assert not any(info.values()), info
    return model.eval()


def train(
    model: torch.nn.Module, directory: Path, source: torch.Tensor, targets: torch.Tensor, out: Path
):
    """The loss in training, and the first and last of a fine-tuning; all parameters learn."""
    rows = [
        {"input_ids": x[x > 0].tolist(), "labels": y[y > 0].tolist()}
        for x, y in zip(source, targets, strict=True)
    ]
    model.train()
    labels = targets.masked_fill(targets == 0, -100)
    loss = model(input_ids=source, attention_mask=(source != 0).long(), labels=labels).loss
    loss.backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name
    model.zero_grad()
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    model.generate(**tokenizer("a cab <extra_id_0>", return_tensors="pt"), max_new_tokens=2)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(out),
        max_steps=STEPS,
        per_device_train_batch_size=3,
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    trainer = Seq2SeqTrainer(model, arguments, train_dataset=rows, data_collator=collator)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return np.array([loss.item(), losses[0], losses[-1]])


def main(directory: Path, out: Path) -> None:
    torch.set_num_threads(1)
    model = load(directory)
    with np.load(directory / "expected.npz") as file:
        batch = dict(file)
    source = torch.tensor(batch["inputs"], dtype=torch.long)
    targets = torch.tensor(batch["targets"], dtype=torch.long)
    model.save_pretrained(out / "saved")
    again = load(out / "saved")
    again.save_pretrained(out / "again")
    made = {
        "logits": logits(model, batch, cached=False),
        "again": logits(again, batch, cached=False),
        "bfloat16": to_float(load(directory, "bfloat16"), batch),
    }
    options = decoding(source, GENERATED)
    del options["suppress_tokens"]  # generation_config.json has it
    with torch.no_grad():
        greedy = model.generate(source, **options)[:, 1:].numpy()
        uncached = model.generate(source, **options, use_cache=False)[:, 1:].numpy()
        options |= {"num_beams": 3, "length_penalty": 0.0}
        beams = model.generate(source, **options)
        uncached_beams = model.generate(source, **options, use_cache=False)
    np.testing.assert_array_equal(beams, uncached_beams)
    made |= {"greedy": pad(greedy), "uncached": pad(uncached)}
    made["losses"] = train(again, directory, source, targets, out / "trainer")
    again.save_pretrained(out / "tuned")
    made["tuned"] = logits(again.eval(), batch, cached=False)
    made["tuned_again"] = logits(load(out / "tuned"), batch, cached=False)
    np.savez(out / "made.npz", **made)


def pad(ids: np.ndarray) -> np.ndarray:
    return np.pad(ids, ((0, 0), (0, GENERATED - ids.shape[1]))).astype(np.int32)


@torch.no_grad()
def to_float(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> np.ndarray:
    source = torch.tensor(batch["inputs"], dtype=torch.long)
    decoder_inputs = torch.tensor(batch["decoder_inputs"], dtype=torch.long)
    made = model(source, attention_mask=source != 0, decoder_input_ids=decoder_inputs)
    assert made.logits.dtype == torch.bfloat16
    return made.logits.float().numpy()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
