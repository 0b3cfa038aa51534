"""Small checkpoints, and ways to damage them."""

import json
import random

import torch
from safetensors.torch import save_file

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}
LONGEST = 900  # characters of a message: a sentence, a path or two, and shortened names
PLACED = dict(zip(STATE, ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")))


def shards(place, names=("model-00001-of-00002", "model-00002-of-00002"), ending="safetensors"):
    place.mkdir(exist_ok=True)
    for name, key in zip(names, STATE):
        save_file({key: STATE[key]}, place / f"{name}.{ending}")
    return place


def index(place, placed, name="model.safetensors.index.json"):
    (place / name).write_text(json.dumps({"weight_map": placed}))


def flipped(path, byte, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def mutations(content, seed):
    """Mutate bytes: flips, cuts, insertions, repeats, and numbers where lengths are."""
    rng = random.Random(seed)
    changed = bytearray(content)
    where = min(len(changed) - 1, int(rng.random() ** 3 * len(changed)))  # headers come first
    match rng.randrange(6):
        case 0:
            changed[where] ^= 1 << rng.randrange(8)
        case 1:
            del changed[where:]
        case 2:
            changed[where:where] = rng.randbytes(rng.randrange(1, 9))
        case 3:
            changed[where : where + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"[" * 8, b"9" * 8))
        case 4:
            del changed[where : where + rng.randrange(1, 40)]
        case 5:
            changed[where:where] = changed[where : where + 30]
    return bytes(changed)
