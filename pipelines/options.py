"""The options that the commands compile, run and submit share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Pipeline(StrEnum):
    """The pipelines by name."""

    FULL = "full"
    DATA = "data"
    TRAIN = "train"
    RECURRING = "recurring"


Chosen = Annotated[Pipeline, typer.Option("--pipeline", help="which pipeline")]
DataRepository = Annotated[
    str, typer.Option("--data-repository", help="git repository of the data versions; empty: pairs are not versioned")
]
RolledEndpoint = Annotated[
    str, typer.Option("--endpoint", help="namespace/name of the InferenceService that a promotion rolls; empty: none")
]
Gitops = Annotated[
    str,
    typer.Option(
        "--gitops",
        help="REPOSITORY#BRANCH in which a promotion commits the endpoint's release, instead of calling the API",
    ),
]
DataBranch = Annotated[str, typer.Option("--data-branch", help="branch of that repository")]
DataRemote = Annotated[
    str, typer.Option("--data-remote", help="DVC remote of a repository that has none yet, such as s3://bucket/folder")
]
ParamsFile = Annotated[
    Path,
    typer.Option("--params", help="values of every section; a file with some sections only is merged over params.yaml"),
]
Overlays = Annotated[
    list[Path], typer.Option("--overlay", help="preset name, or YAML file with the values that differ; may be repeated")
]
Gpu = Annotated[
    bool | None,
    typer.Option("--gpu/--no-gpu", help="request GPUs; default: as the backbone needs", show_default=False),
]
Mlflow = Annotated[str, typer.Option("--mlflow", envvar="MLFLOW_TRACKING_URI", help="MLflow as the cluster sees it")]
Models = Annotated[str, typer.Option("--models", help="volume claim from which the endpoint reads models; empty: none")]
Work = Annotated[
    str,
    typer.Option(
        "--work",
        help="volume claim for unfinished work and large artifacts; empty: artifacts are copied through the object store",
    ),
]
Shards = Annotated[
    int,
    typer.Option("--shards", min=1, help="pods that share the work of synthesize, inpaint and dub (an Indexed Job)"),
]
TrainNodes = Annotated[
    int,
    typer.Option("--train-nodes", min=1, help="nodes that train together, each with --train-gpus (Kubeflow Trainer)"),
]
Queue = Annotated[str, typer.Option("--queue", help="LocalQueue of Kueue for these pods; empty: Kueue is not used")]
Priority = Annotated[str, typer.Option("--priority", help="WorkloadPriorityClass of Kueue for these pods")]
TrainGpus = Annotated[int, typer.Option("--train-gpus", min=1, help="GPUs of one node that train together")]
