"""Orders of HeatKV and drafters of ScaleKV, calibrated on models that ship here."""

from __future__ import annotations

ORDERS: dict[str, tuple[tuple[int, ...], ...]] = {}
DRAFTERS: dict[str, tuple[int, ...]] = {}
