"""What a user installs: the wheel in a clean environment, and the package without its extras."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import gemkern

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(1200)
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"gemkern"}, "a top-level package called kernels belongs to another project"
    promised = {"py.typed", "kernels/reference/select_kth.py", "kernels/gpu/ways.json"}
    assert {f"gemkern/{name}" for name in promised} <= set(names)

    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel, cwd=tmp_path)
    where = run(
        python,
        "-c",
        "import gemkern, gemkern.kernels.reference as r; print(gemkern.__file__, r.__file__)",
        cwd=tmp_path,
    )
    assert str(ROOT) not in where
    assert gemkern.__version__ in run(python, "-m", "gemkern", "info", cwd=tmp_path)
    # Within a clone its own package is found first, and has its kernels beside it.
    there = run(python, "-c", "import gemkern.kernels as k; print(k.__file__)", cwd=ROOT)
    assert there.strip() == str(ROOT / "kernels" / "__init__.py")


def test_the_package_imports_without_what_is_optional(tmp_path: Path) -> None:
    blocked = ("triton", "numba", "sklearn")
    run(
        sys.executable,
        "-c",
        "import sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "import gemkern, gemkern.cli, gemkern.kernels.gpu, gemkern.kernels.cpu\n"
        "gemkern.models.build('resnet8', channels=1, image_size=8)",
        cwd=tmp_path,
    )


def test_the_front_door_is_this() -> None:
    assert sorted(gemkern.__all__) == [
        "GemMiner",
        "GemkernError",
        "IMP",
        "MaskedConv2d",
        "MaskedLinear",
        "MaskedSGD",
        "Race",
        "ScoreAdam",
        "ScoreSGD",
        "Ticket",
        "__version__",
        "accelerate",
        "acceleration",
        "convert",
        "data",
        "decelerate",
        "density",
        "mask_zeros",
        "masked_layers",
        "models",
        "nn",
        "ops",
        "optim",
        "race",
        "tickets",
        "training",
        "unconvert",
    ]
    assert all(hasattr(gemkern, name) for name in gemkern.__all__)
