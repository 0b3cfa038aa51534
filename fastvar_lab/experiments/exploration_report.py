"""What was tried in an exploration, as a web page without other files, and as a folder."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from fastvar_lab.files import folder, write, write_json, write_utf8
from fastvar_lab.methods.columns import family
from fastvar_lab.pictures import write_image
from fastvar_lab.seam import Method

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#212121;background:#fff}figure{display:inline-block;margin:0 1rem 0 0;max-width:46%}"
    "img{max-width:100%;height:auto}pre{background:#f3f3f3;padding:.7rem;overflow-wrap:anywhere;"
    "white-space:pre-wrap}table{border-collapse:collapse}td,th{padding:.1rem .9rem .1rem 0;"
    "text-align:left}section{border-top:1px solid #bdbdbd;margin-top:1.5rem}"
)


@dataclass(frozen=True)
class Tried:
    """Two methods that were tried on a prompt and seed, with their pictures (H, W, 3) uint8.

    `psnr` (dB) and `ssim` compare A with B; `speedup` is that of A, by counted operations. `python`
    draws A's picture again; `provenance` is that of A's generation; `model` names what drew both;
    `caption` is the prompt as captions write it, by default as it is.
    """

    prompt: str
    seed: int
    a: Method
    b: Method
    pictures: tuple[np.ndarray, np.ndarray] = field(repr=False, compare=False)
    psnr: float = field(compare=False)
    ssim: float = field(compare=False)
    speedup: float = field(compare=False)
    python: str = field(repr=False, compare=False)
    provenance: dict[str, Any] = field(repr=False, compare=False)
    model: str = ""
    caption: str = field(default="", compare=False)

    @property
    def title(self) -> str:
        """The prompt, as captions write it, and the seed."""
        return f"{self.caption or self.prompt}, seed {self.seed}"


def numbers(tried: Sequence[Tried]) -> pd.DataFrame:
    """Return one row for each: model, prompt, seed, methods, PSNR in dB, SSIM, speedup (FLOP)."""
    return pd.DataFrame(
        [
            {
                "model": t.model, "prompt": t.prompt, "seed": t.seed,
                "a": repr(t.a), "b": repr(t.b),
                "psnr": t.psnr, "ssim": t.ssim, "speedup_flop_bound": t.speedup,
            }
            for t in tried
        ]
    )  # fmt: skip


def page(tried: Sequence[Tried], title: str = "Exploration") -> str:
    """Write a web page that needs no other file and no other host.

    >>> from fastvar_lab.methods.prune import Dense
    >>> black = np.zeros((8, 8, 3), np.uint8)
    >>> one = Tried("a <b>", 1, Dense(), Dense(), (black, black), 100, 1, 1, "import x", {})
    >>> "a &lt;b&gt;, seed 1" in page([one]), "http" in page([one])
    (True, False)
    """
    parts = [_section(t) for t in tried]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body>'
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def _section(t: Tried) -> str:
    names = f"A: {family(t.a)}", f"B: {family(t.b)}"
    figures = "".join(
        f'<figure><img alt="{html.escape(name)}, {html.escape(t.prompt)}" '
        f'src="data:image/png;base64,{_base64(picture)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, picture in zip(names, t.pictures, strict=True)
    )
    rows = {
        "model": t.model,
        "PSNR of A to B": f"{t.psnr:.1f} dB",
        "SSIM of A to B": f"{t.ssim:.3f}",
        "operations": f"{t.speedup:.2f} times fewer than full generation, A",
        "method A": repr(t.a),
        "method B": repr(t.b),
    }
    table = "".join(f"<tr><th>{k}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
    origin = html.escape(json.dumps(t.provenance, indent=1, default=str))
    return (
        f"<section><h2>{html.escape(t.title)}</h2>{figures}<table>{table}</table>"
        f"<pre>{html.escape(t.python)}</pre><details><summary>provenance</summary>"
        f"<pre>{origin}</pre></details></section>"
    )


def _base64(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def write_report(path: str | Path, tried: Sequence[Tried], title: str = "Exploration") -> Path:
    """Write a folder: the page, the pictures, the numbers, the code and the provenance.

    Raises ValueError if nothing was tried, and OSError for a folder that cannot be written.
    """
    if not tried:
        raise ValueError("nothing was tried yet; there is nothing to report")
    place = folder(path)
    write_utf8(place / "index.html", page(tried, title))
    write(place / "numbers.csv", lambda p: numbers(tried).to_csv(p, index=False))
    write_json(place / "provenance.json", json.loads(
        json.dumps([t.provenance for t in tried], default=str)
    ))  # fmt: skip
    for i, t in enumerate(tried, 1):
        for name, picture in zip("ab", t.pictures, strict=True):
            write_image(place / f"{i:02d}{name}.png", picture)
        write_utf8(place / f"{i:02d}.py", t.python + "\n")
    return place
