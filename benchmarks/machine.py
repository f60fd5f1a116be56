"""What a result depends on besides the code."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path


def description(command: str, engines: list[str]) -> dict[str, str]:
    """Facts for the head of the results."""
    threads = len(os.sched_getaffinity(0))
    model, flags = _cpu()
    return {
        "Processor": f"{model}, {threads} threads to run on",
        "Instruction sets": ", ".join(flags),
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "Software": "; ".join(engines),
        "Command": f"`{command}`",
        "Date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu() -> tuple[str, list[str]]:
    """The processor's name, and those of its instruction sets that matter here."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = set(re.findall(r"\w+", (re.search(r"^flags\s*: (.*)$", text, re.MULTILINE) or [""])[0]))
    known = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile"]
    return found[1] if found else platform.machine(), [name for name in known if name in flags]
