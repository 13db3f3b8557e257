"""Importing this makes every later call that touches CUDA an error: what a fork server must not do."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

TOUCHES = ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_properties")


def refused(*arguments: Any, **more: Any) -> NoReturn:
    raise RuntimeError("CUDA was touched")


for name in TOUCHES:
    setattr(torch.cuda, name, refused)
