"""What the tests of the pool start: ``python -m tests.pooled MODULE ...`` preloads, prints one line of JSON, and hangs.

JSON: the ids of its two workers and of their parent, the threads of that parent, and the modules that the workers found
imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mvp_bench.parallel import preload, worker_pool


def found(modules: list[str], seconds: float) -> dict[str, Any]:
    """What a worker sees; it takes its time, so that the other worker gets the other job."""
    time.sleep(seconds)
    imported = [name for name in modules if name in sys.modules]
    threads = len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))
    return {"worker": os.getpid(), "parent": os.getppid(), "threads": threads, "imported": imported}


def main(modules: list[str]) -> None:
    preload(*modules)
    with worker_pool(2) as pool:
        jobs = [pool.submit(found, modules, 0.3) for _ in range(2)]
        print(json.dumps([job.result() for job in jobs]), flush=True)
        for job in [pool.submit(time.sleep, 600) for _ in range(2)]:
            job.result()


if __name__ == "__main__":
    main(sys.argv[1:])
