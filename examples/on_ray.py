"""Spread the jobs of a race over a Ray cluster, here one of this machine alone.

    python examples/on_ray.py

A race is a folder of jobs, and --engine ray lets a cluster run them. A race that was stopped goes
on when the script is started again. What it comes to lies in runs/on_ray. With --address HEAD:6379
the jobs run on the machines of a cluster that you started, which have to see this folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gemkern as gk


def race(folder: Path, *more: str) -> None:
    """Run the jobs that are left of the race in `folder`, one CPU each."""
    words = [
        *("race", "--engine", "ray", "--cpus-per-job", "1", "--out", str(folder), "--resume"),
        *("--data", "digits", "--methods", "gem-miner,random", "--density", "0.1"),
        *("--seeds", "1", "--epochs", "4", "--device", "cpu"),
        *("--set", "freeze_every=1", "--set", "score_optimizer=adam", "--set", "score_lr=0.05"),
        *("--set", "accelerate=never"),  # too small to compile kernels for
    ]
    subprocess.run([sys.executable, "-m", "gemkern", *words, *more], check=True)


def main(folder: Path = Path("runs/on_ray")) -> None:
    race(folder, *sys.argv[1:])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for run in results["runs"]:
        print(f"{run['method']}: {run['accuracy_after']:.1%} of the test images are right")
    for path in sorted(folder.glob("*.ticket.safetensors")):
        print(f"{path.name}: {gk.Ticket.load(path)}")


if __name__ == "__main__":
    main()
