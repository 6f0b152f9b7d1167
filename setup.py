"""Builds the native reader, and what is compiled of Python. Everything else about the package is in pyproject.toml."""

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
        *(
            Extension(
                f"pipeline_processing.rows.{name}",
                sources=[f"service/pipeline_processing/rows/{name}.py"],
                depends=[f"service/pipeline_processing/rows/{name}.pxd"] if name == "lazy_row" else [],
                extra_compile_args=["-O3", "-g0"],
                optional=True,  # without a compiler, the module runs as it is
            )
            for name in ("loops", "lazy_row")
        ),
    ],
    options={"build_ext": {"cython_c_in_temp": True}},
)
