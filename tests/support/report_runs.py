"""Run directories as training and evaluation leave them, made from synthetic loss curves."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines.languages import languages, mc4_codes

EXPERTS = 32


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What a pair of synthetic runs is made of.

    Attributes:
        documents: validation documents per language.
        speed_ups: true step speed-up per language, or of all.
        steps: training steps; 16 log-spaced ones are evaluated.
        noise: standard deviation of a document's own deviation per step, nats per token.
        preset_names: presets of baseline and candidate.
        train_tokens: distinct training tokens per language.
        rising: languages whose loss rises after a twentieth of the steps (overfitting).
        seed: of everything drawn.
        train_seed: of the training; another one than 0 draws other noise for the same documents.
    """

    documents: Mapping[str, int]
    speed_ups: Mapping[str, float] | float
    steps: int = 1000
    noise: float = 0.02
    preset_names: tuple[str, str] = ("mt5-base", "mswitch-base")
    train_tokens: int = 40_000
    rising: frozenset[str] = frozenset()
    seed: int = 0
    train_seed: int = 0


def evaluated_steps(steps: int) -> list[int]:
    """Sixteen log-spaced steps, the last one included."""
    return sorted({round(step) for step in np.geomspace(1, steps, 16)})


def true_loss(steps: np.ndarray, total: int, rising: bool) -> np.ndarray:
    """A pretraining-like curve: a power law over a floor, here and there with overfitting."""
    loss = 1.4 + 5.5 * (steps + 0.004 * total) ** -0.25 * (0.004 * total) ** 0.25
    return loss + (0.5 * np.log(np.maximum(20 * steps / total, 1)) if rising else 0)


def write_runs(root: Path, scenario: Scenario) -> tuple[Path, Path]:
    """Write a baseline and a candidate run directory under `root`."""
    generator = np.random.default_rng(scenario.seed)
    of_training = np.random.default_rng(scenario.train_seed)
    steps = evaluated_steps(scenario.steps)
    columns: dict[str, list[Any]] = {"lang": [], "document": [], "tokens": [], "sizes": []}
    nats: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for lang in sorted(scenario.documents):
        count = scenario.documents[lang]
        ids = sorted(generator.bytes(16).hex() for _ in range(count))
        tokens = generator.integers(12, 240, count)
        hardness = np.exp(0.25 * generator.standard_normal((count, 1)))
        offset = generator.uniform(0.75, 1.35)
        columns["lang"] += [lang] * count
        columns["document"] += ids
        columns["tokens"] += tokens.tolist()
        columns["sizes"] += (4 * tokens).tolist()
        of_all = scenario.speed_ups
        faster = of_all if isinstance(of_all, float) else of_all[lang]
        for model, factor in enumerate((1.0, faster)):
            curve = true_loss(
                factor * np.array(steps, dtype=float), scenario.steps, lang in scenario.rising
            )
            noise = scenario.noise * generator.standard_normal((count, len(steps)))
            if scenario.train_seed:
                noise = scenario.noise * of_training.standard_normal(noise.shape)
            per_token = offset * curve[None, :] * hardness + noise
            nats[model].append(np.maximum(per_token, 0.01) * tokens[:, None])
    directories = []
    for model, role in enumerate(("baseline", "candidate")):
        directory = root / role
        (directory / "eval").mkdir(parents=True)
        losses = np.concatenate(nats[model])
        for index, step in enumerate(steps):
            table = pa.table(
                {
                    "lang": columns["lang"],
                    "document": columns["document"],
                    "nats": losses[:, index],
                    "target_tokens": pa.array(columns["tokens"], pa.int64()),
                    "target_bytes": pa.array(columns["sizes"], pa.int64()),
                }
            )
            pq.write_table(table, directory / "eval" / f"{step}.parquet")
        _write_config(directory, scenario, model, steps)
        if model == 1:
            _write_routing(directory, scenario, steps[-1])
        directories.append(directory)
    return directories[0], directories[1]


