"""Several prompts and seeds at once: the pictures of both methods in a row, the worst first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastvar_lab.experiments.explore import Sample, survey
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method
from fastvar_lab.widgets.fields import Area
from fastvar_lab.widgets.number_fields import Integer
from fastvar_lab.widgets.page import Strip, box, cell, heading
from fastvar_lab.widgets.panel import Live

MOST = 64  # pictures of one survey


class SurveyPanel(Live):
    """Draws every prompt with several seeds under two methods; a picked one goes to `pick`.

    `methods()` returns both methods, `request()` the prompt and seed on the page. `samples` are the
    last results, the worst PSNR first, and `drawn_by` the methods that drew them. They are dimmed
    unless these are `current`, the methods of the page, which `follow` tells.
    """

    def __init__(
        self,
        model: Model,
        methods: Callable[[], tuple[Method, Method]],
        request: Callable[[], tuple[str, int]],
        pick: Callable[[str, int], None],
    ) -> None:
        super().__init__()
        self.model, self.methods, self.request, self.pick = model, methods, request, pick
        self.samples: list[Sample]
        self.drawn_by: tuple[Method, Method] | None = None
        self.current: tuple[Method, Method] | None = None
        self.prompts = Area(
            "prompts, one a line", "", "Left empty, the prompt above is drawn with every seed."
        )
        self.seeds = Integer("seeds", 4, "How many seeds, from the one above on.", 1, MOST)
        self.strip = Strip(label="pictures, the worst first: pick one to open it", width=104)
        shown = box("fv-shown", self.strip)
        self.results = [shown]
        fields = box("fv-fields", self.prompts, self.seeds)
        row = box("fv-row", self.run_stop, self.status)
        self.children = (heading("Several prompts and seeds"), fields, row, shown)
        self.add_class("fv-part")
        self.release()
        self.strip.observe(lambda _: self._picked(self.strip.picked), "picks")

    @property
    def keeps_earlier(self) -> bool:
        return bool(self.samples)

    def update(self) -> None:
        prompt, seed = self.request()
        prompts = [line.strip() for line in self.prompts.value.splitlines() if line.strip()]
        prompts = prompts or [prompt]
        for field in (self.seeds, self.prompts):
            if field.invalid:
                raise ValueError(f"{field.label}: see what stands under it")
        self.prompts.error = ""
        try:
            for text in prompts:
                self.model.check(text)
        except ValueError as error:
            self.prompts.error = str(error)
            raise ValueError("prompts: see what stands under them") from None
        count = len(prompts) * self.seeds.value
        if count > MOST:
            raise ValueError(f"{count} pictures; a survey draws at most {MOST}")
        a, b = self.current = self.methods()

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            def done(n: int, of: int) -> None:
                self.status.say(f"{n} of {of} pictures")

            seeds = range(seed, seed + self.seeds.value)
            samples = survey(self.model, prompts, seeds, a, b, stopped, done)
            return lambda: self.show(samples, (a, b))

        self.ask(work)

    def follow(self, methods: tuple[Method, Method]) -> None:
        """Take over the methods of the page; dim the results unless they drew them."""
        with self.worker.lock:  # the results of a survey may come meanwhile
            self.current = methods
            if self.samples:
                self.stale(methods != self.drawn_by)

    def show(self, samples: list[Sample], methods: tuple[Method, Method]) -> None:
        """Show samples that two methods drew, the worst first."""
        self.samples, self.drawn_by = samples, methods
        captions = [self.model.caption(sample.prompt) for sample in samples]
        self.strip.picked = -1
        self.strip.cells = [
            cell(
                f"{s.psnr:.1f} dB",
                [(s.a, f"A: {caption}, seed {s.seed}"), (s.b, f"B: {caption}, seed {s.seed}")],
                [f"SSIM {s.ssim:.3f}", f"seed {s.seed}"],
                tip=caption,
            )
            for s, caption in zip(samples, captions, strict=True)
        ]
        low, q1, median, q3, high = np.quantile([s.psnr for s in samples], (0, 0.25, 0.5, 0.75, 1))
        self.status.say(
            f"PSNR of A to B in dB: median {median:.1f}, quartiles {q1:.1f} and {q3:.1f}, "
            f"{low:.1f} to {high:.1f} (n = {len(samples)})"
        )
        self.stale(self.drawn_by != self.current)

    def release(self) -> None:
        """Forget what was drawn, on the page too."""
        super().release()
        self.samples, self.strip.cells, self.strip.picked = [], [], -1
        self.status.say("A beside B for each, the worst PSNR first.")

    def _picked(self, index: int) -> None:
        if 0 <= index < len(self.samples):
            self.pick(self.samples[index].prompt, self.samples[index].seed)
