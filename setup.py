"""The package map: `kernels/` stands at the top level and is installed as `gemkern.kernels`."""

from setuptools import find_packages, setup

setup(
    packages=[
        "gemkern",
        *(f"gemkern.{name}" for name in find_packages("gemkern")),
        "gemkern.kernels",
        *(f"gemkern.kernels.{name}" for name in find_packages("kernels")),
    ],
    package_dir={"gemkern": "gemkern", "gemkern.kernels": "kernels"},
    package_data={"gemkern": ["py.typed"], "gemkern.kernels.gpu": ["ways.json"]},
)
