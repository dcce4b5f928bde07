"""A character-level language model: a GRU reads texts in chunks and carries its state from one to the next.

    python examples/character_model.py [--minutes 2] [--hidden 256] [--steps 64] [--streams 32] [--seed 0]

The texts are Python's own help topics. Gradients go back over a chunk of ``--steps`` characters (truncated
backpropagation through time, Williams and Peng 1990); the state goes on through the topic and begins anew
with the next one. Held-out topics are scored in bits per character, beside how often each character is used.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gatewright as gw
from gatewright.data.streams import Chunk


class CharacterModel(nn.Module):
    """Embedding → GRU → dropout → Linear: from characters ``[T, B]`` to logits of the next ``[T, B, K]``."""

    def __init__(self, characters: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 64)
        self.recurrent = gw.GRU(64, hidden)
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(hidden, characters))

    def forward(self, codes: Tensor, state: Tensor | None, **options: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the state to go on from; the options are the layer's."""
        y, after = self.recurrent(self.embedding(codes), state, **options)
        return self.head(y), after


def read_topics() -> list[str]:
    """The help topics; many repeat parts of others, so a paragraph stays in the first topic that has it."""
    seen, texts = set(), []
    for name in sorted(topics):
        paragraphs = topics[name].split("\n\n")
        texts.append("\n\n".join(paragraph for paragraph in paragraphs if paragraph not in seen))
        seen.update(paragraphs)
    return [text for text in texts if len(text) > 200]  # of some little more than a heading is left


def unigram_bits(training: list[Tensor], held_out: list[Tensor], characters: int) -> float:
    """Bits per character, but for the first of each topic, by frequency alone; none is impossible."""
    counts = torch.cat(training).bincount(minlength=characters) + 1
    return -(counts / counts.sum()).log2()[torch.cat([codes[1:] for codes in held_out])].mean().item()


def chunk_nats(model: CharacterModel, chunk: Chunk, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Nats of each predicted character ``[N]``, and the state after, through which no gradient goes back."""
    logits, after = model(chunk.inputs, state, resets=chunk.resets, mask=chunk.valid)
    return F.cross_entropy(logits[chunk.valid], chunk.targets[chunk.valid], reduction="none"), after.detach()


@torch.no_grad()
def network_bits(model: CharacterModel, texts: list[Tensor]) -> float:
    """Bits per character; the few places where topics are cut for speed count as if nothing came before."""
    nats, state = [], None
    for chunk in gw.Streams(texts, streams=32, steps=128, next_step=True, cut=True):
        found, state = chunk_nats(model.eval(), chunk, state)
        nats.append(found)
    return torch.cat(nats).mean().item() / math.log(2)


def train(model: CharacterModel, streams: gw.Streams, held_out: list[Tensor], updates: int) -> float:
    """Adam on clipped gradients, at a rate that falls to 0; the bits per character then."""
    optimizer = torch.optim.Adam(model.parameters())
    began, done, state = time.perf_counter(), 0, None
    while True:
        for chunk in streams:
            if done % max(1, updates // 10) == 0 or done == updates:
                bits, seconds = network_bits(model, held_out), time.perf_counter() - began
                print(f"{done:5d} updates, {seconds:4.0f} s: {bits:.3f} bits per character")
                if done == updates:
                    return bits
            nats, state = chunk_nats(model.train(), chunk, None if chunk.first else state)
            optimizer.zero_grad()
            nats.mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = 4e-3 * (1 - done / updates)
            optimizer.step()
            done += 1


@torch.no_grad()
def write_line(model: CharacterModel, alphabet: str, length: int = 150) -> str:
    """Draw one character after another, as a topic would begin."""
    text, state = "The", None
    codes = torch.tensor([[alphabet.index(character)] for character in text])
    for _ in range(length):
        logits, state = model(codes, state)
        codes = torch.multinomial((logits[-1] / 0.7).softmax(-1), 1)  # below 1, likely ones more often
        text += alphabet[int(codes)]
    return " ".join(text.split())


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """Train, score and write a line; gives the bits per character of the network and of the frequencies."""
    parser = argparse.ArgumentParser(description="Train a character-level language model.")
    for name, default in {"updates": 1000, "hidden": 256, "steps": 64, "streams": 32, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    texts = read_topics()
    alphabet = "".join(sorted(set("".join(texts))))
    codes = [torch.tensor([alphabet.index(character) for character in text]) for text in texts]
    held_out, training = codes[::10], [topic for number, topic in enumerate(codes) if number % 10]
    unigram = unigram_bits(training, held_out, len(alphabet))
    print(f"{unigram:.3f} bits per character by frequency alone")
    # topics differ much in length, parts of the line they make do not
    sizes = {"streams": options.streams, "steps": options.steps}
    streams = gw.Streams(training, **sizes, next_step=True, cut=True, shuffle=True)
    model = CharacterModel(len(alphabet), options.hidden)
    bits = train(model, streams, held_out, options.updates)
    print(write_line(model, alphabet))
    return bits, unigram


if __name__ == "__main__":
    main()
