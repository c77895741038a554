"""The native kernels of the CPU backend; everything else is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

SOURCES = Path("host/residue/backends/native")

setup(
    ext_modules=[
        Pybind11Extension(
            "residue.backends._native",
            sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in SOURCES.glob("*.hpp")),
            cxx_std=20,
            extra_compile_args=["-O3"],
            optional=True,  # without it the backend runs on gmpy2
        )
    ]
)