def _write_routing(directory: Path, scenario: Scenario, step: int) -> None:
    """Two sparse layers in each stack; those of the encoder know scripts, the decoder's nothing."""
    generator = np.random.default_rng(scenario.seed)
    scripts = sorted({language.script for language in languages().values()})
    taste = generator.dirichlet(np.full(EXPERTS, 0.3), len(scripts))
    rows = []
    for lang, documents in sorted(scenario.documents.items()):
        script = languages()[lang].script if lang in languages() else "Latn"
        for layer in range(4):
            even = np.full(EXPERTS, 1 / EXPERTS)
            shares = taste[scripts.index(script)] if layer < 2 else even
            counts = generator.multinomial(600 * documents, shares)
            rows += [(lang, layer, expert, int(n)) for expert, n in enumerate(counts)]
    names = ("lang", "layer", "expert", "tokens")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    (directory / "routing").mkdir()
    pq.write_table(pa.table(columns), directory / "routing" / f"{step}.parquet")


def _write_config(directory: Path, scenario: Scenario, model: int, steps: list[int]) -> None:
    sparse = model == 1
    total = sum(scenario.documents.values())
    config = {
        "preset": scenario.preset_names[model],
        "model": {
            "d_model": 768,
            "encoder_layers": 4,
            "sparse_every": 2,
            "experts": EXPERTS if sparse else 0,
        },
        "train": {
            "steps": scenario.steps,
            "batch_size": 32,
            "seed": scenario.train_seed,
            "warmup_steps": 100,
        },
        "examples": {"path": "../examples", "config_hash": "ab" * 8, "vocabulary_sha256": "c" * 64},
        "parameters": 7_775_000_000 if sparse else 582_400_000,
        "parameters_by_group": {"experts": 7_247_757_312} if sparse else {},
        "flops_per_step": 1.09e12 if sparse else 1.02e12,
        "tokens_per_step": 32 * (1024 + 229),
        "languages": {
            lang: {
                "train_records": 20 * count,
                "train_tokens": scenario.train_tokens,
                "train_bytes": 4 * scenario.train_tokens,
                "rate": count / total,
            }
            for lang, count in scenario.documents.items()
        },
        "device": "NVIDIA H100",
        "config_hash": f"{model}" * 16,
        "eval_steps": steps,
    }
    (directory / "config.json").write_text(json.dumps(config))
    secs = 0.31 if sparse else 0.2
    with (directory / "metrics.jsonl").open("w") as file:
        for step in range(1, scenario.steps + 1):
            line = {
                "step": step,
                "train/loss": 9 * step**-0.2,
                # The first steps compile.
                "train/step_secs": 40.0 if step <= 2 else secs + 0.001 * (step % 5),
            }
            if sparse:
                line |= {"router/drop_fraction": 0.004, "router/entropy": 2.1, "router/max_load": 3}
            file.write(json.dumps(line) + "\n")
    marker = {"config_hash": f"{model}" * 16, "step": scenario.steps, "final_loss": 2.0}
    (directory / "_COMPLETED").write_text(json.dumps(marker))


def many_languages(seed: int = 0, few: bool = False) -> Scenario:
    """All of mC4's codes; with `few`, hardly any has five documents, as in a small sample."""
    generator = np.random.default_rng(seed)
    documents = {lang: int(generator.choice([1, 1, 2, 3])) for lang in mc4_codes()}
    for lang in ["de", "tr"] if few else mc4_codes()[::2]:
        documents[lang] = int(generator.integers(6, 25))
    speed_ups = {lang: float(np.exp(generator.normal(1.3, 0.45))) for lang in mc4_codes()}
    if not few:
        speed_ups |= {"az": 0.7, "fi": 0.85, "sw": 2000.0, "ja": 3000.0}
    return Scenario(documents, speed_ups, rising=frozenset({"bg-Latn", "eo"}), seed=seed)


def read_config(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())


def edit_config(run: Path, **changes: Any) -> None:
    (run / "config.json").write_text(json.dumps({**read_config(run), **changes}))
