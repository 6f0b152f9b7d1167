"""Builds the native reader and the compiled loops. Everything else about the package is in pyproject.toml."""

from setuptools import Extension, setup

FOLDER = "service/pipeline_processing/sources/postgres"

setup(
    ext_modules=[
        Extension(
            "pipeline_processing.sources.postgres.copy_stream",
            sources=[f"{FOLDER}/copy_stream.pyx"],
            depends=[
                f"{FOLDER}/{name}"
                for name in ("copy_floats.hpp", "copy_text.hpp", "copy_values.hpp", "copy_values.pxd")
            ],
            include_dirs=[FOLDER],
            language="c++",
            extra_compile_args=["-std=c++17", "-O3", "-g0"],
            optional=True,  # without a compiler, a cursor reads the rows
        ),
        Extension(
            "pipeline_processing.rows.loops",
            sources=["service/pipeline_processing/rows/loops.py"],
            extra_compile_args=["-O3", "-g0"],
            optional=True,  # without a compiler, the module runs as it is
        ),
    ],
    options={"build_ext": {"cython_c_in_temp": True}},
)
