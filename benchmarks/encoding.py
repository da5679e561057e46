"""How fast texts become vectors: publishing beside the bare model, and user vectors.

    python -m benchmarks.encoding                       # bundled model; minutes on two cores
    python -m benchmarks.encoding --personas 100000 --device cuda --dtype bfloat16
    python -m benchmarks.encoding --random bge-m3 --device cuda --personas 100000
    python -m benchmarks.encoding --device cpu --backends onnx-int8 --processor-time

"raw" is `SentenceTransformer.encode` on all texts at once, which sorts them by length: the most
that this model gives on this machine. "publish" is `encode_texts` on chunks of the size that
`p4r publish` hands it, in the order of the artifacts; the aim is 0.95 of raw. They take turns, and
the ratio is of medians. `--backends` adds publishing by ONNX Runtime, in turn with the others.
`--processor-time` counts seconds of the processor, for a busy machine. With `--random` the weights
are random, in the architecture of the name: as fast as the real ones, where those cannot be had;
their vectors say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from indexer.indexing.items import CHUNK, MOST_ITEMS
from p4r_qdrant import Interaction, Persona, PersonaEncoder, texts
from p4r_qdrant.encoder.fingerprint import PROBES, TWIN
from p4r_qdrant.encoder.local import BUNDLED_MODEL
from p4r_qdrant.index.batching import batches

RESULTS = Path(__file__).parent / "results" / "encoding.json"
USERS = (1, 10, 100)
AIMS = {"publish": ">= 0.95", "publish, onnx-int8": ">= 2"}
HISTORY = 10
TEXT = (
    "reader who likes quiet evenings long walks and maps of harbours that no longer exist because "
    "the book takes its time with people work weather and the price of bread in a small town"
)
WORDS = TEXT.split()
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bge-m3": {
        "vocab_size": 250_002,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 8194,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
    "tiny": {  # to try the command
        "vocab_size": 200,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
}


def catalogue(personas: int) -> list[list[str]]:
    """The texts of each item's personas: 1 to 7, of 30 to 160 words, as reasoned ones have."""
    random = np.random.default_rng(0)
    items: list[list[str]] = []
    total = 0
    while total < personas:
        summary = " ".join(random.choice(WORDS, random.integers(10, 60)))
        count = min(int(random.integers(2, 8)), personas - total)
        items.append([texts.persona_text(_persona(random, n), summary) for n in range(count)])
        total += count
    return items


def _persona(random: np.random.Generator, number: int) -> Persona:
    def some(low: int, high: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(low, high)))

    return Persona(
        persona_id=f"P{number}",
        name=some(2, 5),
        description=some(10, 60),
        preference_rationale=some(8, 40),
    )


def histories(users: int) -> list[list[Interaction]]:
    random = np.random.default_rng(1)
    return [
        [
            Interaction(
                f"item-{random.integers(1_000_000)}",
                number,
                summary=" ".join(random.choice(WORDS, 30)) + f" {user} {number}",
                aspects={"usage_context": " ".join(random.choice(WORDS, 8))},
            )
            for number in range(HISTORY)
        ]
        for user in range(users)
    ]


@contextmanager
def model_at(arguments: argparse.Namespace) -> Iterator[str]:
    """The model to load: the one that is named, or one made with random weights."""
    if arguments.random is None:
        yield arguments.model
        return
    with tempfile.TemporaryDirectory(prefix="p4r-random-") as folder:
        _random_model(arguments.random, Path(folder))
        yield folder


