"""The one part of the package that is compiled; everything else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "ssd_core.ops._decode_nms_native",
            ["ssd_core/ops/decode_nms_native.cpp"],
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                # Rounding must depend neither on the compiler nor on the processor.
                "-ffp-contract=off",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
            ],
            language="c++",
            py_limited_api=True,  # knows nothing of Python: one library for all its versions
            optional=True,  # without a compiler NumPy stands in
        )
    ]
)
