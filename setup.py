"""Builds the native reader. Everything else about the package is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

FOLDER = "service/pipeline_processing/sources/postgres"

reader = Extension(
    "pipeline_processing.sources.postgres.copy_stream",
    sources=[f"{FOLDER}/copy_stream.pyx"],
    depends=[f"{FOLDER}/{name}.hpp" for name in ("copy_floats", "copy_text", "copy_values")],
    include_dirs=[FOLDER],
    language="c++",
    extra_compile_args=["-std=c++17", "-O3", "-g0"],
    optional=True,  # without a compiler, rows are read by a cursor
)

setup(ext_modules=cythonize([reader], build_dir="build", quiet=True))