def _random_model(name: str, folder: Path) -> None:
    """An XLM-RoBERTa with random weights, and a tokenizer that takes a word for a token or two."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    # Weights so large that different texts get different vectors.
    config = XLMRobertaConfig(**ARCHITECTURES[name], initializer_range=0.2)
    XLMRobertaModel(config).save_pretrained(folder)
    split = pre_tokenizers.Whitespace()
    probed = [word for text in (*PROBES, TWIN) for word, _ in split.pre_tokenize_str(text)]
    known = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted({*WORDS, *probed})]
    tokenizer = Tokenizer(models.WordLevel({one: at for at, one in enumerate(known)}, "<unk>"))
    tokenizer.pre_tokenizer = split
    whole: Any = PreTrainedTokenizerFast
    whole(
        tokenizer_object=tokenizer,
        model_max_length=512,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
    ).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=512)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
    SentenceTransformer(modules=[transformer, pooling]).save(str(folder))


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def compare(
    encoder: PersonaEncoder,
    others: list[PersonaEncoder],
    items: list[list[str]],
    repeat: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Median seconds for all personas, by the bare model and as publishing does it.

    others: encoders of other backends, which publish too.
    """
    every = [text for item in items for text in item]
    longest_last: list[Any] = sorted(every, key=len)
    chunk = min(CHUNK * encoder.workers, MOST_ITEMS)

    def raw() -> None:
        encoder.sentence_transformer.encode(
            longest_last, batch_size=encoder.batch_size, convert_to_numpy=True
        )

    def publish(encoder: PersonaEncoder) -> None:
        for some in batches(items, chunk):
            encoder.encode_texts([text for item in some for text in item])

    ways: list[tuple[str, Callable[[], None]]] = [
        ("raw", raw),
        ("publish", partial(publish, encoder)),
    ]
    ways += [(f"publish, {other.backend}", partial(publish, other)) for other in others]
    for one in (encoder, *others):
        one.encode_texts(every[:64])  # warm
    taken: dict[str, list[float]] = {name: [] for name, _ in ways}
    for turn in range(repeat):
        for name, way in ways if turn % 2 else ways[::-1]:
            taken[name].append(seconds(way, clock))
    return {name: median(times) for name, times in taken.items()}


def users_ms(encoder: PersonaEncoder, counts: list[int], repeat: int) -> dict[int, float]:
    """Median milliseconds for the vectors of so many users of ten interactions each."""
    found = {}
    for users in counts:
        asked = histories(users)
        times = max(1, repeat * 10 // users)
        found[users] = 1000 * median(
            seconds(lambda: encoder.user_vectors(asked, length=HISTORY, decay=0.85))  # noqa: B023
            for _ in range(times)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUNDLED_MODEL)
    parser.add_argument("--random", choices=sorted(ARCHITECTURES), help="random weights instead")
    parser.add_argument("--adapter")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--personas", type=int, default=1500)
    parser.add_argument("--users", type=int, nargs="+", default=list(USERS))
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--backends", nargs="+", default=[], choices=["onnx-int8"])
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with model_at(arguments) as model:
        encoder = PersonaEncoder(
            model,
            adapter=arguments.adapter,
            device=arguments.device,
            dtype=arguments.dtype,
            batch_size=arguments.batch_size,
        )
        others = [
            PersonaEncoder(
                model,
                adapter=arguments.adapter,
                batch_size=arguments.batch_size,
                backend=backend,
            )
            for backend in arguments.backends
        ]
    clock = time.process_time if arguments.processor_time else time.perf_counter
    name = f"{arguments.random}, random weights" if arguments.random else encoder.name
    items = catalogue(arguments.personas)
    taken = compare(encoder, others, items, arguments.repeat, clock)
    ratios = {way: taken["raw"] / time_taken for way, time_taken in taken.items()}
    milliseconds = users_ms(encoder, arguments.users, arguments.repeat)

    console = Console(width=max(Console().width, 100))
    shown = Table(title=f"{name} on {encoder.device}, {arguments.personas:,} personas")
    for column in ("", "personas/s", "of raw", "aim"):
        shown.add_column(column, justify="right" if column else "left")
    for way, time_taken in taken.items():
        shown.add_row(
            way,
            f"{arguments.personas / time_taken:,.1f}",
            f"{ratios[way]:.3f}",
            AIMS.get(way, ""),
        )
    console.print(shown)
    shown = Table(title=f"User vectors of {HISTORY} interactions each")
    for column in ("users", "ms", "users/s"):
        shown.add_column(column, justify="right")
    for users, taken_ms in milliseconds.items():
        shown.add_row(str(users), f"{taken_ms:,.1f}", f"{1000 * users / taken_ms:,.1f}")
    console.print(shown)

    report = {
        "model": name,
        "device": encoder.device,
        "dtype": arguments.dtype,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "personas": arguments.personas,
        "seconds": taken,
        "processor_time": arguments.processor_time,
        "ratios": ratios,
        "user_vectors_ms": milliseconds,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1))
    console.print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
