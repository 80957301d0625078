"""What objproxy is and needs; the settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).with_name("README.md")
PACKAGE = Path(__file__).with_name("objproxy") / "__init__.py"

# mesa needs networkx to be imported at all, and asks for it in its extra alone.
EXAMPLES = ["lark>=1.2", "matplotlib>=3.8", "mesa[network]>=3.3,<4", "scikit-learn>=1.4"]

DASHBOARD = ["starlette>=0.40", "uvicorn>=0.30"]

EXTRAS = {
    "test": [
        "anyio>=4",
        "hypothesis>=6.100",
        "ipykernel>=6.29",
        "ipywidgets>=8",
        "mypy>=1.13",
        "nbclient>=0.10",
        "pandas>=2",
        "psutil>=5.9",
        "pytest>=9",
        "rich>=13",
        "ruff>=0.8",
        "threadpoolctl>=3.5",
        "trio>=0.25",
        *DASHBOARD,
        *EXAMPLES,  # a test runs every example
    ],
    "examples": EXAMPLES,
    "bench": [
        "dask[distributed]>=2024.1",
        "joblib>=1.4",
        "loky>=3.4",
        "matplotlib>=3.8",
        "mpire>=2.10",
        "mtasklite>=0.3",
        "objectproxypool>=0.0.8",
        "pebble>=5.0",
        "psutil>=5.9",
        "ray>=2.9",
        "workercontext>=0.1.1",
    ],
    # Further libraries, with which some tests run where they are installed; not all have wheels for every Python.
    "test-more": [
        "astropy>=6",
        "duckdb>=1",
        "eventlet>=0.36",
        "gevent>=24",
        "numba>=0.60",
        "opencv-python-headless>=4.9",
        "polars>=1",
        "pyarrow>=15",
        "pyinstaller>=6.9",
        "pytest-socket>=0.7",
        "spacy>=3.7",
        "torch>=2.2",
    ],
    "progress": ["ipywidgets>=8", "rich>=13"],
    "plot": ["matplotlib>=3.8"],
    "gpu": ["nvidia-ml-py>=12"],
    "dashboard": DASHBOARD,
}
EXTRAS["all"] = sorted({requirement for name, extra in EXTRAS.items() if name != "test-more" for requirement in extra})

setup(
    name="objproxy",
    version=re.search(r'^__version__ = "(.+)"$', PACKAGE.read_text(encoding="utf-8"), re.MULTILINE)[1],
    description="A pool of live objects, one in each worker process: call their methods as if they were one",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="the objproxy authors",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["objproxy", "objproxy.*"]),
    package_data={"objproxy": ["py.typed"], "objproxy._pyinstaller": ["rthooks.dat"], "objproxy.dashboard": ["static/*"]},
    entry_points={
        "console_scripts": ["objproxy = objproxy.dashboard.command:main"],
        "pyinstaller40": ["hook-dirs = objproxy._pyinstaller:get_hook_dirs"],
    },
    python_requires=">=3.11",
    install_requires=["cloudpickle>=3.0", "numpy>=1.24", "tqdm>=4.64"],
    extras_require=EXTRAS,
    keywords=["multiprocessing", "parallel", "pool", "actor", "proxy", "shared memory"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Programming Language :: Python :: 3.15",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
