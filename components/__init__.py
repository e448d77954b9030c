"""One folder for each step: a thin KFP component that opens the inputs, validates the params, calls the step and logs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.python_component import PythonComponent

from dubmill import __version__

# On a cluster name images by digest: KFP's cache key holds this string, so a tag that moved would give old results.
IMAGE = os.environ.get("DUBMILL_IMAGE", f"dubmill/tools:{__version__}-cpu")
GPU_IMAGE = os.environ.get("DUBMILL_GPU_IMAGE", f"dubmill/gpu:{__version__}-cuda")  # for tasks on GPU nodes

PYTHON, EXEC_PYTHON = "python3 -m kfp.dsl.executor_main", "exec python3 -m kfp.dsl.executor_main"


def step_component(function: Callable[..., Any]) -> PythonComponent:
    """Makes a KFP component of a function that runs in the project's image; nothing is installed at run time.

    KFP starts Python as a child of `sh`, which does not pass SIGTERM on; with `exec` Python takes the place of the shell.
    """
    component = dsl.component(function, base_image=IMAGE, install_kfp_package=False)
    assert isinstance(component, PythonComponent)
    container = component.component_spec.implementation.container
    assert container is not None
    assert container.command
    container.command = [
        part.replace(PYTHON, EXEC_PYTHON) if isinstance(part, str) else part for part in container.command
    ]
    return component
